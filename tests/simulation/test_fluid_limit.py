"""Sample paths of gate-and-route divided by n approach the fluid dynamics (Theorem 3.1).

Which rate to expect. Arrivals, completions and abandonments are Poisson counts of rate O(n), so
the scaled path differs from the fluid by n^-1/2 wherever these fluctuations stay: in the queue of
an overloaded class, in prefills below capacity, in the numbers of decodes. The sup over a fixed
time of the scaled difference has a limit in law, so its mean decays as n^-1/2 too. A place that is
held at its capacity by a queue in front does not fluctuate at that scale: prefills of an
overloaded pool and, behind them, all solo slots together are full up to O(1), a gap of order 1/n.

Pool and targets are whole numbers of GPUs at every size: in the preset `base` the rounding of
M = ceil(n sum x*) is a bias of order 1/n that 1 / theta multiplies, and hides the law.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from fluid_dynamics import fluid_path

from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import plan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import OCCUPANCIES

GATE_AND_ROUTE = DispatchRule("occupancy", "solo-first", "static")
SEEDS = {50: 64, 500: 48, 5000: 14}
SIZES = tuple(SEEDS)
CELLS, CELL_SECONDS = 80, 0.75
POOL = 0.2  # n POOL and n x* are whole numbers for all sizes
Q_PREFILL, X, Q_DECODE, Y_MIXED, Y_SOLO = range(5)


def instance(rates: Iterable[float], answers: float = 1.0) -> Instance:
    """Answers are longer by a factor."""
    first, second = rates
    return Instance(
        "fluid",
        (
            RequestClass("long answers", 1500, 1100 * answers, first, 0.1),
            RequestClass("long prompts", 3000, 750 * answers, second, 0.15),
        ),
        Hardware(alpha=0.0174, beta=6.2e-5, gamma=45.45, chunk_tokens=256, batch_slots=16),
        Prices(0.1, 0.2),
    )


TARGETS = np.array([0.08, 0.12])  # x* of the gate; together the pool


class Regime(NamedTuple):
    """Where a path starts and goes; rows of ``start`` as in OCCUPANCIES."""

    instance: Instance
    start: tuple[tuple[float, float], ...]


EMPTY = ((0.0, 0.0),) * 5
# More comes than the pool can prefill; solo slots fill up and decodes spill into the pool.
OVERLOADED = Regime(instance((0.8, 0.6)), EMPTY)
# A backlog is worked off; then nothing waits.
BACKLOG = Regime(instance((0.25, 0.2)), ((1.5, 0.5), *EMPTY[1:]))


@cache
def fluid(regime: Regime, own: Instance | None = None) -> np.ndarray:
    """The fluid path of a regime, with the rates of ``own`` if given."""
    coarse, fine = (
        fluid_path(
            own or regime.instance,
            TARGETS,
            POOL,
            np.array(regime.start),
            CELLS,
            CELL_SECONDS,
            steps,
        )
        for steps in (100, 200)
    )
    # Far below the gap of the largest cluster, also before the extrapolation of Richardson.
    assert np.abs(fine - coarse).max() < 4e-3
    return 2 * fine - coarse


@cache
def paths(regime: Regime, n_gpus: int) -> np.ndarray:
    """Cell averages of scaled sample paths; shape (seeds, cells, 5, I)."""
    own = regime.instance
    admission = TARGETS * own.prefill_rates / own.arrival_rates
    # The gate compares ratios to the targets: only their proportion matters.
    admission = admission / max(1.0, admission.max())
    controls = np.array([*admission, 1.0, 1.0, round(POOL * n_gpus)])
    found = np.empty((SEEDS[n_gpus], CELLS, 5, 2))
    for k, seed in enumerate(np.random.SeedSequence([n_gpus, 26]).spawn(SEEDS[n_gpus])):
        cluster = Simulation(own, GATE_AND_ROUTE, controls, n_gpus, seed, np.array(regime.start))
        for cell in range(CELLS):
            cluster.reset_metrics()
            cluster.run((cell + 1) * CELL_SECONDS)
            occupancy = cluster.metrics().occupancy
            found[k, cell] = [occupancy[name] for name in OCCUPANCIES]
    return found


def slope(gaps: np.ndarray) -> float:
    """Of log gap over log n."""
    return float(np.polyfit(np.log(SIZES), np.log(gaps), 1)[0])


def sup_gaps(regime: Regime, exact: np.ndarray) -> np.ndarray:
    """Mean over seeds of the sup over time, shape (sizes, 5, I)."""
    return np.array([np.abs(paths(regime, n) - exact).max(axis=1).mean(axis=0) for n in SIZES])


def mean_gaps(regime: Regime, exact: np.ndarray, first: int) -> np.ndarray:
    """Mean over seeds of the gap of time averages since cell ``first``, shape (sizes, 5, I)."""
    late = exact[first:].mean(axis=0)
    return np.array(
        [np.abs(paths(regime, n)[:, first:].mean(axis=1) - late).mean(axis=0) for n in SIZES]
    )


# Five other sets of seeds: the slopes of sups had standard deviations of 0.02 to 0.04, those of
# time averages, one number for each path, of 0.02 to 0.09. The limits are some three of them.
LAW = pytest.approx(-0.5, abs=0.13)
LAW_OF_AVERAGES = pytest.approx(-0.5, abs=0.2)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("regime", "places"),
    [
        (OVERLOADED, (Q_PREFILL, Y_MIXED, Y_SOLO)),
        pytest.param(BACKLOG, (Q_PREFILL, X, Y_SOLO), marks=pytest.mark.extended),
    ],
    ids=["overloaded, from empty", "backlog"],
)
def test_paths_approach_the_fluid_as_one_over_the_root_of_n(
    regime: Regime, places: tuple[int, ...]
) -> None:
    exact = fluid(regime)
    gaps = sup_gaps(regime, exact)
    assert slope(gaps.max(axis=(1, 2))) == LAW
    for place in places:
        assert exact[:, place].max() > 0.05
        for i in range(2):
            assert slope(gaps[:, place, i]) == LAW, (OCCUPANCIES[place], i)


@pytest.mark.extended
@pytest.mark.parametrize(
    "regime",
    [pytest.param(OVERLOADED, marks=pytest.mark.extended), BACKLOG],
    ids=["overloaded", "backlog"],
)
def test_time_averages_approach_the_fluid_as_one_over_the_root_of_n(regime: Regime) -> None:
    gaps = mean_gaps(regime, fluid(regime), first=CELLS // 2)
    assert slope(gaps[:, Y_SOLO].sum(axis=-1)) == LAW_OF_AVERAGES
    busy = Q_PREFILL if regime == OVERLOADED else X
    assert slope(gaps[:, busy].sum(axis=-1)) == LAW_OF_AVERAGES


@pytest.mark.extended
def test_full_places_are_full_up_to_a_few_requests() -> None:
    """State-space collapse: prefills sit at their targets, solo slots are full, at every size."""
    slots = OVERLOADED.instance.hardware.batch_slots * (1.0 - POOL)
    exact = fluid(OVERLOADED)
    first = int(np.argmax(exact[:, Y_MIXED].sum(axis=-1) > 0.3))
    assert 0 < first < CELLS - 10
    for n in SIZES:
        late = paths(OVERLOADED, n)[:, first:]
        np.testing.assert_allclose(late[:, :, X], np.broadcast_to(TARGETS, late[:, :, X].shape))
        assert 0.0 < n * (slots - late[:, :, Y_SOLO].sum(axis=-1)).mean() < 10.0


@pytest.mark.extended
def test_the_plan_is_the_limit_of_stationary_averages() -> None:
    """An underloaded instance: the plan's pool is just large enough, so critically loaded.

    The queue is then of order n^1/2, as in the regime of Halfin and Whitt (1981), and its mean
    has the same law as the fluctuations. The fluid stays where the plan is.
    """
    own = instance(TARGETS * instance((1.0, 1.0)).prefill_rates, answers=0.7)
    fluid_plan = plan(own)
    np.testing.assert_allclose(fluid_plan.x, TARGETS)
    for n in SIZES:
        np.testing.assert_allclose(fluid_plan.controls(n), [1, 1, 1, 1, POOL * n])
    regime = Regime(own, tuple(map(tuple, fluid_plan.occupancy.tolist())))
    exact = fluid(regime)
    np.testing.assert_allclose(exact, np.broadcast_to(fluid_plan.occupancy, exact.shape), atol=1e-6)
    gaps = mean_gaps(regime, exact, first=CELLS // 4).sum(axis=-1)
    for place in (Q_PREFILL, X, Y_SOLO):
        assert slope(gaps[:, place]) == LAW_OF_AVERAGES, OCCUPANCIES[place]


@pytest.mark.extended
def test_paths_do_not_approach_another_fluid() -> None:
    """Power: with mixed iterations 10% longer in the fluid the gap stays."""
    own = OVERLOADED.instance
    hardware = dataclasses.replace(
        own.hardware, alpha=own.hardware.alpha + 0.1 * own.hardware.tau_mixed
    )
    gaps = sup_gaps(OVERLOADED, fluid(OVERLOADED, dataclasses.replace(own, hardware=hardware)))
    assert slope(gaps.max(axis=(1, 2))) > -0.35
