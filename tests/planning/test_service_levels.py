"""Service levels in the plan: hand-solved instances, a second program, duality, the findings."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from llm_sched_env import presets
from llm_sched_env.cli import main
from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import (
    PRICINGS,
    TPOT,
    DecodeFairness,
    FluidPlan,
    Indicator,
    PrefillFairness,
    ServiceLevel,
    plan,
)

A100 = presets.QWEN_8B_A100
# gamma tau_mix = 0.5: mixed GPUs are the faster ones, and the time per token falls with X.
FAST_MIXING = Hardware(alpha=0.0125, beta=0.0, gamma=40.0, chunk_tokens=256, batch_slots=16)
# tau_mix = 2 s, tau_solo = 1 s, B = 2: the time per token is 2 / (2 - X).
TINY = Hardware(alpha=2.0, beta=0.0, gamma=1.0, chunk_tokens=1, batch_slots=2)
FAIRNESS = (PrefillFairness, DecodeFairness)
few = settings(
    max_examples=40, deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink)
)


def tiny(*classes: tuple[float, float, float]) -> Instance:
    """Classes of prompt tokens, output tokens and arrival rate; every token costs 1."""
    return Instance(
        "tiny",
        tuple(RequestClass(f"class {k}", *c, 0.1) for k, c in enumerate(classes)),
        TINY,
        Prices(1.0, 1.0),
    )


def planned(fluid: FluidPlan) -> np.ndarray:
    """What indicators read."""
    return np.array([fluid.x, fluid.y_mixed, fluid.y_solo, fluid.q_prefill])


def gap(values: np.ndarray) -> float:
    return float(np.ptp(values))


def seconds_per_token(instance: Instance, mixed_fraction: float) -> float:
    hardware, x = instance.hardware, mixed_fraction
    mixed, solo = (hardware.batch_slots - 1) * x, hardware.batch_slots * (1 - x)
    return (hardware.tau_mixed * mixed + solo / hardware.gamma) / (mixed + solo)


def test_a_limit_on_the_time_per_token_is_a_limit_on_the_mixed_pool() -> None:
    """2 / (2 - X) <= 1.25 is X <= 0.4; half a request of 2 tokens per second and prefill."""
    fluid = plan(tiny((1, 1, 10)), slos=[TPOT(limit=1.25)])
    assert fluid.x == pytest.approx([0.4])
    assert fluid.revenue_rate == pytest.approx(0.5 * 0.4 * 2)
    # d revenue / dX = 1; d X / d limit = (2 - X)^2 / 2.
    assert fluid.slos["tpot"].dual == pytest.approx(1.6**2 / 2)
    assert fluid.slos["tpot"].value == pytest.approx(1.25)


def test_a_price_on_the_time_per_token_is_weighed_against_revenue() -> None:
    """X - price * 2 / (2 - X) is greatest at X = 2 - sqrt(2 price)."""
    free = plan(tiny((1, 1, 10)))
    for price in (0.0, 0.7, 0.9, 1.3, 1.9, 2.5):
        fluid = plan(tiny((1, 1, 10)), slos=[TPOT(price=price)])
        best = min(max(2 - math.sqrt(2 * price), 0.0), free.x[0])
        assert fluid.mixed_fraction == pytest.approx(best, abs=1e-8)
        assert fluid.objective == pytest.approx(
            fluid.revenue_rate - price * 2 / (2 - best), abs=1e-8
        )
        assert fluid.value == free.value


def test_prefill_fairness_lowers_the_greater_class() -> None:
    """Unlimited x = lambda / mu_p = (0.2, 0.6); a prefill of the second class earns 0.5 * 1.1."""
    instance = tiny((1, 0.1, 0.1), (1, 0.1, 0.3))
    assert plan(instance).x == pytest.approx([0.2, 0.6])
    fluid = plan(instance, slos=[PrefillFairness(limit=0.1)])
    assert fluid.x == pytest.approx([0.2, 0.3])
    assert fluid.value - fluid.revenue_rate == pytest.approx(0.3 * 0.5 * 1.1)
    assert fluid.slos["prefill-fairness"].dual == pytest.approx(0.5 * 1.1)
    low, high = (plan(instance, slos=[PrefillFairness(price=0.55 + e)]) for e in (-0.01, 0.01))
    assert low.x == pytest.approx([0.2, 0.6])
    assert high.x == pytest.approx([0.2, 0.2])
    assert low.slos["prefill-fairness"].penalty == pytest.approx(0.54 * 0.4)


def test_decode_fairness_moves_decodes_to_the_mixed_pool() -> None:
    """Both pools could decode the 0.4 tokens/s: the split is free, so is fairness."""
    instance = tiny((1, 1, 0.1), (1, 1, 0.3))
    assert plan(instance).y_solo == pytest.approx([0.1, 0.3])
    fluid = plan(instance, slos=[DecodeFairness(limit=0.0)])
    assert fluid.revenue_rate == pytest.approx(fluid.value)
    assert gap(fluid.y_solo) == pytest.approx(0, abs=1e-9)
    assert fluid.slos["decode-fairness"].dual == pytest.approx(0, abs=1e-9)
    # The program's own split, and what a router reads off it.
    assert 0.5 * fluid.y_mixed + fluid.y_solo == pytest.approx([0.1, 0.3])
    assert fluid.solo_probability * [0.1, 0.3] == pytest.approx(fluid.y_solo, abs=1e-12)


def restated(
    instance: Instance,
    pricing: str,
    slos: dict[str, ServiceLevel],
    least: float,
    most: float,
) -> float:
    """The optimum for X between two values in other variables, the time per token left out.

    x and q_p are eliminated by the balances; fairness is about the highest and the lowest class.
    -inf: there is no such X.
    """
    hardware, n = instance.hardware, instance.n_classes
    slots, tau = hardware.batch_slots, hardware.tau_mixed
    mixed = np.diag(instance.mixed_decode_rates / instance.prefill_rates)
    solo = np.diag(instance.solo_decode_rates / instance.prefill_rates)
    # Columns y_m, y_s, then highest and lowest of x and of y_s.
    x_of = np.hstack([mixed, solo, np.zeros((n, 4))])
    y_of = np.hstack([np.zeros((n, n)), np.eye(n), np.zeros((n, 4))])
    total = x_of.sum(axis=0)
    units = np.eye(2 * n + 4)
    rows = [(total, most), (-total, -least), (y_of.sum(axis=0) + slots * total, slots)]
    rows.append((units[:n].sum(axis=0) - (slots - 1) * total, 0.0))
    rows += list(zip(x_of, instance.arrival_rates / instance.prefill_rates, strict=True))
    c_p, c_d = instance.prices.prefill, instance.prices.decode
    if pricing == "bundled":
        w = c_p * instance.prompt_tokens + c_d * instance.output_tokens
        earned = (w * instance.prefill_rates) @ x_of
    else:
        earned = c_p * hardware.chunk_tokens / tau * total
        earned[:n] += c_d / tau
        earned[n : 2 * n] += c_d * hardware.gamma
    arriving = instance.arrival_rates > 0
    for k, (name, of) in enumerate((("prefill-fairness", x_of), ("decode-fairness", y_of))):
        highest, lowest = units[2 * n + 2 * k], units[2 * n + 2 * k + 1]
        rows += [(row - highest, 0.0) for row in of[arriving]]
        rows += [(lowest - row, 0.0) for row in of[arriving]]
        level = slos.get(name)
        if level is not None and level.limit is not None:
            rows.append((highest - lowest, level.limit))
        if level is not None and level.price is not None:
            earned = earned - level.price * (highest - lowest)
    scale = abs(earned).max()
    result = linprog(
        -earned / scale,
        A_ub=[row for row, _ in rows],
        b_ub=[limit for _, limit in rows],
        options={"primal_feasibility_tolerance": 1e-9},
    )
    assert result.status in {0, 2}
    return -result.fun * scale if result.status == 0 else -math.inf


def log_uniform(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


@st.composite
def instances(draw: st.DrawFn, hardware: tuple[Hardware, ...] = (A100, FAST_MIXING)) -> Instance:
    """Two to four classes, idle or overloaded, one perhaps without arrivals."""
    tokens = log_uniform(50, 4000)
    classes = [
        RequestClass(f"class {k}", draw(tokens), draw(tokens), draw(log_uniform(0.02, 2)), 0.1)
        for k in range(draw(st.integers(2, 4)))
    ]
    if draw(st.booleans()):
        classes.append(RequestClass("nobody", 100, 100, 0.0, 0.1))
    slots = draw(st.integers(2, 32))
    own = dataclasses.replace(draw(st.sampled_from(hardware)), batch_slots=slots)
    return Instance("random", tuple(classes), own, presets.PAPER_PRICES)


every_pricing = pytest.mark.parametrize("pricing", PRICINGS)
share = st.none() | st.floats(0.05, 1.2)


@pytest.mark.extended
@every_pricing
@few
@given(instance=instances(), data=st.data())
def test_any_combination_agrees_with_a_second_program(
    pricing: str, instance: Instance, data: st.DataObject
) -> None:
    """Limits and prices at once; the price of the time per token by brute force over X."""
    free = plan(instance, pricing)
    slos: dict[str, ServiceLevel] = {}
    for kind in FAIRNESS:
        now = kind(limit=1).value(instance, planned(free))
        limit, price = data.draw(share), data.draw(share)
        if limit is not None or price is not None:
            slos[kind.name] = kind(
                limit=None if limit is None else limit * now,
                price=None if price is None else price * free.value / (now + 0.01),
            )
    most, price = 1.0, 0.0
    if data.draw(st.booleans()):
        slow = abs(instance.hardware.tau_mixed - instance.hardware.tau_solo)
        price = data.draw(st.floats(0.05, 3)) * free.value / slow
        slos["tpot"] = TPOT(price=price)
    elif instance.hardware.tau_mixed > instance.hardware.tau_solo:
        most = data.draw(st.floats(0.1, 1.0)) * free.mixed_fraction
        slos["tpot"] = TPOT(limit=seconds_per_token(instance, most))
    assume(slos)
    fluid = plan(instance, pricing, slos=list(slos.values()))
    assert fluid.revenue_rate <= fluid.value * (1 + 1e-9)
    assert fluid.value == free.value
    assert list(fluid.slos) == list(slos)
    assert fluid.objective == pytest.approx(
        fluid.revenue_rate - sum(level.penalty for level in fluid.slos.values())
    )
    for name, level in fluid.slos.items():
        assert level.value == pytest.approx(slos[name].value(instance, planned(fluid)), abs=1e-9)
        if level.limit is not None:
            assert level.value <= level.limit + 1e-8 * max(1, level.limit)
    if price == 0:
        best = restated(instance, pricing, slos, 0.0, most)
        assert fluid.objective == pytest.approx(best, rel=1e-6, abs=1e-6 * fluid.value)
        return
    # What is claimed can be had, and no X of a grid gives more.
    own, near = fluid.mixed_fraction, 1e-7
    paid = price * seconds_per_token(instance, own)
    attainable = restated(instance, pricing, slos, own - near, own + near) - paid
    assert fluid.objective <= attainable + 1e-6 * paid
    for x in np.linspace(0, 1, 21):
        other = restated(instance, pricing, slos, x, x) - price * seconds_per_token(instance, x)
        assert other <= fluid.objective + 1e-6 * paid


@few
@given(instance=instances((A100,)), data=st.data())
def test_the_dual_of_a_limit_is_the_price_that_leads_to_it(
    instance: Instance, data: st.DataObject
) -> None:
    """Strong duality: no plan gains by leaving the limit and paying the dual for it."""
    free = plan(instance)
    kind = data.draw(st.sampled_from([*FAIRNESS, TPOT]))
    now = kind(limit=1).value(instance, planned(free))
    least = instance.hardware.tau_solo if kind is TPOT else 0.0
    limit = least + data.draw(st.floats(0.05, 0.95)) * (now - least)
    limited = plan(instance, slos=[kind(limit=limit)])
    dual = limited.slos[kind.name].dual
    priced = plan(instance, slos=[kind(price=dual)])
    assert dual >= 0
    assert priced.objective == pytest.approx(limited.revenue_rate - dual * limit, rel=1e-6)
    assert dual * (limit - limited.slos[kind.name].value) == pytest.approx(0, abs=1e-7 * free.value)


@pytest.mark.parametrize("kind", [*FAIRNESS, TPOT])
def test_revenue_rises_and_its_slope_falls_with_the_limit(kind: type[ServiceLevel]) -> None:
    free = plan("base")
    now = kind(limit=1).value(free.instance, planned(free))
    least = free.instance.hardware.tau_solo if kind is TPOT else 0.0
    limits = least + np.linspace(0.02, 1.1, 13) * (now - least)
    plans = [plan("base", slos=[kind(limit=limit)]) for limit in limits]
    revenue = np.array([p.revenue_rate for p in plans])
    duals = np.array([p.slos[kind.name].dual for p in plans])
    assert (np.diff(revenue) >= -1e-9).all()
    steps = np.diff(revenue) / np.diff(limits)
    # Concave in the limit for fairness, and here for the time per token too, up to its bend.
    assert (steps <= duals[:-1] * (1.001) + 1e-6).all()
    assert (steps >= duals[1:] * (0.999) - 1e-6).all()
    assert duals[-1] == pytest.approx(0, abs=1e-6)
    assert revenue[-1] == pytest.approx(free.value)


@pytest.mark.parametrize("hardware", [A100, FAST_MIXING], ids=["A100", "fast mixing"])
def test_a_priced_time_per_token_is_optimal_over_a_fine_grid(hardware: Hardware) -> None:
    """Also where the penalty is concave in X, so that only ends of pieces can be best."""
    instance = dataclasses.replace(presets.base(), hardware=hardware)

    class Fraction(ServiceLevel):
        """Holds X at most, or at least, at a value."""

        name = "mixed fraction"
        sign = 1.0

        def indicator(self, instance: Instance) -> Indicator:
            weights = np.zeros((1, 4, instance.n_classes))
            weights[0, 0] = self.sign
            return Indicator(weights, np.zeros(1))

    class Least(Fraction):
        name = "least mixed fraction"
        sign = -1.0

    reached = 0
    # As much as can be prefilled when nothing waits for a decode slot.
    top = plan(instance, slos=[Least(price=1e9)]).mixed_fraction
    grid = np.linspace(0, top * (1 - 1e-9), 40)
    worth = [plan(instance, slos=[Fraction(limit=x), Least(limit=-x)]).revenue_rate for x in grid]
    for price in np.geomspace(1e3, 3e6, 8):
        fluid = plan(instance, slos=[TPOT(price=price)])
        brute = [
            w - price * seconds_per_token(instance, x) for w, x in zip(worth, grid, strict=True)
        ]
        assert fluid.objective >= max(brute) - 1e-6
        reached += fluid.objective <= max(brute) + 0.01 * plan(instance).value
    assert reached >= 7


def test_findings_of_section_6_4_on_the_base_instance() -> None:
    free = plan("base")
    gaps = {kind: kind(limit=1).value(free.instance, planned(free)) for kind in FAIRNESS}

    def kept(kind: type[ServiceLevel], part: float) -> float:
        fluid = plan("base", slos=[kind(limit=part * gaps[kind])])
        return fluid.revenue_rate / fluid.value

    # Prefill fairness is dear.
    assert kept(PrefillFairness, 0.75) == pytest.approx(0.8840, abs=1e-3)
    assert kept(PrefillFairness, 0.5) == pytest.approx(0.7393, abs=1e-3)
    assert kept(PrefillFairness, 0.0) == pytest.approx(0.4501, abs=1e-3)
    # Decode fairness is free for a quarter of the gap, and cheap beyond.
    assert kept(DecodeFairness, 0.75) == pytest.approx(1)
    assert kept(DecodeFairness, 0.5) == pytest.approx(0.9549, abs=1e-3)
    assert kept(DecodeFairness, 0.0) == pytest.approx(0.8646, abs=1e-3)
    # The price of the time per token explodes near 1/gamma.
    fastest = free.instance.hardware.tau_solo
    assert fastest == pytest.approx(0.022, abs=1e-5)
    duals = [
        plan("base", slos=[TPOT(limit=limit)]).slos["tpot"].dual
        for limit in (0.0243, 0.0242, 0.024, 0.0225, 0.0222)
    ]
    assert duals == pytest.approx([0, 65868, 90101, 91703, 557012], rel=1e-3)
    with pytest.raises(PlanError, match=r"tpot limit 0.0219, expected a limit >= 0.0220"):
        plan("base", slos=[TPOT(limit=0.0219)])
    nothing = plan("base", slos=[TPOT(limit=fastest)])
    assert nothing.revenue_rate == pytest.approx(0, abs=1e-6)
    assert "earns nothing" in nothing.note()


def test_without_service_levels_nothing_changes() -> None:
    free, same = plan("base"), plan("base", slos=[])
    assert free.value == free.revenue_rate == free.objective
    assert free.slos == {}
    assert free.occupancy.tobytes() == same.occupancy.tobytes()
    assert free.to_dict() == same.to_dict()


def test_a_slack_limit_leaves_the_plan_as_it_is() -> None:
    free = plan("base")
    for level in (PrefillFairness(limit=1), TPOT(limit=1)):
        fluid = plan("base", slos=[level])
        assert fluid.occupancy == pytest.approx(free.occupancy)
        # The split is not weighed: one solo probability for all classes.
        assert np.ptp(fluid.solo_probability) == 0
        assert fluid.slos[level.name].dual == 0
    fluid = plan("base", slos=[DecodeFairness(limit=100)])
    assert fluid.x == pytest.approx(free.x)
    assert fluid.revenue_rate == pytest.approx(fluid.value)


class Waiting(ServiceLevel):
    """Requests of the first class waiting for prefill, per GPU."""

    name = "waiting"

    def indicator(self, instance: Instance) -> Indicator:
        weights = np.zeros((1, 4, instance.n_classes))
        weights[0, 3, 0] = 1.0
        return Indicator(weights, np.zeros(1))


class ShareOfPrefills(ServiceLevel):
    """The first class's share of (prefills + 0.01)."""

    name = "share"

    def indicator(self, instance: Instance) -> Indicator:
        weights, divisor = np.zeros((1, 4, instance.n_classes)), np.zeros((4, instance.n_classes))
        weights[0, 0, 0], divisor[0] = 1.0, 1.0
        return Indicator(weights, np.zeros(1), divisor, 0.01)


def test_an_indicator_of_ones_own() -> None:
    overload = presets.overload()
    free = plan(overload)
    limited = plan(overload, slos=[Waiting(limit=0.9 * free.q_prefill[0])])
    assert limited.q_prefill[0] == pytest.approx(0.9 * free.q_prefill[0])
    assert limited.revenue_rate < limited.value
    # 1000 tokens per request: not even all GPUs, hardly prefilling, can decode one per second.
    with pytest.raises(PlanError, match=r"waiting limit 0, expected a limit >= \d") as caught:
        plan(overload, slos=[Waiting(limit=0)])
    least = float(str(caught.value).partition(">= ")[2].partition(",")[0])
    assert plan(overload, slos=[Waiting(limit=least * 1.001)]).q_prefill[0] < least * 1.0011


def test_a_ratio_of_ones_own_can_be_limited_but_not_priced() -> None:
    free = plan("base")
    now = free.x[0] / (free.x.sum() + 0.01)
    limited = plan("base", slos=[ShareOfPrefills(limit=now / 2)])
    assert limited.x[0] / (limited.x.sum() + 0.01) == pytest.approx(now / 2)
    dual = limited.slos["share"].dual
    step = plan("base", slos=[ShareOfPrefills(limit=now / 2 + 1e-5)])
    assert (step.revenue_rate - limited.revenue_rate) / 1e-5 == pytest.approx(dual, rel=1e-3)
    with pytest.raises(ConfigurationError, match="depends on the sum of x alone; use a limit"):
        plan("base", slos=[ShareOfPrefills(price=1.0)])


def test_the_first_limit_that_cannot_be_met_is_named() -> None:
    class AtLeast(ServiceLevel):
        name = "at least"

        def indicator(self, instance: Instance) -> Indicator:
            weights = np.zeros((1, 4, instance.n_classes))
            weights[0, 0] = -1.0
            return Indicator(weights, np.zeros(1))

    together = [PrefillFairness(limit=0.0), AtLeast(limit=-0.1)]
    assert plan("base", slos=together[1:]).mixed_fraction >= 0.1 - 1e-9
    # Equal prefills: neither class more than what arrives of the first, 0.0195 each.
    with pytest.raises(PlanError, match=r"at least limit -0.1, .* >= -0.03899.* the limits befor"):
        plan("base", slos=together)
    with pytest.raises(PlanError, match=r"prefill-fairness limit -1, expected a limit >= 0, "):
        plan("base", slos=[PrefillFairness(limit=-1.0)])


class Misshapen(ServiceLevel):
    name = "misshapen"

    def indicator(self, instance: Instance) -> Indicator:
        return Indicator(np.zeros((1, 4, 7)), np.zeros(1))


class Nameless(ServiceLevel):
    def indicator(self, instance: Instance) -> Indicator:
        raise AssertionError


class Dividing(ServiceLevel):
    name = "dividing"

    def indicator(self, instance: Instance) -> Indicator:
        weights = np.ones((1, 4, instance.n_classes))
        return Indicator(weights, np.zeros(1), -weights[0], 1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (PrefillFairness, "prefill-fairness: got None, expected a limit, a price or both"),
        (lambda: TPOT(limit=math.nan), "tpot limit: got nan"),
        (lambda: TPOT(price=-1), "tpot price: got -1, expected a finite number >= 0"),
        (lambda: DecodeFairness(limit=False), "decode-fairness limit: got False"),
        (lambda: plan("base", slos=["tpot"]), "service level: got 'tpot', expected"),
        (lambda: plan("base", slos="tpot@limit=1"), "a list of service levels"),
        (lambda: plan("base", slos=7), "service levels: got 7, expected a list of service levels"),
        (
            lambda: plan("base", slos=[7]),
            "service levels: got 7, expected ServiceLevel objects, texts",
        ),
        (lambda: plan("base", slos=[{"limit": 1}]), "service levels: got {'limit': 1}, expected"),
        (lambda: plan("base", slos=[{"name": "goodput"}]), "service level: got 'goodput'"),
        (
            lambda: plan("base", slos=[{"name": "tpot", "cap": 1}]),
            "settings of TPOT: got {'cap': 1}, expected limit, price",
        ),
        (lambda: plan("base", slos=["no_module:X@limit=1"]), "package.module:Name; No module"),
        (lambda: plan("base", slos=["math:pi@limit=1"]), "a subclass of ServiceLevel"),
        (lambda: plan("base", slos=[Nameless(limit=1)]), "a class with a name"),
        (
            lambda: plan("base", slos=[TPOT(limit=1), TPOT(price=1)]),
            "tpot twice', expected each once",
        ),
        (lambda: plan("base", slos=[Misshapen(limit=1)]), r"weights \(K, 4, 2\)"),
        (lambda: plan("base", slos=[Dividing(limit=1)]), "one that is always > 0"),
    ],
)
def test_service_levels_that_cannot_be_are_rejected(make: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*levels: str) -> tuple[Any, str, str]:
        options = [part for level in levels for part in ("--slo", level)]
        with pytest.raises(SystemExit) as stop:
            main(["plan", *options])
        text = capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["plan", *options, "--json"])
        printed = capsys.readouterr()
        return stop.value.code, text, printed.out or printed.err

    code, text, out = run("prefill-fairness@limit=0.1,price=5", "tpot@price=3000")
    plain = json.loads(out)
    assert code == 0
    assert plain["slos"]["prefill-fairness"]["value"] == pytest.approx(0.1)
    assert plain["slos"]["tpot"]["price"] == 3000
    penalties = sum(level["penalty"] for level in plain["slos"].values())
    assert plain["objective"] == pytest.approx(plain["revenue_rate"] - penalties)
    assert plain["value"] == pytest.approx(297.7032, abs=1e-4)
    assert "service level tpot: 0.0" in text
    for wrong in ("tpot", "goodput@limit=1", "tpot@limit=x", "tpot@cap=1"):
        code, text, out = run(wrong)
        assert (code, text) == (2, "")
        assert "expected" in out
    assert "least attainable" in " ".join(run("tpot@limit=0.02")[2].split())
