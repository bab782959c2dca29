"""The fluid plan: known values, a certificate of optimality, the canonical split and edge cases."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import PRICINGS, FluidPlan, plan
from llm_sched_env.planning.fluid_plan import mixed_pool_size

TOLERANCE = 1e-8
A100 = presets.QWEN_8B_A100
# gamma tau_mix = 0.5, below (B - 1) / B: mixed GPUs decode more than solo ones.
FAST_MIXING = Hardware(alpha=0.0125, beta=0.0, gamma=40.0, chunk_tokens=256, batch_slots=16)
CHAT = RequestClass("chat", 300, 1000, 0.5, 0.1)
READING = RequestClass("reading", 3000, 400, 0.5, 0.1)


def instance_of(
    *classes: RequestClass, hardware: Hardware = A100, prices: Prices = presets.PAPER_PRICES
) -> Instance:
    return Instance("test", classes, hardware, prices)


def with_patience_rate(instance: Instance, theta: float) -> Instance:
    classes = tuple(dataclasses.replace(c, patience_rate=theta) for c in instance.classes)
    return dataclasses.replace(instance, classes=classes)


def has_optimum_without_decode_queue(instance: Instance) -> bool:
    """Proposition 3.2."""
    hardware = instance.hardware
    tau = hardware.alpha + hardware.beta * hardware.chunk_tokens
    return hardware.gamma * tau >= (hardware.batch_slots - 1) / hardware.batch_slots


def revenue_coefficients(instance: Instance, pricing: str) -> tuple[np.ndarray, ...]:
    """Revenue per unit of x, y_m and y_s: the objectives of (40) and (42); each of shape (I,)."""
    hardware, prices = instance.hardware, instance.prices
    ones = np.ones(instance.n_classes)
    tau = hardware.alpha + hardware.beta * hardware.chunk_tokens
    if pricing == "separate":
        return (
            ones * prices.prefill * hardware.chunk_tokens / tau,
            ones * prices.decode / tau,
            ones * prices.decode * hardware.gamma,
        )
    p, d = instance.prompt_tokens, instance.output_tokens
    w = prices.prefill * p + prices.decode * d
    return 0 * ones, w / (d * tau), w * hardware.gamma / d


def certify(fluid: FluidPlan) -> None:
    """Optimality of a plan by its shadow prices: the KKT conditions of (40) or (42).

    With q_d eliminated (Proposition 3.2) nothing is asked of the price of waiting prefilled
    requests: (52).
    """
    instance, duals = fluid.instance, fluid.duals
    slots, gamma = instance.hardware.batch_slots, instance.hardware.gamma
    tau = instance.hardware.alpha + instance.hardware.beta * instance.hardware.chunk_tokens
    arrivals, theta = instance.arrival_rates, instance.patience_rates
    mu_p = instance.hardware.chunk_tokens / (instance.prompt_tokens * tau)
    mu_m, mu_s = 1 / (instance.output_tokens * tau), gamma / instance.output_tokens
    x, y_m, y_s = fluid.x, fluid.y_mixed, fluid.y_solo
    q_p, q_d = fluid.q_prefill, fluid.q_decode

    # Primal feasibility, with the stock that a balance with theta = 0 lets grow.
    free = np.array(
        [1 - x.sum(), (slots - 1) * x.sum() - y_m.sum(), slots * (1 - x.sum()) - y_s.sum()]
    )
    unadmitted = arrivals - mu_p * x
    unfinished = mu_p * x - mu_m * y_m - mu_s * y_s
    negligible = TOLERANCE * arrivals
    for variable in (x, y_m, y_s, q_p, q_d):
        assert (variable >= 0).all()
    assert (free >= -TOLERANCE * slots).all()
    for excess, queue in ((unadmitted, q_p), (unfinished, q_d)):
        left = np.where(theta > 0, theta * np.where(np.isinf(queue), 0, queue), 0)
        growing = np.isinf(queue)
        assert (excess >= -negligible).all()
        assert (abs(excess - left)[~growing] <= negligible[~growing]).all()
        assert not (growing & (theta > 0)).any()

    # Dual feasibility: no variable earns more than the capacity that it takes.
    capacity = np.array(
        [duals[f"{name}_capacity"] for name in ("prefill", "mixed_decode", "solo_decode")]
    )
    arrival, prefilled = duals["arrival"], duals["prefilled"]
    ones = np.ones(instance.n_classes)
    r_x, r_m, r_s = revenue_coefficients(instance, fluid.pricing)
    u_p, u_m, u_s = capacity[:, None] * ones
    terms = {
        "x": (x, r_x, -u_p, (slots - 1) * u_m, -slots * u_s, -mu_p * arrival, mu_p * prefilled),
        "y_m": (y_m, r_m, -u_m, -mu_m * prefilled),
        "y_s": (y_s, r_s, -u_s, -mu_s * prefilled),
    }
    magnitude = max(abs(np.array(part[1:])).max() for part in terms.values())
    assert (capacity >= -TOLERANCE * magnitude).all()
    assert (arrival * mu_p >= -TOLERANCE * magnitude).all()
    eliminated = fluid.pricing == "bundled" and has_optimum_without_decode_queue(instance)
    if eliminated:
        assert (q_d == 0).all()
    else:
        assert (prefilled * mu_p >= -TOLERANCE * magnitude).all()

    # Complementary slackness, in currency, and no gap.
    for variable, *parts in terms.values():
        margin = np.sum(parts, axis=0)
        assert (margin <= TOLERANCE * magnitude).all()
        assert abs(variable * margin).max() <= TOLERANCE * fluid.value
    assert abs(capacity * free).max() <= TOLERANCE * fluid.value
    assert abs(arrival * unadmitted).max() <= TOLERANCE * fluid.value
    if not eliminated:
        assert abs(prefilled * unfinished).max() <= TOLERANCE * fluid.value
    price_of_everything = capacity[0] + slots * capacity[2] + arrival @ arrivals
    assert price_of_everything == pytest.approx(fluid.value, rel=TOLERANCE)
    assert r_x @ x + r_m @ y_m + r_s @ y_s == pytest.approx(fluid.value, rel=TOLERANCE)


def check_canonical_split(fluid: FluidPlan) -> None:
    """One solo probability for all served classes, as large as the solo slots allow."""
    instance = fluid.instance
    mixed, solo = (
        instance.mixed_decode_rates * fluid.y_mixed,
        instance.solo_decode_rates * fluid.y_solo,
    )
    served = mixed + solo > 0
    assert (fluid.solo_probability[~served] == 1).all()
    if served.any():
        share = fluid.solo_probability[served]
        assert np.ptp(share) == 0
        assert solo[served] / (mixed + solo)[served] == pytest.approx(share, abs=1e-12)
        full = instance.hardware.batch_slots * (1 - fluid.x.sum())
        if share[0] < 1:
            assert fluid.y_solo.sum() == pytest.approx(full, rel=1e-9, abs=1e-9)


def check_readings(fluid: FluidPlan) -> None:
    """What a scheduler reads off the plan, in its range and as the fluid program defines it."""
    rates = fluid.instance.arrival_rates
    admitted = fluid.instance.prefill_rates * fluid.x
    assert ((fluid.admission_fraction >= 0) & (fluid.admission_fraction <= 1)).all()
    assert fluid.admission_fraction * rates == pytest.approx(admitted, rel=1e-8, abs=1e-12)
    assert ((fluid.solo_probability >= 0) & (fluid.solo_probability <= 1)).all()
    assert 0 <= fluid.mixed_fraction <= 1
    assert fluid.mixed_fraction == pytest.approx(fluid.x.sum(), abs=1e-9)
    assert np.isfinite(fluid.action).all()
    assert bool(fluid.note()) == bool(np.isinf(fluid.occupancy).any())
    json.dumps(fluid.to_dict(), allow_nan=False)


def check(fluid: FluidPlan) -> None:
    certify(fluid)
    check_canonical_split(fluid)
    check_readings(fluid)


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def instances(theta: st.SearchStrategy[float]) -> st.SearchStrategy[Instance]:
    """One to five classes on any hardware, from almost idle to hopelessly overloaded."""
    tokens = log_uniform(1, 100_000)
    request_classes = st.builds(
        RequestClass,
        name=st.just("class"),
        prompt_tokens=tokens,
        output_tokens=tokens,
        arrival_rate=st.just(0.0) | log_uniform(1e-6, 1e3),
        patience_rate=theta,
    )
    hardware = st.builds(
        Hardware,
        alpha=st.floats(0.001, 0.05),
        beta=log_uniform(1e-6, 1e-3),
        gamma=log_uniform(5, 100),
        chunk_tokens=st.integers(1, 4096),
        batch_slots=st.integers(2, 256),
    )
    prices = st.builds(Prices, st.just(0.0) | st.floats(0.01, 1), st.floats(0.01, 1))
    some = st.lists(request_classes, min_size=1, max_size=5).filter(
        lambda drawn: any(c.arrival_rate > 0 for c in drawn)
    )
    return st.builds(
        lambda drawn, hardware, prices: Instance(
            "random",
            tuple(dataclasses.replace(c, name=f"class {k}") for k, c in enumerate(drawn)),
            hardware,
            prices,
        ),
        some,
        hardware,
        prices,
    )


IMPATIENT = log_uniform(1e-3, 10)
every_pricing = pytest.mark.parametrize("pricing", PRICINGS)
# Explaining a failure would re-run it for minutes.
many = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
)


def test_the_bundled_plan_of_the_base_instance() -> None:
    fluid = plan(presets.base(), pricing="bundled")
    assert fluid.value == pytest.approx(297.7032, abs=5e-5)
    assert fluid.x == pytest.approx([0.018258, 0.194953], abs=5e-7)
    assert fluid.q_prefill == pytest.approx([0.317253, 0], abs=5e-7)
    assert fluid.q_decode.tolist() == [0, 0]
    assert fluid.solo_probability == pytest.approx([0.8562] * 2, abs=5e-5)
    assert fluid.pool_size(20) == 5  # 20 x 0.2132 = 4.26


def test_the_separate_plan_of_the_base_instance() -> None:
    fluid = plan("base", pricing="separate")
    assert fluid.value == pytest.approx(298.5866, abs=5e-5)
    assert fluid.q_decode == pytest.approx([0, 0.80168], abs=5e-6)


@every_pricing
@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_is_solved_to_proven_optimality(name: str, pricing: str) -> None:
    check(plan(name, pricing))


@every_pricing
@many
@given(instance=instances(st.just(0.0) | IMPATIENT))
def test_any_instance_is_solved_to_proven_optimality(pricing: str, instance: Instance) -> None:
    check(plan(instance, pricing))


DEGENERATE = {
    "one class": instance_of(CHAT),
    "a class without arrivals": instance_of(CHAT, dataclasses.replace(READING, arrival_rate=0)),
    "free prompts": instance_of(CHAT, READING, prices=Prices(0, 0.2)),
    "free answers": instance_of(CHAT, READING, prices=Prices(0.1, 0)),
    "a class worth next to nothing": instance_of(
        CHAT, RequestClass("ping", 1e-3, 1e-3, 0.5, 0.1), prices=Prices(0, 0.2)
    ),
    "two identical classes": instance_of(CHAT, dataclasses.replace(CHAT, name="chat again")),
    "two identical classes, overloaded": instance_of(
        CHAT, dataclasses.replace(CHAT, name="chat again")
    ).scaled(3),
    "almost no arrivals": presets.base().scaled(1e-6),
    "a flood of arrivals": presets.base().scaled(1e3),
    "one rare and one frequent class": instance_of(
        dataclasses.replace(CHAT, arrival_rate=1e-6), dataclasses.replace(READING, arrival_rate=1e3)
    ),
    "exactly critical prefill": instance_of(
        RequestClass("critical", 256, 1, 1 / A100.tau_mixed, 0.1)
    ),
    "the fewest slots": instance_of(
        CHAT, READING, hardware=dataclasses.replace(A100, batch_slots=2)
    ),
    "mixed GPUs decode more": instance_of(CHAT, READING, hardware=FAST_MIXING),
}


@every_pricing
@pytest.mark.parametrize("case", DEGENERATE)
def test_a_degenerate_instance_is_solved_to_proven_optimality(case: str, pricing: str) -> None:
    check(plan(DEGENERATE[case], pricing))


@every_pricing
def test_a_class_without_arrivals_gets_nothing(pricing: str) -> None:
    fluid = plan(DEGENERATE["a class without arrivals"], pricing)
    assert fluid.occupancy[:, 1].tolist() == [0] * 5
    assert fluid.admission_fraction[1] == 0
    assert fluid.solo_probability[1] == 1
    assert fluid.value == pytest.approx(plan(instance_of(CHAT), pricing).value)


@every_pricing
@pytest.mark.parametrize("load", [1, 3])
def test_splitting_a_class_into_identical_halves_changes_no_total(load: int, pricing: str) -> None:
    whole = plan(instance_of(dataclasses.replace(CHAT, arrival_rate=float(load))), pricing)
    half = dataclasses.replace(CHAT, arrival_rate=load / 2)
    halves = plan(instance_of(half, dataclasses.replace(half, name="other half")), pricing)
    assert halves.value == pytest.approx(whole.value)
    assert halves.x.sum() == pytest.approx(whole.x.sum())


@every_pricing
@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e3, 1e12])
def test_the_currency_does_not_matter(factor: float, pricing: str) -> None:
    base = presets.base()
    fluid = plan(base, pricing)
    prices = Prices(base.prices.prefill * factor, base.prices.decode * factor)
    other = plan(dataclasses.replace(base, prices=prices), pricing)
    assert other.value == pytest.approx(fluid.value * factor)
    assert other.x == pytest.approx(fluid.x)


def full_program(instance: Instance) -> dict[str, Any]:
    """Constraints of the fluid program on (x, y_m, y_s, q_p, q_d), q_d free, row by row."""
    hardware, n = instance.hardware, instance.n_classes
    slots, ones, zeros = hardware.batch_slots, [1.0] * n, [0.0] * n
    rows = []
    for i in range(n):
        arrival, prefilled = np.zeros((2, 5, n))
        arrival[0, i] = prefilled[0, i] = instance.prefill_rates[i]
        arrival[3, i] = instance.patience_rates[i]
        prefilled[1, i] = -instance.mixed_decode_rates[i]
        prefilled[2, i] = -instance.solo_decode_rates[i]
        prefilled[4, i] = -instance.patience_rates[i]
        rows += [(arrival.ravel(), instance.arrival_rates[i]), (prefilled.ravel(), 0.0)]
    return {
        "A_ub": [
            ones + zeros * 4,
            [1.0 - slots] * n + ones + zeros * 3,
            [float(slots)] * n + zeros + ones + zeros * 2,
        ],
        "b_ub": [1.0, 0.0, float(slots)],
        "A_eq": [row for row, _ in rows],
        "b_eq": [level for _, level in rows],
    }


@many
@given(instance=instances(IMPATIENT))
def test_leaving_out_the_decode_queue_costs_nothing_where_proposition_3_2_holds(
    instance: Instance,
) -> None:
    zeros = np.zeros(2 * instance.n_classes)
    objective = np.concatenate([*revenue_coefficients(instance, "bundled"), zeros])
    optimum = linprog(-objective, **full_program(instance))
    assert optimum.status == 0
    assert plan(instance).value == pytest.approx(-optimum.fun, rel=1e-7)


@every_pricing
@pytest.mark.parametrize("theta", [0.0, 0.1])
@pytest.mark.parametrize("hardware", [A100, FAST_MIXING], ids=["A100", "fast mixing"])
@pytest.mark.parametrize("load", [0.2, 1, 5])
def test_no_point_of_a_grid_beats_the_plan_of_one_class(
    load: float, hardware: Hardware, theta: float, pricing: str
) -> None:
    only = RequestClass("only", 2000, 500, load, theta)
    instance = instance_of(only, hardware=hardware)
    share = np.linspace(0, 1, 61)
    most = min(1.0, load / instance.prefill_rates[0])
    x, mixed, solo = np.meshgrid(most * share, share, share, indexing="ij")
    y_m, y_s = mixed * (hardware.batch_slots - 1) * x, solo * hardware.batch_slots * (1 - x)
    admitted = instance.prefill_rates[0] * x
    finished = instance.mixed_decode_rates[0] * y_m + instance.solo_decode_rates[0] * y_s
    feasible = finished <= admitted
    r_x, r_m, r_s = revenue_coefficients(instance, pricing)
    revenue = (r_x * x + r_m * y_m + r_s * y_s)[feasible]
    value = plan(instance, pricing).value
    assert revenue.max() <= value * (1 + 1e-12)
    assert revenue.max() >= value * 0.95


def test_a_queue_without_abandonment_is_empty_when_everything_is_served() -> None:
    fluid = plan(with_patience_rate(presets.base().scaled(0.5), 0))
    check(fluid)
    assert fluid.value == pytest.approx(0.25 * 230 + 0.25 * 380)
    assert fluid.q_prefill.tolist() == [0, 0]
    assert fluid.admission_fraction.tolist() == [1, 1]
    assert fluid.note() == ""


@every_pricing
def test_a_queue_without_abandonment_is_endless_when_overloaded(pricing: str) -> None:
    fluid = plan(with_patience_rate(presets.overload(), 0), pricing)
    plain = fluid.to_dict()
    assert "grows without bound" in fluid.note()
    growing = np.isinf(fluid.q_prefill) | np.isinf(fluid.q_decode)
    for name, grows in zip(("decode-heavy", "prefill-heavy"), growing, strict=True):
        assert (name in fluid.note()) == grows
    for queue in ("q_prefill", "q_decode"):
        assert [v is None for v in plain[queue]] == np.isinf(getattr(fluid, queue)).tolist()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


@every_pricing
@pytest.mark.parametrize("hardware", [A100, FAST_MIXING], ids=["A100", "fast mixing"])
@pytest.mark.parametrize("load", [0.5, 1, 50])
def test_endless_patience_is_the_limit_of_long_patience(
    load: float, hardware: Hardware, pricing: str
) -> None:
    prompts_pay = Prices(1.0, 0.001)
    instance = instance_of(CHAT, READING, hardware=hardware, prices=prompts_pay).scaled(load)
    long = plan(with_patience_rate(instance, 1e-5), pricing)
    endless = plan(with_patience_rate(instance, 0), pricing)
    assert endless.value == pytest.approx(long.value, rel=1e-6)


def test_the_bound_holds_for_a_policy_that_only_prefills() -> None:
    only = RequestClass("only", 100, 1000, 50, 0)
    instance = instance_of(only, prices=Prices(1.0, 0.001))
    assert plan(instance, "separate").value >= 1.0 * 100 * 50  # 50 of the 77 prefills/s possible


def test_the_plan_prices_a_further_request_of_each_class() -> None:
    base = presets.base()
    fluid, step = plan(base), 1e-4
    for i, request_class in enumerate(base.classes):
        classes = list(base.classes)
        more = request_class.arrival_rate + step
        classes[i] = dataclasses.replace(request_class, arrival_rate=more)
        gain = plan(dataclasses.replace(base, classes=tuple(classes))).value - fluid.value
        assert fluid.duals["arrival"][i] == pytest.approx(gain / step, abs=1e-6)


def test_a_prefilled_request_is_worth_its_revenue_less_its_decode_slot() -> None:
    fluid = plan("base")
    instance, slot = fluid.instance, fluid.duals["mixed_decode_capacity"]
    worth = instance.bundled_revenues - slot / instance.mixed_decode_rates
    assert fluid.duals["prefilled"] == pytest.approx(worth)


@pytest.mark.parametrize("n_gpus", [1, 5, 20, 50, 200, 500])
def test_the_mixed_pool_is_rounded_up_but_not_by_rounding_noise(n_gpus: int) -> None:
    fluid = plan("base")
    assert fluid.pool_size(n_gpus) == math.ceil(n_gpus * fluid.mixed_fraction)
    whole = np.arange(n_gpus + 1)
    single = (whole / n_gpus).astype(np.float32)
    assert mixed_pool_size(single, n_gpus).tolist() == whole.tolist()
    assert mixed_pool_size((whole[:-1] + 0.01) / n_gpus, n_gpus).tolist() == whole[1:].tolist()


def test_a_plan_that_prefills_at_all_has_a_mixed_pool() -> None:
    assert plan(presets.base().scaled(1e-8)).pool_size(20) == 1


@pytest.mark.parametrize("pricing", ["Bundled", "", None, 0, ["bundled"]])
def test_a_pricing_that_does_not_exist_is_rejected(pricing: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan("base", pricing)
    assert str(caught.value) == f"pricing: got {pricing!r}, expected bundled or separate"


def test_a_solver_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(status=4, x=np.ones(10), message="Numerical\ndifficulties")
    monkeypatch.setattr("scipy.optimize.linprog", lambda *_, **__: failed)
    with pytest.raises(
        PlanError, match=r"'base': got no optimum .*Numerical difficulties"
    ) as caught:
        plan("base")
    assert "\n" not in str(caught.value)


@every_pricing
def test_the_arrays_of_a_plan_cannot_change(pricing: str) -> None:
    fluid = plan("base", pricing)
    fields = (getattr(fluid, field.name) for field in dataclasses.fields(fluid))
    arrays = [v for v in itertools.chain(fields, fluid.duals.values()) if isinstance(v, np.ndarray)]
    assert len(arrays) == 9
    for array in arrays:
        assert array.shape == (2,)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        fluid.value = 7.0  # type: ignore[misc]


def test_the_action_and_the_occupancy_are_fresh_copies() -> None:
    fluid = plan("base")
    fluid.action[:] = -1
    fluid.occupancy[:] = -1
    assert fluid.action.tolist() == [
        *fluid.admission_fraction,
        *fluid.solo_probability,
        fluid.mixed_fraction,
    ]
    assert fluid.occupancy[1].tolist() == fluid.x.tolist()


def modules_after(statement: str) -> set[str]:
    """Names of everything that a fresh interpreter has loaded after one statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_planning_does_not_load_the_simulator() -> None:
    loaded = modules_after("import llm_sched_env.planning as p; p.plan('base')")
    assert "llm_sched_env.planning.fluid" in loaded
    assert not {name for name in loaded if name.startswith("llm_sched_env.simulation")}
    assert "numba" not in loaded


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = modules_after("import llm_sched_env")
    heavy = {"torch", "stable_baselines3", "numba", "scipy", "matplotlib", "jinja2", "rich"}
    assert "llm_sched_env" in loaded
    assert not heavy & loaded
