"""The fluid path: capacities, balances, known limits, a second integration, large clusters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fluid_dynamics import fluid_path as small_steps
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.report import write_path_figure
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.planning import (
    DecodeFairness,
    FluidPath,
    FluidPlan,
    PrefillFairness,
    fluid_path,
    plan,
)
from llm_sched_env.planning.fluid_dynamics import FLUID_ROUTERS
from llm_sched_env.planning.prefill_dynamics import share_out
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import OCCUPANCIES

every_router = pytest.mark.parametrize("router", FLUID_ROUTERS)
# Answers are so long that prefilled requests wait, and one class is less patient than the other.
LONG_ANSWERS = Instance(
    "long answers",
    (
        RequestClass("long", 1500, 2500, 0.8, 0.02),
        RequestClass("longer", 3000, 3000, 0.6, 0.3),
    ),
    presets.QWEN_8B_A100,
    presets.PAPER_PRICES,
)
TARGETS, POOL = np.array([0.08, 0.12]), 0.2


def long_answers_path(router: str, horizon: float = 60.0, **changes: Any) -> FluidPath:
    given = {"targets": TARGETS, "mixed_fraction": POOL, "solo_probability": np.array([0.9, 0.4])}
    return fluid_path(plan(LONG_ANSWERS), horizon, router=router, **{**given, **changes})


def check_capacities(path: FluidPath, instance: Instance, pool: float) -> None:
    """(12)-(14), and the pool."""
    slots, total = instance.hardware.batch_slots, path.x.sum(axis=1)
    assert (path.occupancy >= 0).all()
    assert (total <= pool + 1e-8).all()
    assert (path.y_mixed.sum(axis=1) <= (slots - 1) * total + 1e-7).all()
    assert (path.y_solo.sum(axis=1) <= slots * (1 - total) + 1e-7).all()


def check_balance(path: FluidPath, instance: Instance, horizon: float, steps: int = 4000) -> None:
    """What came less what left is what is there, class by class."""
    # Prefills are fast at first: finer steps there.
    times = horizon * np.linspace(0, 1, steps + 1) ** 3
    now = path.at(times).occupancy
    leaving = [instance.patience_rates, 0 * instance.patience_rates, instance.patience_rates]
    leaving += [instance.mixed_decode_rates, instance.solo_decode_rates]
    net = instance.arrival_rates - (now * np.array(leaving)).sum(axis=1)
    change = ((net[1:] + net[:-1]) / 2 * np.diff(times)[:, None]).cumsum(axis=0)
    inside = now.sum(axis=1)
    np.testing.assert_allclose(inside[1:] - inside[0], change, atol=3e-4 * max(1, inside.max()))


@pytest.mark.parametrize("name", ["overloaded", "backlog"])
def test_small_steps_lead_the_same_way(name: str) -> None:
    """Gate-and-route as in the test of Theorem 3.1; steps extrapolated to none, within 1e-4."""
    rates, start = {
        "overloaded": ((0.8, 0.6), np.zeros((5, 2))),
        "backlog": ((0.25, 0.2), np.array([[1.5, 0.5], *np.zeros((4, 2))])),
    }[name]
    instance = dataclasses.replace(
        LONG_ANSWERS,
        classes=(
            RequestClass("long answers", 1500, 1100, rates[0], 0.1),
            RequestClass("long prompts", 3000, 750, rates[1], 0.15),
        ),
    )
    cells, seconds, fine = 80, 0.75, 50
    coarse, finer = (
        small_steps(instance, TARGETS, POOL, start, cells, seconds, steps) for steps in (50, 100)
    )
    path = fluid_path(plan(instance), 60.0, start=start, targets=TARGETS, mixed_fraction=POOL)
    middles = (np.arange(cells * fine) + 0.5) * seconds / fine
    averages = path.at(middles).occupancy.reshape(cells, fine, 5, 2).mean(axis=1)
    np.testing.assert_allclose(averages, 2 * finer - coarse, atol=1e-4)
    check_balance(path, instance, 60.0)


@every_router
def test_cohorts_in_line_lead_the_same_way(router: str) -> None:
    """Decodes behind given prefills in small steps, each step's requests a cohort of the line."""
    path, seconds, dt = long_answers_path(router), 60.0, 0.02
    steps = round(seconds / dt)
    hardware = LONG_ANSWERS.hardware
    slots = np.array([hardware.batch_slots * (1 - POOL), (hardware.batch_slots - 1) * POOL])
    x = path.at((np.arange(steps) + 0.5) * dt).x
    shares = np.array([[0.9, 0.4], [0.1, 0.6]]) if router == "randomized" else np.ones((1, 2))
    pools, lines = np.zeros((2, 2)), np.zeros((len(shares), steps, 2))
    heads, found = [0] * len(shares), np.zeros((steps, 5, 2))
    for k in range(steps):
        beside = x[k].sum() / POOL
        mixed_rates = beside * LONG_ANSWERS.mixed_decode_rates
        mixed_rates = mixed_rates + (1 - beside) * LONG_ANSWERS.solo_decode_rates
        pools *= np.exp(-dt * np.array([LONG_ANSWERS.solo_decode_rates, mixed_rates]))
        for n, share in enumerate(shares):
            line = lines[n]
            line[heads[n] : k] *= np.exp(-LONG_ANSWERS.patience_rates * dt)
            line[k] = share * LONG_ANSWERS.prefill_rates * x[k] * dt
            for pool in (0, 1) if router == "solo-first" else (n,):
                while heads[n] <= k and (free := slots[pool] - pools[pool].sum()) > 1e-12:
                    cohort = line[heads[n]]
                    part = min(1.0, free / max(cohort.sum(), 1e-300))
                    pools[pool] += part * cohort
                    line[heads[n]] = (1 - part) * cohort
                    heads[n] += part == 1.0
        found[k, 2] = lines.sum(axis=(0, 1))
        found[k, 3] = beside * pools[1]
        found[k, 4] = pools[0] + (1 - beside) * pools[1]
    exact = path.at((np.arange(steps) + 1) * dt).occupancy
    assert exact[-1, 2].min() > 0.3
    np.testing.assert_allclose(found[:, 2:], exact[:, 2:], atol=0.03)
    check_balance(path, LONG_ANSWERS, seconds)


def cluster_averages(
    instance: Instance, router: str, p_solo: tuple[float, float], cells: int, seconds: float
) -> np.ndarray:
    """Cell averages of four runs of 5000 GPUs from empty, shape (cells, 5, I)."""
    n_gpus, seeds = 5000, np.random.SeedSequence(33).spawn(4)
    admission = TARGETS * instance.prefill_rates / instance.arrival_rates
    # The gate compares ratios to the targets: only their proportion matters.
    controls = np.array([*(admission / max(1, admission.max())), *p_solo, round(POOL * n_gpus)])
    rule = DispatchRule("occupancy", router, "static")
    found = np.zeros((cells, 5, 2))
    for seed in seeds:
        cluster = Simulation(instance, rule, controls, n_gpus, seed)
        for cell in range(cells):
            cluster.reset_metrics()
            cluster.run((cell + 1) * seconds)
            occupancy = cluster.metrics().occupancy
            found[cell] += np.array([occupancy[name] for name in OCCUPANCIES]) / len(seeds)
    return found


def cell_averages(path: FluidPath, cells: int, seconds: float) -> np.ndarray:
    middles = (np.arange(cells * 20) + 0.5) * seconds / 20
    return path.at(middles).occupancy.reshape(cells, 20, 5, 2).mean(axis=1)


@pytest.mark.extended
@every_router
def test_large_clusters_follow_the_path(router: str) -> None:
    """Of four runs of 5000 GPUs the arrivals of 40 s alone have a standard deviation of 0.04."""
    exact = cell_averages(long_answers_path(router, 40.0), 40, 1.0)
    assert exact[:, 2].max() > 0.5  # requests wait for decode slots
    assert (exact[:, 0].max(axis=0) > 0.5).all()  # and for prefill
    found = cluster_averages(LONG_ANSWERS, router, (0.9, 0.4), 40, 1.0)
    gaps = np.abs(found - exact).max(axis=(0, 2))
    assert gaps.max() < 0.1
    assert gaps[1] < 0.003  # the gate holds the ratio of prefills


def test_decodes_of_a_pool_that_is_often_without_prefills() -> None:
    """Some 40% of the mixed pool prefills: so often are its decodes beside a prefill.

    That leaves out terms of the order mu_s / mu_p, here 1%, of the decodes in the mixed pool.
    """
    fluid, p_solo = two_classes((0.2, 0.1)), (0.9, 0.8)
    path = fluid_path(
        fluid,
        60.0,
        router="randomized",
        targets=TARGETS,
        mixed_fraction=POOL,
        solo_probability=np.array(p_solo),
    )
    exact = cell_averages(path, 30, 2.0)
    busy = path.x[-1].sum() / POOL
    assert 0.3 < busy < 0.5
    assert exact[:, 2].max() == 0
    found = cluster_averages(fluid.instance, "randomized", p_solo, 30, 2.0)
    np.testing.assert_allclose(found, exact, atol=0.06)
    late = (found - exact)[15:].mean(axis=0)
    assert np.abs(late[3] / exact[15:, 3].mean(axis=0)).max() < 0.03


@every_router
@pytest.mark.parametrize("name", ["base", "overload", "dolly15k"])
def test_the_plan_is_where_the_path_leads(name: str, router: str) -> None:
    """Section 6.2: both policies lead from an empty cluster to x*, and with the canonical split,
    one p_s for all classes, also to y_m* and y_s*."""
    fluid = plan(name)
    path = fluid_path(fluid, 2000.0, router=router)
    np.testing.assert_allclose(path.occupancy[-1], fluid.occupancy, atol=2e-4)
    check_capacities(path, fluid.instance, fluid.mixed_fraction)


def test_only_randomized_routing_leads_to_another_split() -> None:
    """As the paper has it: gate-and-route follows x*, not the class-wise y* of any other split."""
    base = plan("base")
    # The second class decodes in the solo pool only; the first makes up for it in the mixed one.
    decoded = base.instance.prefill_rates * base.x * base.instance.output_tokens
    in_mixed_pool = (1 - base.solo_probability[0]) * decoded.sum()
    p_solo = np.array([1 - in_mixed_pool / decoded[0], 1.0])
    paths = {
        router: fluid_path(base, 2000.0, router=router, solo_probability=p_solo)
        for router in FLUID_ROUTERS
    }
    own = p_solo * decoded * base.instance.hardware.tau_solo
    np.testing.assert_allclose(paths["randomized"].y_solo[-1], own, rtol=2e-3)
    np.testing.assert_allclose(paths["solo-first"].y_solo[-1], base.y_solo, rtol=1e-3)
    for path in paths.values():
        np.testing.assert_allclose(path.x[-1], base.x, atol=1e-5)


def test_the_randomized_router_leads_to_a_plan_with_service_levels() -> None:
    """Section 5: class-wise solo probabilities, and prefills far from those of the plain plan."""
    slos = [PrefillFairness(limit=0.1), DecodeFairness(limit=1.0)]
    fluid = plan("base", slos=slos)
    assert np.ptp(fluid.solo_probability) > 0.2
    path = fluid_path(fluid, 3000.0, router="randomized")
    np.testing.assert_allclose(path.occupancy[-1], fluid.occupancy, atol=2e-4)


@every_router
@pytest.mark.parametrize("name", ["base", "overload", "dolly15k"])
def test_who_starts_at_the_plan_stays_there(name: str, router: str) -> None:
    fluid = plan(name)
    path = fluid_path(fluid, 300.0, router=router, start=fluid.occupancy)
    gaps = path.occupancy - fluid.occupancy
    np.testing.assert_allclose(gaps, 0, atol=1e-5)


@every_router
def test_a_path_continues_from_any_of_its_points(router: str) -> None:
    """Before requests wait in line, whose ages a point does not tell."""
    whole = long_answers_path(router, 8.0)
    for middle in (0.1, 2.0, 4.0):
        start = whole.at(middle).occupancy[0]
        assert start[2].sum() == 0
        rest = long_answers_path(router, 8.0 - middle, start=start)
        later = np.linspace(0, 8.0 - middle, 30)
        np.testing.assert_allclose(
            rest.at(later).occupancy, whole.at(middle + later).occupancy, atol=1e-5
        )


def two_classes(rates: tuple[float, float]) -> FluidPlan:
    classes = tuple(
        dataclasses.replace(c, arrival_rate=rate)
        for c, rate in zip(LONG_ANSWERS.classes, rates, strict=True)
    )
    return plan(dataclasses.replace(LONG_ANSWERS, classes=classes))


def test_prefills_meet_at_their_targets_and_slide() -> None:
    """The whole pool is the first class's: the second gets all that is freed, until
    x_1 = POOL exp(-mu_1 t) is down at its target; from there on ratios are equal."""
    fluid = two_classes((1.0, 1.0))
    start = np.zeros((5, 2))
    start[0], start[1, 0] = 20.0, POOL
    path = fluid_path(fluid, 20.0, start=start, targets=TARGETS, mixed_fraction=POOL)
    meet = np.log(POOL / TARGETS[0]) / fluid.instance.prefill_rates[0]
    assert abs(path.switches - meet).min() < 1e-7
    before = path.at(np.linspace(0, meet, 9))
    falling = POOL * np.exp(-fluid.instance.prefill_rates[0] * before.times)
    np.testing.assert_allclose(before.x[:, 0], falling, atol=1e-8)
    after = path.at(np.linspace(meet, 20.0, 30))
    np.testing.assert_allclose(after.x, np.broadcast_to(TARGETS, (30, 2)), atol=1e-7)
    np.testing.assert_allclose(path.x.sum(axis=1), POOL, atol=1e-8)


def test_a_class_that_never_waits_leaves_the_rest_to_the_other() -> None:
    """lambda_1 / mu_1 is half its target: x_1 = lambda_1 / mu_1; the other has what remains."""
    mu = two_classes((1.0, 1.0)).instance.prefill_rates
    path = fluid_path(two_classes((0.04 * mu[0], 1.0)), 200.0, targets=TARGETS, mixed_fraction=POOL)
    np.testing.assert_allclose(path.x[-1], [0.04, POOL - 0.04], atol=1e-7)
    waits = (1.0 - (POOL - 0.04) * mu[1]) / 0.3
    np.testing.assert_allclose(path.q_prefill[-1], [0, waits], atol=1e-6)


def test_classes_without_a_target_come_last_the_longest_excess_first() -> None:
    """Both wait behind nobody: queues less lambda / theta meet and stay equal."""
    fluid = two_classes((2.0, 1.5))
    start = np.zeros((5, 2))
    start[0] = [40.0, 2.0]
    path = fluid_path(fluid, 400.0, start=start, targets=np.zeros(2), mixed_fraction=0.1)
    excess = path.q_prefill - fluid.instance.arrival_rates / fluid.instance.patience_rates
    met = int(np.argmax(excess[:, 0] >= excess[:, 1] - 1e-7))
    assert 100 < path.times[met] < 300
    np.testing.assert_allclose(path.at(path.times[met] / 2).x[0], [0, 0.1], atol=1e-8)
    np.testing.assert_allclose(excess[met:, 0], excess[met:, 1], atol=1e-6)
    assert path.x[-1].min() > 0.001
    np.testing.assert_allclose(path.x.sum(axis=1), 0.1, atol=1e-8)


@st.composite
def situations(draw: st.DrawFn) -> dict[str, Any]:
    """A random instance, pool, targets and start."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, pool, slots = int(rng.integers(1, 5)), rng.uniform(0.02, 1), int(rng.integers(2, 33))
    classes = [
        RequestClass(
            f"class {i}",
            *np.exp(rng.uniform(np.log(30), np.log(4000), 2)),
            *np.exp(rng.uniform(np.log(0.02), np.log(2), 2)),
        )
        for i in range(n)
    ]
    if n > 1:
        classes[0] = dataclasses.replace(classes[0], patience_rate=0.0)
    hardware = dataclasses.replace(presets.QWEN_8B_A100, batch_slots=slots)
    share = rng.dirichlet(np.ones(n))
    start = np.zeros((5, n))
    start[[0, 2]] = rng.exponential(1, (2, n)) * (rng.random((2, n)) < 0.4)
    start[1] = share * pool * rng.choice([0, 0.5, 1])
    start[4] = share * (slots - pool) * rng.choice([0, 0.5, 1])
    return {
        "instance": Instance("random", tuple(classes), hardware, presets.PAPER_PRICES),
        "mixed_fraction": pool,
        "targets": rng.uniform(0, pool, n) * (rng.random(n) < 0.8),
        "solo_probability": rng.random(n),
        "start": start,
    }


@pytest.mark.extended
@every_router
@settings(max_examples=8, deadline=None, derandomize=True, phases=(Phase.generate, Phase.shrink))
@given(situation=situations())
def test_any_path_keeps_capacities_and_balances(router: str, situation: dict[str, Any]) -> None:
    instance = situation.pop("instance")
    path = fluid_path(plan(instance), 30.0, router=router, **situation)
    check_capacities(path, instance, situation["mixed_fraction"])
    check_balance(path, instance, 30.0)
    # No capacity is left to a class that waits.
    free = path.x.sum(axis=1) < situation["mixed_fraction"] - 1e-6
    assert path.q_prefill[free].sum(axis=1).max(initial=0) < 1e-6


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    total=st.floats(0, 10),
    members=st.lists(
        st.tuples(st.floats(0.01, 5), st.floats(-5, 5), st.floats(0.01, 3) | st.just(np.inf)),
        min_size=1,
        max_size=6,
    ),
)
def test_what_is_shared_out_adds_up_at_one_level(
    total: float, members: list[tuple[float, float, float]]
) -> None:
    slope, offset, most = np.array(members).T
    amounts = share_out(total, slope, offset, most)
    assert amounts.sum() == pytest.approx(min(total, most.sum()), abs=1e-9)
    assert ((amounts >= 0) & (amounts <= most)).all()
    levels = (amounts - offset) / slope
    inside = (amounts > 0) & (amounts < most)
    if inside.any():
        assert np.ptp(levels[inside]) < 1e-6
        assert (levels[amounts == 0] >= levels[inside].max() - 1e-6).all()
        assert (levels[amounts == most] <= levels[inside].min() + 1e-6).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0.0}, "horizon: got 0.0, expected a finite number of seconds > 0"),
        ({"router": "coupled"}, "router: got 'coupled', expected solo-first or randomized"),
        ({"mixed_fraction": 1.5}, "mixed_fraction: got 1.5, expected a number between 0 and 1"),
        ({"targets": np.ones(3)}, r"targets: .* expected finite numbers >= 0, shape \(2,\)"),
        ({"solo_probability": np.array([2.0, 0])}, "solo_probability: .* numbers between 0 and 1"),
        ({"start": np.full((5, 2), np.inf)}, r"start: .*shape \(5, 2\)"),
        ({"start": np.full((5, 2), 0.3)}, "start: .* expected prefills, solo and mixed pool's"),
    ],
)
def test_what_is_no_fluid_path_is_rejected(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"horizon": 10.0, **changes}
    with pytest.raises(ConfigurationError, match=message):
        fluid_path(plan("base"), **arguments)


def test_a_path_is_read_at_any_time_up_to_its_horizon() -> None:
    path = fluid_path(plan("base"), 10.0)
    assert path.times[0] == 0
    assert path.times[-1] == 10
    assert path.x.shape == (len(path.times), 2)
    assert path.at(5.0).occupancy.shape == (1, 5, 2)
    np.testing.assert_allclose(path.at(path.times).occupancy, path.occupancy)
    with pytest.raises(ConfigurationError, match="seconds between 0 and 10"):
        path.at([5.0, 11.0])


def test_a_path_is_drawn(tmp_path: Path) -> None:
    write_path_figure(fluid_path(plan("base"), 10.0), ["chat", "reading"], tmp_path / "path.png")
    assert (tmp_path / "path.png").read_bytes().startswith(b"\x89PNG")
