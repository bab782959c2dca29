"""What the corrected rule is told about classes: bounded, and free of units, order and scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_cases import KINDS, general_instance

import llm_sched_env as lse
from llm_sched_env.model.instance import Instance, Prices
from llm_sched_env.model.priority_network import CLASS_FEATURES, ClassProfile
from llm_sched_env.planning import plan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_prices import critical_scale
from research.rule_training.scenarios import random_scenario

PER_CLASS = (
    "features", "prefill_cost", "decode_cost", "prefill_time_priority", "planned_slots",
    "load_seconds",
)  # fmt: skip
UNITS = ("slot_scale", "rank_scale", "ahead_seconds")


def instances() -> list[Instance]:
    base, overload = lse.presets.base(), lse.presets.overload()
    quiet = base.scaled(0.3)
    only_prefill_pays = replace(base, prices=Prices(0.1, 0.0))
    impatient = replace(
        overload, classes=tuple(replace(c, patience_rate=0.0) for c in overload.classes)
    )
    return [
        base, overload, lse.presets.dolly15k(), quiet, only_prefill_pays, impatient,
        *(general_instance(kind) for kind in KINDS),
        *(random_scenario(k, seed=9).instance for k in range(30)),
    ]  # fmt: skip


INSTANCES = instances()


def assert_same(a: ClassProfile, b: ClassProfile, rtol: float = 1e-7) -> None:
    for name in (*PER_CLASS, *UNITS):
        np.testing.assert_allclose(
            getattr(a, name), getattr(b, name), rtol=rtol, atol=1e-9, err_msg=name
        )


@pytest.mark.parametrize("n_gpus", [1, 8, 300])
@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_profiles_are_bounded(pricing: str, n_gpus: int) -> None:
    for instance in INSTANCES:
        fluid = plan(instance, pricing)
        profile = class_profile(fluid, n_gpus)
        assert profile.features.shape == (instance.n_classes, len(CLASS_FEATURES))
        assert np.isfinite(profile.features).all()
        assert np.abs(profile.features).max() <= 1.0
        for name in ("prefill_cost", "decode_cost"):
            assert np.isfinite(getattr(profile, name)).all()
        assert (profile.decode_cost >= 0).all()
        assert (profile.load_seconds > 0).all()
        slots = n_gpus * instance.hardware.batch_slots
        assert (profile.planned_slots >= 0).all()
        assert 0 < profile.planned_slots.sum() <= slots * (1 + 1e-9)
        assert min(getattr(profile, name) for name in UNITS) > 0
        assert profile.slot_scale**2 == pytest.approx(slots / 16)


def test_features_tell_instances_apart() -> None:
    rows = np.concatenate([class_profile(plan(instance), 5).features for instance in INSTANCES])
    varied = np.ptp(rows, axis=0)
    constant = [name for name, v in zip(CLASS_FEATURES, varied, strict=True) if v < 0.05]
    # They are all on clusters of five.
    assert constant == ["cluster size"]
    sizes = [class_profile(plan("base"), n).features[0, -2] for n in (1, 20, 300)]
    assert sizes == sorted(sizes)
    assert sizes[1] == 0.0
    precedes = CLASS_FEATURES.index("precedes decodes")
    assert set(rows[:, precedes]) == {-1.0, 1.0}
    assert class_profile(plan("overload", "separate"), 5).features[:, precedes].max() == 1.0


@pytest.mark.parametrize("instance", INSTANCES[1:3], ids=lambda i: i.name)
@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_permuted_classes_have_permuted_rows(instance: Instance, pricing: str) -> None:
    order = np.random.default_rng(1).permutation(instance.n_classes)[::-1]
    if (order == np.arange(len(order))).all():
        order = order[::-1]
    permuted = replace(instance, classes=tuple(instance.classes[i] for i in order))
    own = class_profile(plan(instance, pricing), 7)
    other = class_profile(plan(permuted, pricing), 7)
    rows = {name: getattr(own, name)[order] for name in PER_CLASS}
    if pricing == "separate":
        # Tokens pay alike whoever decodes: which class does is the solver's vertex.
        assert rows["planned_slots"].sum() == pytest.approx(other.planned_slots.sum())
        rows["planned_slots"] = other.planned_slots
    assert_same(replace(own, **rows), other)


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_the_unit_of_money_is_only_in_ranks_and_costs(pricing: str) -> None:
    for instance in INSTANCES[:12]:
        prices = instance.prices
        dearer = replace(instance, prices=Prices(2 * prices.prefill, 2 * prices.decode))
        own = class_profile(plan(instance, pricing), 7)
        money = {
            name: 2 * getattr(own, name)
            for name in ("prefill_cost", "decode_cost", "prefill_time_priority")
        }
        assert_same(
            replace(own, **money, rank_scale=2 * own.rank_scale),
            class_profile(plan(dearer, pricing), 7),
            rtol=1e-6,
        )


def test_the_unit_of_time_is_only_in_seconds() -> None:
    """A cluster that is twice as slow, with half the traffic and twice the patience."""
    for name in ("overload", "dolly15k"):
        instance = lse.presets.PRESETS[name]()
        hardware = instance.hardware
        slower = replace(
            instance,
            hardware=replace(
                hardware,
                alpha=2 * hardware.alpha,
                beta=2 * hardware.beta,
                gamma=hardware.gamma / 2,
            ),
            classes=tuple(
                replace(c, arrival_rate=c.arrival_rate / 2, patience_rate=c.patience_rate / 2)
                for c in instance.classes
            ),
        )
        own = class_profile(plan(instance), 7)
        seconds = {"load_seconds": 2 * own.load_seconds, "ahead_seconds": 2 * own.ahead_seconds}
        assert_same(replace(own, **seconds), class_profile(plan(slower), 7), rtol=1e-6)


def test_load_seconds_add_up_to_the_load_where_decode_slots_run_out_first() -> None:
    checked = 0
    for fluid in map(plan, INSTANCES):
        instance = fluid.instance
        work = (instance.arrival_rates / instance.prefill_rates).sum()
        scale = critical_scale(fluid.given)
        hardware = instance.hardware
        slots_suffer = (hardware.batch_slots - 1) / hardware.tau_mixed <= (
            hardware.batch_slots / hardware.tau_solo
        )
        load = class_profile(fluid, 3).load_seconds @ instance.arrival_rates
        if instance.hardware.kv_tokens is not None:
            assert load <= 1 / scale * (1 + 1e-9)  # or memory runs out before
        elif slots_suffer and scale * work < 1 - 1e-9:
            checked += 1
            assert load == pytest.approx(1 / scale, rel=1e-12)
        elif slots_suffer:
            assert load < 1 / scale * (1 + 1e-12)  # GPUs run out of prefill slots before
    assert checked > 20


def test_prefill_time_ranks_by_what_a_second_of_prefill_earns() -> None:
    """Of the base instance by hand: 230 for 2 chunks, 380 for 12; the unit is 380."""
    ranks = class_profile(plan("overload"), 5).prefill_time_priority
    per_token = np.array([230 / 300, 380 / 3000])
    np.testing.assert_allclose(ranks, 380 * per_token / per_token.max())
    for fluid in map(plan, INSTANCES[:12]):
        profile = class_profile(fluid, 3)
        assert profile.prefill_time_priority.max() == pytest.approx(profile.rank_scale)
        assert profile.prefill_time_priority.min() > 0


def test_a_bid_is_the_share_of_revenue_that_remains() -> None:
    """Of the base instance by hand: w - price, from the plan's own duals."""
    fluid = plan("overload")
    instance, profile = fluid.instance, class_profile(fluid, 5)
    revenue = instance.bundled_revenues
    paid = profile.prefill_cost / revenue
    bids = dict(zip(CLASS_FEATURES, profile.features.T, strict=True))
    np.testing.assert_allclose(bids["admission bid"], np.clip(1 - paid, -1, 1), atol=2e-6)
    np.testing.assert_allclose(
        bids["decode bid"], np.clip(1 - profile.decode_cost / revenue, -1, 1), atol=2e-6
    )
    # Complementary slackness: admitted whole, in part, not at all.
    whole, none = bids["admitted share"] == 1, bids["admitted share"] == -1
    assert (bids["admission bid"][whole] >= 0).all()
    assert (bids["admission bid"][none] <= 0).all()
    assert (np.abs(bids["admission bid"][~whole & ~none]) < 1e-5).all()
