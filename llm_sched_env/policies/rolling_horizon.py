"""Run a rule under one plan, or replan over a rolling horizon."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.look_ahead_plans import look_ahead_plans
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation, SimulationBatch


def parameters_of_plan(rule: DispatchRule, plan: FluidPlan, n_gpus: int) -> dict[str, Any]:
    """What a simulation needs from a plan in addition to controls, for this rule on n GPUs."""
    return {
        "ranks": slot_ranks(plan, n_gpus),
        "weights": plan.decode_weights,
        "profile": None if rule.correction is None else class_profile(plan, n_gpus),
    }


def planned_simulation(
    instance: Instance,
    rule: DispatchRule,
    plan: FluidPlan,
    n_gpus: int,
    seed: np.random.SeedSequence,
    **options: Any,
) -> Simulation:
    """A simulation of an instance whose rule goes by a plan; ``options`` are the simulation's."""
    return Simulation(
        instance,
        rule,
        plan.controls(n_gpus),
        n_gpus,
        seed,
        **options,
        **parameters_of_plan(rule, plan, n_gpus),
    )


class PlanChange(NamedTuple):
    """Arguments of :meth:`SimulationBatch.replan`, and when."""

    time: float
    arguments: dict[str, Any]


@lru_cache(maxsize=16)
def plan_changes(
    rule: DispatchRule, fixed: FluidPlan, n_gpus: int, horizon: float
) -> tuple[PlanChange, ...]:
    """When each further plan takes over; empty without look-ahead."""
    if rule.foresight is None:
        return ()
    known: dict[int, dict[str, Any]] = {}
    changes, in_force = [], fixed
    for start, plan in look_ahead_plans(fixed, horizon, rule.foresight):
        if plan is in_force:
            continue
        in_force = plan
        if id(plan) not in known:
            known[id(plan)] = {
                "controls": plan.controls(n_gpus),
                "rates": plan.instance.arrival_rates,
                **parameters_of_plan(rule, plan, n_gpus),
            }
        changes.append(PlanChange(start, known[id(plan)]))
    return tuple(changes)


def run_under_plans(
    batch: SimulationBatch, changes: tuple[PlanChange, ...], since: float, until: float
) -> None:
    """Advance all clusters of a batch from ``since``, where they are, to ``until``, seconds."""
    for change in changes:
        if since <= change.time < until:
            batch.run(np.full(batch.n_clusters, change.time))
            batch.replan(**change.arguments)
    batch.run(np.full(batch.n_clusters, until))
