"""What can be earned under a budget for the time per token: the bound, rules, and PPO."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.ppo import CHECKPOINT_NAME, train
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.agents.training_evaluation import PairedEvaluation
from llm_sched_env.agents.training_variants import variant
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import plan
from llm_sched_env.presets import resolve_instance
from research.agent_training.study import REPORT_SEED

INSTANCE, N_GPUS, COST = "overload", 20, "tpot"
BUDGETS = (0.025, 0.0235)
"""Seconds per token; the plan without a budget has 0.0263, none can have less than 0.0220."""
RULES = (
    "trunk-reservation",
    "token-bucket",
    "token-bucket-static",
    "gate-and-route",
    "strict-gate-and-route",
    "sli-aware",
    "general-sli-aware",
    "fcfs-immediate",
)
STEPS, TRAININGS = 128_000, 2
HORIZON, WARMUP, RUNS = 1000.0, 300.0, 16
RESULTS = Path(__file__).parents[1] / "results" / "constraints.csv"
Row = dict[str, Any]


def measure(folder: Path) -> list[Row]:
    """Run everything: rows by budget and entrant.

    Args:
        folder: of the trainings; those that have ended are not run again.
    """
    rows = [_bound(budget) for budget in (None, *BUDGETS)]
    for rule in RULES:
        rows += [_rule(rule, budget) for budget in (None, *BUDGETS)]
    rows += _agents("token-bucket", None, folder)
    for budget in BUDGETS:
        rows += _agents("ppo-lagrangian", budget, folder)
    return rows


def _bound(budget: float | None) -> Row:
    """Of the plan, with the budget as its limit."""
    free = plan(INSTANCE)
    kept = plan(INSTANCE, slos=[_level(budget)])
    earned = kept.revenue_rate / free.value
    return _row("bound", budget, [earned], [kept.slos[COST].value])


def _level(budget: float | None) -> str:
    return f"{COST}@price=0" if budget is None else f"{COST}@limit={budget}"


def _rule(rule: str, budget: float | None) -> Row:
    """A rule that goes by the plan with the budget as its limit."""
    result = evaluate(
        rule,
        INSTANCE,
        N_GPUS,
        slos=[_level(budget)],
        horizon=HORIZON,
        warmup=WARMUP,
        replications=RUNS,
        seed=REPORT_SEED,
    )
    costs = result.slos[COST].measured
    return _row(rule, budget, result.scores, None) | _ends("cost", costs)


def _agents(name: str, budget: float | None, folder: Path) -> Iterator[Row]:
    """Trainings of a variant, each on the same new requests as the rules."""
    for seed in range(TRAININGS):
        more = {} if budget is None else {"budgets": {COST: budget}}
        configuration = variant(name).configuration(
            resolve_instance(INSTANCE).to_dict(),
            n_gpus=N_GPUS,
            total_steps=STEPS,
            seed=seed,
            references=("trunk-reservation",),
            **more,
        )
        place = folder / f"{name}-{'free' if budget is None else budget}-{seed}"
        saved = _trained(configuration, place)
        # How long, how often and which costs are measured; not what acts.
        measured = dataclasses.replace(
            configuration,
            constraint="lagrangian",
            budgets={COST: budget or BUDGETS[0]},
            evaluation_horizon=HORIZON,
            evaluation_warmup=WARMUP,
        )
        evaluation = PairedEvaluation(measured, REPORT_SEED, RUNS)
        acting = TrainedPolicy(saved)
        row = evaluation.row(acting.controller(evaluation.plan.given, evaluation.plan, N_GPUS))
        label = "ppo" if budget is None else name
        yield {
            "entrant": label,
            "budget": "" if budget is None else budget,
            "training": seed,
            "score": row["score"],
            "score_low": row["score_low"],
            "score_high": row["score_high"],
            "cost": row[f"cost {COST}"],
            "cost_low": row[f"cost {COST} low"],
            "cost_high": row[f"cost {COST} high"],
            "weights_steps": saved.weights_steps,
            "multiplier": saved.curve[-1].get(f"multiplier {COST}", ""),
        }


def _trained(configuration: TrainingConfiguration, place: Path) -> Checkpoint:
    path = place / CHECKPOINT_NAME
    if path.exists() and (found := Checkpoint.load(path)).held_out:
        return found
    return Checkpoint.load(train(configuration, place))


def _row(
    entrant: str, budget: float | None, scores: Sequence[float], costs: Sequence[float] | None
) -> Row:
    row: Row = {"entrant": entrant, "budget": "" if budget is None else budget, "training": ""}
    row |= _ends("score", Estimate.of(np.array(scores)))
    return row if costs is None else row | _ends("cost", Estimate.of(np.array(costs)))


def _ends(name: str, estimate: Estimate) -> Row:
    low, high = estimate.ci95
    if np.isnan(low):
        low = high = estimate.mean
    return {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}
