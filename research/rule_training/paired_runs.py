"""Paired runs on the same requests: the gain from a small change of a rule's weights."""

from __future__ import annotations

import numpy as np

from llm_sched_env.agents.learned_rule import corrected_rule
from llm_sched_env.model.priority_network import RankCorrection
from llm_sched_env.planning import plan
from llm_sched_env.policies.rolling_horizon import parameters_of_plan, plan_changes, run_under_plans
from llm_sched_env.simulation.simulation import SimulationBatch
from research.rule_training.scenarios import TrainingScenario

# Totals of the engine, by what is paid for.
_PAID = {"all": "bundled_revenue", "goodput": "good_revenue"}


def scores_of_pairs(
    scenario: TrainingScenario,
    pairs: np.ndarray,
    hidden_units: int,
    seeds: list[np.random.SeedSequence],
) -> np.ndarray:
    """Shares of R* that rules earn, two by two on the same requests.

    Args:
        scenario: on what.
        pairs: weights of the rules' networks, shape (K, 2, D).
        hidden_units: of these networks.
        seeds: of the pairs' random streams, K.

    Returns:
        Shape (K, 2).
    """
    n_gpus, n_pairs = scenario.n_gpus, len(pairs)
    fluid = plan(scenario.instance if scenario.planned is None else scenario.planned)
    networks = [RankCorrection.from_parameters(p, hidden_units) for pair in pairs for p in pair]
    rule = corrected_rule(networks[0], scenario.foresight, drop_late=scenario.drop_late)
    paid = _PAID[scenario.revenue]
    batch = SimulationBatch(
        scenario.instance,
        rule,
        n_gpus,
        2 * n_pairs,
        stream=scenario.stream,
        latencies=False,
        **parameters_of_plan(rule, fluid, n_gpus),
    )
    changes = plan_changes(rule, fluid, n_gpus, scenario.horizon)
    controls = fluid.controls(n_gpus)
    occupancy = np.where(np.isfinite(fluid.occupancy), fluid.occupancy, 0.0)
    for k, network in enumerate(networks):
        batch.start(k, seeds[k // 2], controls, occupancy)
        batch.correct(k, network)
    run_under_plans(batch, changes, 0.0, scenario.warmup)
    earned = -batch.states.totals[paid].sum(axis=1)
    run_under_plans(batch, changes, scenario.warmup, scenario.horizon)
    earned += batch.states.totals[paid].sum(axis=1)
    bound = fluid.value * n_gpus * (scenario.horizon - scenario.warmup)
    return np.asarray(earned / bound).reshape(n_pairs, 2)
