"""Run a cell as a simulation; its keys are the arguments of ``evaluate``."""

from __future__ import annotations

from typing import Any

from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Evaluation
from research.framework.study import Cell


def simulated_cell(
    policy: str,
    instance: str | dict[str, Any],
    n_gpus: int,
    seed: int,
    *,
    horizon: float,
    warmup: float,
    replications: int = 1,
    pricing: str = "bundled",
) -> Cell:
    """A cell that :func:`simulate` runs: a registered policy on a preset or plain instance."""
    return {
        "policy": policy,
        "instance": instance,
        "n_gpus": n_gpus,
        "seed": seed,
        "horizon": horizon,
        "warmup": warmup,
        "replications": replications,
        "pricing": pricing,
    }


def simulate(cell: Cell) -> Evaluation:
    """Run a cell; it has a process of its own, so its replications run one by one."""
    return evaluate(**cell, jobs=1)


def simulation_cost(cell: Cell) -> float:
    """Simulated GPU-seconds, to which the number of events is nearly proportional."""
    return float(cell["n_gpus"] * cell["horizon"] * cell["replications"])
