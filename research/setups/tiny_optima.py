"""Exact optimum, policies and their differences on systems small enough to solve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.exact import Bounds, Optimum, optimum, rule_bounds
from llm_sched_env.exact.count_rules import trunk_reservation
from llm_sched_env.exact.disagreement import disagreement
from llm_sched_env.exact.shrunk import shrunk
from llm_sched_env.exact.stationary import stationary_law
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.presets import resolve_instance
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from research.framework.study import Cell, Row, seeds
from research.setups.changed_instances import with_hardware

OPTIMUM, RANDOM_GPU, TRUNK = "optimum", "optimum, random GPU", "trunk-reservation"
BEST_RESERVE = "trunk-reservation with the best reserve"
EXACT, SIMULATED = "exact", "simulated"
_SHOWN_DIFFERENCES = 5
TOLERANCE = 1e-5
"""Relative width at which a value iteration stops."""


def run_settings(*, quick: bool, seed: int) -> Cell:
    """How long and how often the rules are simulated, to check the exact numbers."""
    return {
        "replications": 4 if quick else 16,
        "horizon": 3000.0 if quick else 25_000.0,
        "warmup": 500.0,
        "seed": seeds(seed, 1)[0],
    }


def tiny_instance(cell: Cell) -> Instance:
    """The cell's preset with fewer slots, other loads and speeds."""
    chosen = shrunk(resolve_instance(cell["preset"]), cell["slots"], cell["load"])
    return chosen if cell["gamma"] is None else with_hardware(chosen, gamma=cell["gamma"])


def tiny_rows(cell: Cell) -> list[Row]:
    """Rows of a cell: the system, optimum, policies, differences and the region of admission."""
    instance = tiny_instance(cell)
    limits = {"queue_limit": cell["queue_limit"], "decode_limit": cell["decode_limit"]}
    arguments = (instance, cell["n_gpus"], cell["pricing"])
    drawn = optimum(*arguments, **limits, gpu_choice="random", tolerance=TOLERANCE)
    # One GPU leaves nothing to choose.
    best = drawn if cell["n_gpus"] == 1 else optimum(*arguments, **limits, tolerance=TOLERANCE)
    rows = [_system_row(best), _bounds_row(OPTIMUM, best.bounds)]
    if best is not drawn:
        rows.append(_bounds_row(RANDOM_GPU, drawn.bounds))
    ranks = slot_ranks(plan(instance, cell["pricing"]), cell["n_gpus"])
    own = trunk_reservation(drawn.system, ranks)
    start = drawn.lower_solution.h
    earned = rule_bounds(drawn.system, own, tolerance=TOLERANCE, start=start)
    rows.append(_bounds_row(TRUNK, earned))
    rows.append(_bounds_row(BEST_RESERVE, _with_the_best_reserve(drawn, ranks, earned)))
    rows += _simulated_rows(cell, instance)
    rows += _difference_rows(drawn, own)
    rows += _region_rows(drawn, own, int(np.argmin(ranks.priority)))
    hardware = instance.hardware
    case = {
        "system": _title(cell),
        "slots": cell["slots"],
        "load": cell["load"],
        "n_gpus": cell["n_gpus"],
        "pricing": cell["pricing"],
        "speed_ratio": hardware.gamma * hardware.tau_mixed,
    }
    return [case | row for row in rows]


def _with_the_best_reserve(drawn: Optimum, ranks: SlotRanks, earned: Bounds) -> Bounds:
    """Of trunk reservation if those without a positive bid leave the best number of slots free.

    One number for all of them, found by going up or down from the formula's as long as it pays.
    """
    yielding = ranks.priority <= 0.0
    most = drawn.system.n_gpus * drawn.system.instance.hardware.batch_slots
    if not yielding.any():
        return earned

    def bounds(reserve: int) -> Bounds:
        other = ranks._replace(reserve=np.where(yielding, reserve, ranks.reserve))
        actions = trunk_reservation(drawn.system, other)
        return rule_bounds(drawn.system, actions, tolerance=TOLERANCE, start=drawn.lower_solution.h)

    first = min(most, int(np.ceil(ranks.reserve[yielding].max())))
    best = max(earned, bounds(first), key=_middle_of)
    for step in (-1, 1):
        reserve = first + step
        while 1 <= reserve <= most and _middle_of(found := bounds(reserve)) > _middle_of(best):
            best, reserve = found, reserve + step
    return best


def _middle_of(bounds: Bounds) -> float:
    return (bounds.lower + bounds.upper) / 2.0


def cluster_title(cell: Cell) -> str:
    """GPUs and slots in words."""
    return f"{cell['n_gpus']} GPU{'s' if cell['n_gpus'] > 1 else ''}, B = {cell['slots']}"


def _title(cell: Cell) -> str:
    """In words."""
    gamma = "" if cell["gamma"] is None else f", gamma {cell['gamma']:g}/s"
    return f"{cluster_title(cell)}, load x{cell['load']:g}{gamma}, {cell['pricing']}"


def _row(kind: str, name: str, method: str, **numbers: float | None) -> Row:
    columns = ("lower", "upper", "per_second", "share", "busy_slots", "waiting")
    return {"kind": kind, "name": name, "method": method} | {
        column: numbers.get(column) for column in columns
    }


def _system_row(best: Optimum) -> Row:
    """Bounds of policies with any buffer of prefilled requests: the sharper one and R*."""
    system = best.system
    label = (
        f"{system.n_states:,} states, at most {system.queue_limit} of a class waiting for prefill, "
        f"{system.decode_limit} for decode"
    )
    numbers = {"lower": float(best.any_buffer), "upper": float(best.fluid_bound)}
    return _row("system", label, EXACT, **numbers)


def _bounds_row(name: str, bounds: Bounds) -> Row:
    return _row("policy", name, EXACT, lower=bounds.lower, upper=bounds.upper)


def dispatch_rules() -> Iterator[str]:
    """Names of the registered rules that decide event by event."""
    for name, entry in registered_policies().items():
        if isinstance(entry.make(), DispatchRule):
            yield name


def simulated(policy: str, instance: Instance, cell: Cell) -> Evaluation:
    """A policy on the cell's cluster; the same requests for all policies."""
    names = ("n_gpus", "pricing", "horizon", "warmup", "replications", "seed")
    return evaluate(policy, instance, **{name: cell[name] for name in names}, jobs=1)


def _simulated_rows(cell: Cell, instance: Instance) -> list[Row]:
    """Every registered dispatch rule; 95% intervals."""
    rows = []
    for name in dispatch_rules():
        low, high = simulated(name, instance, cell).revenue_rate.ci95
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


def _region_rows(drawn: Optimum, actions: np.ndarray, i: int) -> list[Row]:
    """How often class i is admitted where it alone waits.

    By slots in use and its queue, over the states as the optimal policy meets them.
    """
    system = drawn.system
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
                share = float(weight @ (own[r, here] == i) / weight.sum())
                place = {"busy_slots": slots - free, "waiting": int(system.queues.counts[r, i])}
                rows.append(_row("region", name, EXACT, share=share, **place))
    return rows
