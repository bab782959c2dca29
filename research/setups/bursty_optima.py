"""The exact optimum of small bursty systems, for a policy that sees the bursts."""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.exact import Bounds, optimum, rule_bounds
from llm_sched_env.exact.count_rules import trunk_reservation
from llm_sched_env.exact.shrunk import merged_halves, shrunk
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.presets import resolve_instance
from research.framework.study import Cell, Row
from research.setups.tiny_optima import (
    EXACT,
    OPTIMUM,
    SIMULATED,
    TOLERANCE,
    TRUNK,
    cluster_title,
    simulated,
)

LEARNED, MORE = "learned", "simulated, more than trunk-reservation"
BURSTS, STEADY = "bursts", "steady"


def bursty_instance(cell: Cell) -> Instance:
    """The cell's preset in two classes, with fewer slots; bursts as they are, or none."""
    preset = resolve_instance(cell["preset"])
    if preset.n_classes > 2:
        preset = merged_halves(preset)
    chosen = shrunk(preset, cell["slots"])
    if cell["traffic"] == STEADY:
        return dataclasses.replace(chosen, modulation=None)
    return chosen


def bursty_rows(cell: Cell) -> list[Row]:
    """Rows of a cell: the optimum of who sees the state of the traffic, and two rules."""
    instance, n_gpus = bursty_instance(cell), cell["n_gpus"]
    best = optimum(
        instance,
        n_gpus,
        cell["pricing"],
        queue_limit=cell["queue_limit"],
        decode_limit=cell["decode_limit"],
        tolerance=TOLERANCE,
    )
    fluid_plan = plan(instance, cell["pricing"])
    actions = trunk_reservation(best.system, slot_ranks(fluid_plan, n_gpus))
    start = best.lower_solution.h
    earned = rule_bounds(best.system, actions, tolerance=TOLERANCE, start=start)
    case = {
        "preset": cell["preset"],
        "system": _title(cell, instance),
        "traffic": cell["traffic"],
        "states": best.system.n_states,
        "bound": fluid_plan.value,
    }
    rows = [_row(OPTIMUM, EXACT, best.bounds), _row(TRUNK, EXACT, earned)]
    rule, learned = (_earned(name, instance, cell) for name in (TRUNK, LEARNED))
    rows.append(_row(TRUNK, SIMULATED, _interval(rule)))
    rows.append(_row(LEARNED, MORE, _interval(learned - rule)))
    return [case | row for row in rows]


def _earned(policy: str, instance: Instance, cell: Cell) -> np.ndarray:
    """Revenue per GPU and second of each run, shape (K,)."""
    result = simulated(policy, instance, cell)
    return np.array(result.scores) * result.bound


def _interval(revenue: np.ndarray) -> Bounds:
    """95% interval of a mean."""
    return Bounds(*map(float, Estimate.of(revenue).ci95))


def _row(policy: str, method: str, bounds: Bounds) -> Row:
    return {"policy": policy, "method": method, "lower": bounds.lower, "upper": bounds.upper}


def _title(cell: Cell, instance: Instance) -> str:
    """In words."""
    classes = " in two classes" if "halves" in instance.name else ""
    return f"{cell['preset']}{classes}, {cluster_title(cell)}"
