"""The accounting program: check values, two speeds, prices, limits, and plans that go by it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from occupancy_program import fluid_value
from random_laws import random_instance

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.fleet import GpuGroup
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.planning import PRICINGS
from llm_sched_env.planning.accounting_program import AccountingProgram
from llm_sched_env.planning.arrival_paths import expected_arrivals
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.fluid_solution import one_group_program
from llm_sched_env.planning.horizon_program import HorizonProgram
from llm_sched_env.planning.linear_program import objective
from llm_sched_env.planning.look_ahead_plans import look_ahead_plans
from llm_sched_env.planning.slot_prices import critical_scale, slot_prices
from llm_sched_env.planning.slot_ranks import slot_bids, slot_ranks
from llm_sched_env.planning.traffic_bound import WITHIN_STEPS, traffic_bound

FAST = Hardware.kv_aware(
    SoloIteration(8.04e-3, 8.69e-5, 1.36e-8), MixedIteration(1.66e-2, 0.0, 1.64e-4), 512, 32
)
SLOW = Hardware.kv_aware(
    SoloIteration(1.4e-2, 1.2e-4, 4e-8), MixedIteration(4.0e-2, 0.0, 2e-4, 4e-8), 512, 32
)
BOUNDARY = {"starts": "boundary", "padded_chunks": True}
CLASSES = (
    lse.RequestClass("long answers", 300.0, 500.0, 6.0, 0.1),
    lse.RequestClass("short answers", 900.0, 120.0, 18.0, 0.1),
)
LINK = 2e5
every_pricing = pytest.mark.parametrize("pricing", PRICINGS)


def instance_of(hardware=FAST, load=1.0, **options):
    own = dataclasses.replace(hardware, **options)
    return lse.Instance("mixture", CLASSES, own, lse.Prices(0.1, 0.2)).scaled(load)


def solved(instance, groups, pricing="bundled"):
    program = AccountingProgram(instance, groups, instance.arrival_rates, pricing)
    optimum = program.optimum()
    return program, program.accounts(optimum.columns), program.prices(optimum)


def split(share):
    return [
        GpuGroup("prefill", FAST, share, "prefill", LINK),
        GpuGroup("decode", FAST, 1.0 - share, "decode", LINK),
    ]


GROUPS = {
    "fast": ([GpuGroup("fast", FAST)], 1891.5550563952),
    "half slow": ([GpuGroup("fast", FAST, 0.5), GpuGroup("slow", SLOW, 0.5)], 1480.3165072382),
    "slow": ([GpuGroup("slow", SLOW)], 929.6443298146),
    "20% prefill": (split(0.2), 1090.0302674546),
    "40% prefill": (split(0.4), 1588.6070379403),
    "60% prefill": (split(0.6), 1123.7616442407),
}


# Values


@pytest.mark.parametrize("case", GROUPS)
def test_known_values(case):
    groups, value = GROUPS[case]
    _, found, prices = solved(instance_of(), groups)
    assert found.value == pytest.approx(value, rel=1e-10)
    # All that is scarce, at its price, is the value.
    worth = prices.arrival @ instance_of().arrival_rates
    for g, group in enumerate(groups):
        links = group.link_tokens * prices.links[g] if prices.links[g] else 0.0
        worth += group.share * (prices.time[g] + links)
    assert worth == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("case", GROUPS)
def test_an_optimum_keeps_its_accounts(case):
    groups, _ = GROUPS[case]
    program, found, _ = solved(instance_of(), groups)
    arriving, leaving = found.moved.sum(axis=1).T, found.moved.sum(axis=2).T
    assert found.decodes == pytest.approx(arriving)
    assert (found.prefills + 1e-7 >= leaving).all()
    assert (found.prefills.sum(axis=0) <= instance_of().arrival_rates + 1e-7).all()
    for g, group in enumerate(groups):
        mixed, solo = found.iterations[:, g]
        tokens, context = found.tokens[:, g].sum(axis=1), found.context[:, g].sum(axis=1)
        assert tokens[0] <= 31 * mixed + 1e-6
        assert tokens[1] <= 32 * solo + 1e-6
        law_m, law_s = group.hardware.mixed, group.hardware.solo
        seconds = solo * law_s.seconds + law_s.per_decode * tokens[1]
        seconds += mixed * law_m.seconds + law_m.per_decode * tokens[0]
        seconds += law_s.per_kv_token * context[1] + law_m.per_kv_token * context[0]
        assert seconds <= group.share * (1 + 1e-9)
        assert context.sum() == pytest.approx(found.decodes[g] @ program.decode_context[g])
        if group.role == "prefill":
            assert found.decodes[g].sum() == 0
        if group.role == "decode":
            assert found.prefills[g].sum() == 0


def test_known_values_of_two_speeds():
    base = lse.presets.base()
    for pricing, value in (("bundled", 297.70316986), ("separate", 298.58655675)):
        _, found, _ = solved(base, [GpuGroup("all", base.hardware)], pricing)
        assert found.value == pytest.approx(value, rel=1e-8)
        assert lse.plan(base, pricing).value == pytest.approx(found.value, rel=1e-10)


@every_pricing
@pytest.mark.parametrize("seed", range(8))
def test_with_two_speeds_it_is_the_program_of_the_paper(seed, pricing):
    drawn = random_instance(np.random.default_rng(seed))
    chunking = ("exact", "ceil")[seed % 2]
    two_speeds = Hardware(
        drawn.hardware.alpha, drawn.hardware.beta, drawn.hardware.gamma, 256, 16, chunking=chunking
    )
    instance = dataclasses.replace(drawn, hardware=two_speeds)
    value = one_group_program(instance, pricing).optimum()
    found = one_group_program(instance, pricing).accounts(value.columns).value
    assert found == pytest.approx(fluid_value(instance, pricing), rel=1e-9)
    assert found == pytest.approx(lse.plan(instance, pricing).value, rel=1e-9)


@every_pricing
@pytest.mark.parametrize("starts", ["immediate", "boundary"])
def test_coefficients_that_vanish_leave_two_speeds(pricing, starts):
    tiny = Hardware.kv_aware(
        SoloIteration(8e-3, 1e-13, 1e-17),
        MixedIteration(1.6e-2, 1e-5, 1e-13, 1e-17, 1e-17),
        256,
        16,
        starts=starts,
        chunking="ceil",
        padded_chunks=True,
    )
    plain = Hardware(1.6e-2, 1e-5, 1 / 8e-3, 256, 16, starts=starts, chunking="ceil")
    law, two_speeds = (lse.plan(instance_of(own, 0.5), pricing) for own in (tiny, plain))
    assert law.value == pytest.approx(two_speeds.value, rel=1e-7)
    for name in ("x", "admission_fraction", "mixed_fraction"):
        assert getattr(law, name) == pytest.approx(getattr(two_speeds, name), rel=1e-6, abs=1e-9)
    for name, price in two_speeds.duals.items():
        assert law.duals[name] == pytest.approx(price, rel=1e-6, abs=1e-6)
    for mine, known in zip(slot_ranks(law, 5), slot_ranks(two_speeds, 5), strict=True):
        assert mine == pytest.approx(known, rel=1e-5, abs=1e-6)


LAW = {
    "solo": ("seconds", "per_decode", "per_kv_token"),
    "mixed": (
        "seconds",
        "per_prompt_token",
        "per_decode",
        "per_kv_token",
        "per_prompt_token_context",
    ),
}


@pytest.mark.parametrize(("part", "name"), [(p, n) for p, names in LAW.items() for n in names])
def test_slower_iterations_never_earn_more(part, name):
    for seed in range(6):
        instance = random_instance(np.random.default_rng(seed), load=2.0)
        hardware = instance.hardware
        parts = {"solo": hardware.solo, "mixed": hardware.mixed}
        before = getattr(parts[part], name)
        parts[part] = dataclasses.replace(parts[part], **{name: 1.5 * before + 1e-9})
        slower = Hardware.kv_aware(
            parts["solo"],
            parts["mixed"],
            hardware.chunk_tokens,
            hardware.batch_slots,
            starts=hardware.starts,
            padded_chunks=hardware.padded_chunks,
        )
        value = lse.plan(dataclasses.replace(instance, hardware=slower)).value
        assert value <= lse.plan(instance).value * (1 + 1e-9)


# Prices


@every_pricing
def test_prices_are_what_one_more_earns(pricing):
    step = 1e-5
    instance = instance_of(load=0.5)
    program, found, prices = solved(instance, [GpuGroup("all", FAST, 0.9)], pricing)
    for i in range(instance.n_classes):
        rates = instance.arrival_rates + step * np.eye(2)[i]
        more = AccountingProgram(instance, program.groups, rates, pricing)
        gain = more.accounts(more.optimum().columns).value - found.value
        assert prices.arrival[i] == pytest.approx(gain / step, rel=1e-4, abs=1e-4)
    _, more, _ = solved(instance, [GpuGroup("all", FAST, 0.9 + step)], pricing)
    assert prices.time[0] == pytest.approx((more.value - found.value) / step, rel=1e-4)


def test_memory_and_links_have_prices():
    fixed = lse.LengthDistribution("deterministic")
    classes = tuple(
        dataclasses.replace(c, prompt_lengths=fixed, output_lengths=fixed) for c in CLASSES
    )
    limited = dataclasses.replace(FAST, kv_tokens=10_000)
    instance = dataclasses.replace(instance_of(limited), classes=classes)
    _, found, prices = solved(instance, [GpuGroup("all", limited)])
    wider = dataclasses.replace(limited, kv_tokens=10_001)
    _, more, _ = solved(instance, [GpuGroup("all", wider)])
    gain = float((prices.memory * found.iterations).sum())
    assert gain > 0
    assert more.value - found.value == pytest.approx(gain, rel=1e-3)
    groups = split(0.2)
    narrow = [dataclasses.replace(group, link_tokens=2e4) for group in groups]
    _, found, prices = solved(instance, narrow)
    wider = [dataclasses.replace(group, link_tokens=2e4 + 1.0) for group in groups]
    _, more, _ = solved(instance, wider)
    assert prices.links[0] > 0
    assert more.value - found.value == pytest.approx(0.2 * prices.links[0], rel=1e-4)


@every_pricing
@pytest.mark.parametrize("seed", range(10))
def test_net_values_say_who_is_served(seed, pricing):
    """Reduced costs: the whole class above 0, nobody below."""
    instance = random_instance(np.random.default_rng(seed), load=2.0, kv_limit=seed % 2 == 0)
    fluid = lse.plan(instance, pricing)
    if not fluid.duals["time"]:
        return
    bids = slot_bids(fluid, slot_prices(fluid, 5))
    served = fluid.admission_fraction
    revenue = fluid.instance.bundled_revenues
    assert (served[bids.prefill > 1e-6 * revenue] >= 1 - 1e-6).all()
    assert (served[bids.prefill < -1e-6 * revenue] <= 1e-6).all()
    expected = np.maximum(bids.prefill, 0.0)
    assert fluid.duals["arrival"] == pytest.approx(expected, abs=1e-5 * revenue.max())


# Plans


@every_pricing
@pytest.mark.parametrize("options", [{}, BOUNDARY, {"kv_tokens": 12_000}], ids=str)
@pytest.mark.parametrize("load", [0.02, 0.3, 0.5, 1.0])
def test_the_speeds_of_a_plan_give_its_occupancies(load, options, pricing):
    given = instance_of(load=load, **options)
    fluid = lse.plan(given, pricing)
    instance, slots = fluid.instance, 32
    assert fluid.given is given
    assert instance.hardware.iteration_law == "two-speed"
    x, y_m, y_s = fluid.x, fluid.y_mixed, fluid.y_solo
    assert x.sum() <= 1 + 1e-9
    assert y_m.sum() <= (slots - 1) * x.sum() + 1e-9
    assert y_s.sum() <= slots * (1 - x.sum()) + 1e-9
    waiting = np.zeros_like(x)
    columns = np.concatenate([x, y_m, y_s, waiting, waiting])
    assert objective(instance, pricing) @ columns == pytest.approx(fluid.value, rel=1e-9)
    decoded = instance.mixed_decode_rates * y_m + instance.solo_decode_rates * y_s
    prefilled = instance.prefill_rates * x
    theta = instance.patience_rates
    assert prefilled == pytest.approx(decoded + theta * fluid.q_decode, rel=1e-7, abs=1e-9)
    assert prefilled + theta * fluid.q_prefill == pytest.approx(instance.arrival_rates)
    (group,) = fluid.groups
    assert 0 < group["time"] <= 1
    assert group["prefills"] == pytest.approx(prefilled)
    assert group["decodes"] == pytest.approx(decoded)
    assert y_s.sum() / instance.hardware.tau_solo <= slots * group["solo_iterations"] + 1e-6
    assert json.loads(json.dumps(fluid.to_dict(), allow_nan=False))["groups"] == fluid.groups


def test_mean_iterations_lie_between_an_empty_and_a_full_batch():
    for load in (0.02, 0.3, 1.0):
        hardware = lse.plan(instance_of(load=load)).instance.hardware
        assert FAST.solo.seconds < hardware.tau_solo < FAST.solo.time(32, 32 * 2000)
        assert FAST.mixed.seconds <= hardware.tau_mixed <= FAST.mixed.time(512, 0, 31, 0)


def test_iterations_that_a_plan_does_not_have_are_full_ones():
    """One class whose decodes all fit beside its prefills: no solo iterations."""
    reading = lse.RequestClass("reading", 4000.0, 2.0, 50.0, 0.1)
    instance = dataclasses.replace(instance_of(), classes=(reading,))
    fluid = lse.plan(instance)
    assert fluid.y_solo.sum() == pytest.approx(0.0, abs=1e-9)
    assert fluid.instance.hardware.tau_solo == pytest.approx(FAST.solo.time(32, 32 * 4002.0))


@pytest.mark.parametrize("options", [{}, BOUNDARY], ids=str)
def test_all_that_reads_a_plan_reads_this_one(options):
    given = instance_of(load=0.5, **options)
    fluid = lse.plan(given)
    assert np.isfinite(class_profile(fluid, 5).features).all()
    rates = fluid.instance.arrival_rates
    near = HorizonProgram(fluid, [1.0, 2.0, 4.0]).solve(fluid.occupancy, rates)
    assert near.revenue.sum() == pytest.approx(7.0 * fluid.value, rel=0.05)
    path = lse.planning.fluid_path(fluid, 30.0)
    assert np.isfinite(path.occupancy).all()
    limited = lse.plan(given, slos=["tpot@limit=0.014"])
    assert limited.revenue_rate <= limited.value * (1 + 1e-9)
    assert limited.slos["tpot"].value <= 0.014 * (1 + 1e-9)
    assert limited.value == pytest.approx(fluid.value)


def test_plans_of_other_rates_go_by_the_law_itself():
    profile = lse.ArrivalProfile([0.0, 30.0, 60.0], [0.5, 1.5, 0.5])
    classes = tuple(dataclasses.replace(c, arrival_profile=profile) for c in CLASSES)
    given = dataclasses.replace(instance_of(load=0.5), classes=classes).scaled(0.5)
    plans = look_ahead_plans(lse.plan(given), 60.0, 5.0)
    assert len(plans) > 2
    for _, fluid in plans:
        assert fluid.given.hardware == FAST
        rates = fluid.given.arrival_rates
        own = dataclasses.replace(
            instance_of(),
            classes=tuple(
                dataclasses.replace(c, arrival_rate=float(r))
                for c, r in zip(CLASSES, rates, strict=True)
            ),
        )
        assert fluid.value == pytest.approx(lse.plan(own).value)


@pytest.mark.parametrize("options", [{}, BOUNDARY, {"kv_tokens": 12_000}], ids=str)
def test_at_the_critical_load_everybody_is_just_served(options):
    instance = instance_of(**options)
    scale = critical_scale(instance)
    below, above = (lse.plan(instance.scaled(scale * by)) for by in (1 - 1e-6, 1 + 1e-3))
    assert (below.admission_fraction == 1).all()
    assert above.admission_fraction.min() < 1
    easy = slot_prices(lse.plan(instance.scaled(0.5 * scale)), 1)
    assert 0 < easy.slot < slot_prices(above, 1).slot


# A KV limit


@every_pricing
def test_a_wide_limit_changes_nothing(pricing):
    for own in (FAST, lse.presets.QWEN_8B_A100):
        free, wide = (
            lse.plan(instance_of(own, 0.5, kv_tokens=limit), pricing) for limit in (None, 10**7)
        )
        assert wide.value == pytest.approx(free.value, rel=1e-9)
        assert wide.x == pytest.approx(free.x, rel=1e-7)
        assert wide.solo_probability == pytest.approx(free.solo_probability, rel=1e-7)


def test_scarce_memory_is_accounted_for():
    """Deterministic lengths, decodes alone: M tokens hold M / mean context of them."""
    fixed = lse.LengthDistribution("deterministic")
    only = lse.RequestClass("only", 1.0, 1000.0, 5.0, 0.1, fixed, fixed)
    base = dataclasses.replace(lse.presets.base(), classes=(only,))
    hardware = dataclasses.replace(base.hardware, kv_tokens=2000)
    limited = dataclasses.replace(base, hardware=hardware)
    fluid = lse.plan(limited)
    assert fluid.value < 0.5 * lse.plan(base).value
    decodes = 2000 / (1.0 + 1000.0 / 2)
    assert fluid.y_solo.sum() + fluid.y_mixed.sum() == pytest.approx(decodes, rel=1e-4)
    assert fluid.duals["solo_memory"] > 0
    assert fluid.duals["solo_decode_capacity"] == pytest.approx(0.0, abs=1e-9)


# Other bounds, and what is refused


@pytest.mark.parametrize("within_steps", WITHIN_STEPS)
@pytest.mark.parametrize("options", [{}, {"starts": "boundary"}, BOUNDARY], ids=str)
@pytest.mark.parametrize("hardware", [FAST, SLOW], ids=["fast", "slow"])
def test_a_further_second_of_the_hindsight_bound_is_worth_r_star(hardware, options, within_steps):
    instance = instance_of(hardware, **options)

    def earned(horizon):
        path = expected_arrivals(instance, horizon=horizon, seconds=1.0)
        return horizon * traffic_bound(instance, path, within_steps=within_steps)

    further, value = (earned(60.0) - earned(40.0)) / 20.0, lse.plan(instance).value
    assert value * (1 - 1e-7) <= further <= 1.15 * value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"role": "both"}, "mixed, prefill or decode"),
        ({"link_tokens": -1.0}, "link"),
    ],
)
def test_a_group_that_cannot_be(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        GpuGroup("own", FAST, **changes)
