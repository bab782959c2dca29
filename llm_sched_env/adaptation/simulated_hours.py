"""What every operating point earns in every hour of a day, on a real and on a wrong cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.adaptation.operating_points import FixedPoint, OperatingPoint
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.evaluation_cache import (
    evaluation_file,
    read_evaluation,
    store_evaluation,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.model.instance import Instance


@dataclass(frozen=True)
class HourRuns:
    """How an hour is simulated.

    Attributes:
        n_gpus: cluster size.
        seconds: simulated for an hour, warm-up included: traffic is constant within an hour.
        warmup: seconds that are not measured.
        replications: runs of an hour, each one that a policy may meet.
        revenue: ``all`` or ``goodput``.
        seed: of all runs.
    """

    n_gpus: int
    seconds: float
    warmup: float
    replications: int
    revenue: str
    seed: int

    def arguments(self, instance: Instance) -> dict[str, Any]:
        """Of :func:`llm_sched_env.evaluate`, which decide the result."""
        return {
            "instance": instance.to_dict(),
            "n_gpus": self.n_gpus,
            "horizon": self.seconds,
            "warmup": self.warmup,
            "replications": self.replications,
            "revenue": self.revenue,
            "seed": self.seed,
        }


def simulated_hours(
    instance: Instance,
    loads: Sequence[float],
    points: Sequence[OperatingPoint],
    runs: HourRuns,
    *,
    executor: Executor,
    cache: Path | None = None,
    on_result: Callable[[], None] | None = None,
) -> np.ndarray:
    """Revenue per GPU and second of each run.

    Args:
        instance: of load 1.
        loads: factors of its arrival rates.
        points: what is set.
        runs: how an hour is simulated.
        executor: where.
        cache: folder of finished evaluations, which are not run again.
        on_result: called after each evaluation.

    Returns:
        Shape (loads, points, replications).

    Raises:
        ConfigurationError: for an argument that is not allowed.
    """
    tasks = [
        (point, runs.arguments(point.applied_to(instance.scaled(load))))
        for load in loads
        for point in points
    ]
    files = [_file(cache, *task) for task in tasks]
    found = {k: kept for k, file in enumerate(files) if (kept := read_evaluation(file))}
    for _ in found:
        _tell(on_result)
    missing = [k for k in range(len(tasks)) if k not in found]
    for number, result in executor.run(_evaluated, [tasks[k] for k in missing]):
        k = missing[number]
        store_evaluation(files[k], result)
        found[k] = result
        _tell(on_result)
    scores = [np.array(found[k].scores) * found[k].bound for k in range(len(tasks))]
    return np.reshape(scores, (len(loads), len(points), runs.replications))


def _tell(on_result: Callable[[], None] | None) -> None:
    if on_result is not None:
        on_result()


def _policy(point: OperatingPoint, arguments: dict[str, Any]) -> FixedPoint:
    """The warm-up is the interval at which runs can be divided."""
    interval = arguments["warmup"] or arguments["horizon"]
    return FixedPoint(point.reserve_scale, point.prefill_share, interval)


def _file(cache: Path | None, point: OperatingPoint, arguments: dict[str, Any]) -> Path | None:
    if cache is None:
        return None
    return evaluation_file(cache, (point,), arguments)


def _evaluated(task: tuple[OperatingPoint, dict[str, Any]]) -> Evaluation:
    """One evaluation; runs in a worker."""
    point, arguments = task
    return evaluate(_policy(point, arguments), **arguments, jobs=1)


def at_two_speeds(instance: Instance) -> Instance:
    """The instance as a two-speed simulator has it, which knows neither decodes nor context.

    Speeds are those of the given hardware's full batch with contexts of their mean; prompt tokens
    of a chunk keep their price.
    """
    hardware = instance.only_hardware
    if hardware.mixed is None:
        return instance
    solo, mixed = instance.full_batch_seconds
    beside = hardware.batch_slots - 1
    alone = hardware.mixed.time(0, 0.0, beside, beside * instance.mean_context)
    plain = dataclasses.replace(
        hardware,
        iteration_law="two-speed",
        starts="immediate",
        padded_chunks=False,
        solo=None,
        mixed=None,
        alpha=alone,
        beta=(mixed - alone) / hardware.chunk_tokens,
        gamma=1.0 / solo,
    )
    return dataclasses.replace(instance, hardware=plain)
