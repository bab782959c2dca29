"""Study: the exact optimum of tiny systems beside every policy, and where they part.

`cells` says what is computed, `compute` makes the rows of one cell, both plain data. The page with
the tables is made by `optimum_page`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from llm_sched_env.evaluation import evaluate
from llm_sched_env.exact import Bounds, Optimum, TinySystem, optimum, rule_bounds, tiny_system
from llm_sched_env.exact.bellman import WAIT
from llm_sched_env.exact.count_rules import projected_reserves, trunk_reservation
from llm_sched_env.exact.disagreement import disagreement
from llm_sched_env.exact.shrunk import shrunk
from llm_sched_env.exact.stationary import stationary_law
from llm_sched_env.exact.value_iteration import LOST, Sweep, iterate
from llm_sched_env.instance import Instance
from llm_sched_env.planning import FluidPlan, plan
from llm_sched_env.policies import registered_policies
from llm_sched_env.presets import PRESETS
from llm_sched_env.simulation.rules import DispatchRule

Cell = dict[str, Any]
Row = dict[str, Any]

OPTIMUM, RANDOM_GPU, TRUNK = "optimum", "optimum, random GPU", "trunk-reservation"
EXACT, SIMULATED = "exact", "simulated"
_CASE = ("instance", "slots", "load", "gamma", "n_gpus", "pricing")
# preset, slots, load, gamma, GPUs, pricing, queue limit, decode limit
_CASES = (
    ("base", 16, 1.0, None, 1, "bundled", 14, 1),
    ("base", 16, 2.0, None, 1, "bundled", 14, 1),
    ("base", 4, 1.0, None, 1, "bundled", 16, 6),
    ("base", 4, 1.5, None, 1, "bundled", 16, 6),
    ("base", 4, 1.0, None, 2, "bundled", 12, 1),
    ("base", 4, 1.5, None, 2, "bundled", 12, 1),
    ("base", 2, 1.5, None, 3, "bundled", 16, 1),
    ("base", 4, 1.5, None, 1, "separate", 10, 16),
    ("base", 4, 1.0, 20.0, 1, "bundled", 12, 8),
    ("base", 4, 1.5, 20.0, 2, "bundled", 11, 2),
)
# Reserves tried: slots r and seconds T of `projected_reserves`.
_RESERVES = ((1.0, 0.0), (2.0, 0.0), (3.0, 0.0), (1.0, 0.5), (1.5, 0.5), (1.0, 1.0), (1.5, 1.0))
_SHOWN_DIFFERENCES = 5
_TOLERANCE, _ROUGH_TOLERANCE = 3e-6, 1e-5


def cells(*, quick: bool, seed: int) -> list[Cell]:
    """What to compute; quick: the smallest systems, cut off earlier, in half a minute.

    Args:
        quick: see above.
        seed: of the simulations.
    """
    names = ("preset", "slots", "load", "gamma", "n_gpus", "pricing", "queue_limit", "decode_limit")
    cases: list[Cell] = [dict(zip(names, case, strict=True)) for case in _CASES]
    if quick:
        cases = [
            case | {"queue_limit": 8, "decode_limit": 1}
            for case in cases
            if case["n_gpus"] == 1 and case["slots"] <= 4
        ]
    runs = {"replications": 4, "horizon": 5500.0} if quick else {"replications": 16, "horizon": 5e4}
    return [case | runs | {"warmup": 500.0, "seed": seed} for case in cases]


def instance_of(cell: Cell) -> Instance:
    """The cell's instance."""
    chosen = shrunk(PRESETS[cell["preset"]](), cell["slots"], cell["load"])
    if cell["gamma"] is not None:
        hardware = dataclasses.replace(chosen.hardware, gamma=cell["gamma"])
        chosen = dataclasses.replace(
            chosen, hardware=hardware, name=f"{chosen.name}-gamma{cell['gamma']:g}"
        )
    return chosen


def compute(cell: Cell) -> list[Row]:
    """Rows of a cell: the system, optimum, policies, differences and the region of admission."""
    instance = instance_of(cell)
    fluid_plan = plan(instance, cell["pricing"])
    limits = {"queue_limit": cell["queue_limit"], "decode_limit": cell["decode_limit"]}
    arguments = (instance, cell["n_gpus"], cell["pricing"])
    drawn = optimum(*arguments, **limits, gpu_choice="random", tolerance=_TOLERANCE)
    # One GPU leaves nothing to choose.
    best = drawn if cell["n_gpus"] == 1 else optimum(*arguments, **limits, tolerance=_TOLERANCE)
    rows = [_system_row(best, limits), _bounds_row(OPTIMUM, best.bounds)]
    if best is not drawn:
        rows.append(_bounds_row(RANDOM_GPU, drawn.bounds))
    # Rules never let a decode wait: fewer states.
    small = tiny_system(*arguments, queue_limit=cell["queue_limit"], decode_limit=0)
    rows += _rule_rows(small, fluid_plan)
    rows += _simulated_rows(cell, instance)
    own = trunk_reservation(drawn.system, *fluid_plan.admission_ranks)
    rows += _difference_rows(drawn, own) + _region_rows(drawn, own, fluid_plan)
    case = {name: cell[name] for name in _CASE if name != "instance"}
    return [{"instance": instance.name} | case | row for row in rows]


def _row(kind: str, name: str, method: str, **numbers: float | None) -> Row:
    columns = ("lower", "upper", "per_second", "share", "busy_slots", "waiting")
    return {"kind": kind, "name": name, "method": method} | {
        column: numbers.get(column) for column in columns
    }


def _system_row(best: Optimum, limits: dict[str, int]) -> Row:
    label = ", ".join(f"{name} {value}" for name, value in limits.items())
    numbers = {"lower": float(best.any_buffer), "upper": float(best.fluid_bound)}
    return _row("system", f"{best.system.n_states} states, {label}", EXACT, **numbers)


def _bounds_row(name: str, bounds: Bounds) -> Row:
    return _row("policy", name, EXACT, lower=bounds.lower, upper=bounds.upper)


def _rule_rows(system: TinySystem, fluid_plan: FluidPlan) -> list[Row]:
    """Trunk reservation as it is, with other reserves, and with the changes that help."""
    bids, reserves = fluid_plan.admission_ranks
    start = iterate(Sweep(system, LOST, random_gpu=True), _ROUGH_TOLERANCE).h
    rows = []
    for order, admits_first in (("", False), (", admits first", True)):
        rule = partial(trunk_reservation, system, bids, admits_first=admits_first)
        shown = {f"{TRUNK}{order}": rule(reserves)}
        if (bids <= 0).any():  # else no class yields and reserves are idle
            tried = {key: rule(projected_reserves(system, bids, *key)) for key in _RESERVES}
            earned = {key: _rough_value(system, own, start) for key, own in tried.items()}
            for name in ("constant", "projected"):
                allowed = [key for key in _RESERVES if name == "projected" or key[1] == 0.0]
                slots, seconds = best = max(allowed, key=lambda key: earned[key])
                label = f"{TRUNK}{order}, best {name} reserve: r = {slots:g}, T = {seconds:g} s"
                shown[label] = tried[best]
        rows += [
            _bounds_row(name, rule_bounds(system, actions, tolerance=_TOLERANCE, start=start))
            for name, actions in shown.items()
        ]
    return rows


def _rough_value(system: TinySystem, actions: np.ndarray, start: np.ndarray) -> float:
    """What a rule earns when arrivals at full queues are lost: enough to choose among rules."""
    return iterate(Sweep(system, LOST, actions=actions), _ROUGH_TOLERANCE, start).least


def _simulated_rows(cell: Cell, instance: Instance) -> list[Row]:
    """Every registered dispatch rule; 95% intervals."""
    rows = []
    for name, entry in registered_policies().items():
        if not isinstance(entry.make(), DispatchRule):
            continue
        result = evaluate(
            name,
            instance,
            cell["n_gpus"],
            pricing=cell["pricing"],
            horizon=cell["horizon"],
            warmup=cell["warmup"],
            replications=cell["replications"],
            seed=cell["seed"],
        )
        low, high = result.revenue_rate.ci95
        rows.append(_row("policy", name, SIMULATED, lower=float(low), upper=float(high)))
    return rows


def _difference_rows(drawn: Optimum, actions: np.ndarray) -> list[Row]:
    """Where trunk reservation acts otherwise, the dearest first."""
    found = disagreement(drawn, actions)
    rows = [
        _row("shares", "decisions that differ", EXACT, share=found.decisions_differ),
        _row("shares", "time in which the optimum holds back", EXACT, share=found.holds_back),
        _row("shares", "gap", EXACT, lower=found.gap, upper=found.gap),
    ]
    for one in found.differences[:_SHOWN_DIFFERENCES]:
        numbers = {"lower": one.cost, "upper": one.cost, "share": one.cost / found.gap}
        label = f"{one.optimal} | {one.rule}"
        rows.append(_row("difference", label, EXACT, per_second=one.per_second, **numbers))
    return rows


def _region_rows(drawn: Optimum, actions: np.ndarray, fluid_plan: FluidPlan) -> list[Row]:
    """How often the class of the lowest bid is admitted where it alone waits.

    By slots in use and its queue, over the states as the optimal policy meets them.
    """
    system = drawn.system
    i = int(np.argmin(fluid_plan.admission_ranks[0]))
    visits = stationary_law(system, drawn.policy.choices, random_gpu=True).visits
    slots = system.n_gpus * system.instance.hardware.batch_slots
    others = np.delete(system.queues.counts, i, axis=1).sum(axis=1)
    rows = []
    for r in np.flatnonzero((others == 0) & (system.queues.counts[:, i] > 0)):
        for free in range(1, slots + 1):
            here = (system.free_slots == free) & system.possible[:, i]
            weight = visits[r, here]
            if weight.sum() <= 0.0:
                continue
            for name, own in ((OPTIMUM, drawn.policy.actions), (TRUNK, actions)):
                share = float(weight @ (own[r, here] != WAIT) / weight.sum())
                place = {"busy_slots": slots - free, "waiting": int(system.queues.counts[r, i])}
                rows.append(_row("region", name, EXACT, share=share, **place))
    return rows
