"""What the revenue of a task's held-out runs is a share of, replication by replication."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llm_sched_env.evaluation.preparation import PreparedRun, prepared_run
from llm_sched_env.planning.arrival_paths import recorded_arrivals
from llm_sched_env.planning.traffic_bound import traffic_bound
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import sample_requests
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.tasks.task import HINDSIGHT, Task

_STEP_SECONDS = 4.0
# Answers of the class of code of a recorded trace take a second.
_RECORDED_STEP_SECONDS = 1.0


@lru_cache(maxsize=64)
def task_bounds(task: Task, replications: int, seed: int) -> np.ndarray:
    """Bounds of the runs of a task, currency per GPU and second; shape (K,).

    Args:
        task: which.
        replications: K.
        seed: of the runs.

    Raises:
        PlanError: where a program has no optimum.
    """
    # Any rule: it has no say in what arrives.
    prepared = prepared_run(DispatchRule(), **task.run_arguments(seed))
    if task.bound != HINDSIGHT:
        return np.array(task.form.bounds(prepared.run, prepared.bound(), replications))
    if prepared.run.stream is not None:
        return np.full(replications, _hindsight(prepared, prepared.run.stream))
    run = prepared.run
    drawn = (
        sample_requests(run.cluster.instance, run.cluster.n_gpus, run.horizon, run.seed_of(k))
        for k in range(replications)
    )
    return np.array([_hindsight(prepared, requests) for requests in drawn])


def _hindsight(prepared: PreparedRun, requests: RequestStream) -> float:
    """The most that who knows these arrivals can earn of what is measured."""
    run, bounded = prepared.run, prepared.measured.bounded
    seconds = _STEP_SECONDS if run.stream is None else _RECORDED_STEP_SECONDS
    path = recorded_arrivals(
        requests.arrival_time,
        requests.request_class,
        bounded.n_classes,
        run.cluster.n_gpus,
        horizon=run.horizon,
        seconds=seconds,
    )
    return traffic_bound(bounded, path, run.cluster.pricing, warmup=run.warmup)
