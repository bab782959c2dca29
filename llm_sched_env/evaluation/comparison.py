"""Grids of evaluations: instances x sizes x policies, under common random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.evaluation_cache import (
    evaluation_file,
    read_evaluation,
    store_evaluation,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.measurement import LONG_RUN, checked_times, common_period
from llm_sched_env.evaluation.preparation import PreparedRun, prepared_run
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.files.atomic import write_rows
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import ServiceLevel
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.plugins.deprecated_names import renamed_arguments, renamed_attributes
from llm_sched_env.presets import resolve_instance
from llm_sched_env.workloads.traces import Trace

COLUMNS = (
    "instance",
    "n_gpus",
    "policy",
    "score",
    "score_low",
    "score_high",
    "revenue_rate",
    "bound",
    "ttft_p50",
    "ttft_p99",
    "tpot_p99",
    "abandoned_share",
    "pricing",
    "horizon",
    "warmup",
    "replications",
    "seed",
    "objective",
    "slos",
    "versions",
)


DEFAULT_HORIZON = 1200.0
ONE_BY_ONE = Executor(jobs=1)


@dataclass(frozen=True)
class ComparedWorkload:
    """A row of the comparison: an instance at one cluster size, or a replayed trace.

    ``reference_gpus``: cluster size at which the trace is replayed at its own speed; a cluster
    k times as large sees it k times as fast, so that the load per GPU is the same.
    """

    instance: str | Instance
    n_gpus: int
    trace: Trace | None = None
    reference_gpus: int = 1

    @property
    def n_classes(self) -> int:
        """Classes of the instance, or files of the trace."""
        if self.trace is not None:
            return len(self.trace.class_names)
        return resolve_instance(self.instance).n_classes

    @property
    def speed(self) -> float:
        """Replay speed of the trace."""
        return self.n_gpus / self.reference_gpus if self.trace else 1.0


@dataclass(frozen=True)
class Competitor:
    """A policy to compare: a column, on all workloads or on some.

    Args:
        label: the column.
        policy: what :func:`llm_sched_env.evaluate` takes.
        instance: only on this instance; None means on all.
        n_gpus: only at this cluster size; None means at all.
    """

    label: str
    policy: Any
    instance: str | None = None
    n_gpus: int | None = None

    def enters(self, workload: ComparedWorkload) -> bool:
        """Whether it competes on a workload."""
        return self.instance in (None, workload.instance) and self.n_gpus in (None, workload.n_gpus)


@renamed_arguments(scenarios="workloads", spreading="executor", kept="cache", slis="slos")
def compare(
    workloads: Sequence[ComparedWorkload],
    competitors: Sequence[Competitor],
    *,
    pricing: str = "bundled",
    revenue: str = "all",
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
    horizon: float | None = None,
    warmup: float | None = None,
    replications: int = 8,
    seed: int = 0,
    executor: Executor = ONE_BY_ONE,
    cache: Path | None = None,
    on_result: Callable[[str], None] | None = None,
) -> list[tuple[str, Evaluation]]:
    """Evaluate every competitor on every workload that it enters.

    Every competitor is steered by the plan with the service levels; scores stay shares of R*.
    Traces are replayed whole, without warm-up; replications differ in patience and routing.

    Args:
        workloads: the rows.
        competitors: the columns.
        pricing: and the other arguments up to ``seed``: as in :func:`llm_sched_env.evaluate`.
        revenue: ``all`` or ``goodput``.
        slos: service levels.
        horizon: simulated seconds, warm-up included; default 1200 and, with arrival profiles, as
            many more as make the measured seconds whole periods.
        warmup: seconds that are not measured; default 300.
        replications: independent runs of each.
        seed: of all of them.
        executor: where evaluations run; the results do not depend on it.
        cache: folder of finished evaluations, which are not run again; new ones are added as they
            finish. Those of policies of other packages always run.
        on_result: called with a line of text for each evaluation, cached ones first.

    Returns:
        Pairs of a column label and its result, by workload, then competitor.

    Example:
        >>> workloads = [ComparedWorkload("base", n_gpus=2), ComparedWorkload("overload", n_gpus=2)]
        >>> competitors = [Competitor(name, name) for name in ("token-bucket", "trunk-reservation")]
        >>> settings = {"horizon": 20.0, "warmup": 5.0, "replications": 1}
        >>> [label for label, _ in compare(workloads[:1], competitors, **settings)]
        ['token-bucket', 'trunk-reservation']
    """
    check_runs(workloads, competitors)
    pairs = list(_pairs(workloads, competitors))
    settings = {
        "pricing": pricing,
        "revenue": revenue,
        "slos": checked_service_levels(slos),
        "replications": replications,
        "seed": seed,
    }
    times = (horizon, warmup)
    tasks = [_Task.of(workload, competitor, settings, times) for workload, competitor in pairs]
    files = [task.file(cache) for task in tasks]
    results = {k: found for k, file in enumerate(files) if (found := read_evaluation(file))}

    def tell(k: int) -> None:
        if on_result is not None:
            result = results[k]
            on_result(f"{result.instance}, n = {result.n_gpus}: {pairs[k][1].label}")

    for k in results:
        tell(k)
    missing = [k for k in range(len(pairs)) if k not in results]
    run = partial(_Task.run, jobs=executor.threads)
    for number, result in executor.run(run, [tasks[k] for k in missing]):
        k = missing[number]
        store_evaluation(files[k], result)
        results[k] = result
        tell(k)
    return [(competitor.label, results[k]) for k, (_, competitor) in enumerate(pairs)]


def runs_behind(
    workloads: Sequence[ComparedWorkload],
    competitors: Sequence[Competitor],
    results: Sequence[tuple[str, Evaluation]],
    *,
    horizon: float | None = None,
    warmup: float | None = None,
    **settings: Any,
) -> Callable[[str, str, int], PreparedRun]:
    """What gives the run of a label, on an instance by its name, at a size.

    Args:
        workloads: of :func:`compare`, and the other arguments likewise.
        competitors: the columns.
        results: what it returned.
        horizon: as it was given.
        warmup: likewise.
        settings: ``pricing``, ``revenue``, ``slos`` and ``seed``.
    """
    tasks = {
        (label, result.instance, result.n_gpus): _Task.of(
            workload, competitor, settings, (horizon, warmup)
        )
        for (workload, competitor), (label, result) in zip(
            _pairs(workloads, competitors), results, strict=True
        )
    }

    def prepare(label: str, instance: str, n_gpus: int) -> PreparedRun:
        task = tasks[label, instance, n_gpus]
        return prepared_run(task.policy, **task.arguments)

    return prepare


@dataclass(frozen=True)
class _Task:
    """One evaluation: whose, and every argument that decides its result."""

    policy: Any
    arguments: dict[str, Any]

    @classmethod
    def of(
        cls,
        workload: ComparedWorkload,
        competitor: Competitor,
        settings: dict[str, Any],
        times: tuple[float | None, float | None],
    ) -> _Task:
        """With the instance as plain data: another machine may not have its file."""
        if workload.trace is None:
            instance = resolve_instance(workload.instance)
            horizon, warmup = checked_times(
                *times,
                trace=None,
                period=common_period(instance),
                interval=None,
                least_horizon=DEFAULT_HORIZON,
            )
            own = {"instance": instance.to_dict(), "horizon": horizon, "warmup": warmup}
        else:
            own = {"instance": workload.instance, "trace": workload.trace, "speed": workload.speed}
        return cls(competitor.policy, {"n_gpus": workload.n_gpus, **own, **settings})

    def file(self, folder: Path | None) -> Path | None:
        """Where the result is cached."""
        if folder is None:
            return None
        return evaluation_file(folder, (self.policy, *self.arguments["slos"]), self.arguments)

    def run(self, jobs: int) -> Evaluation:
        """The result; runs in a worker."""
        return evaluate(self.policy, **self.arguments, jobs=jobs)


def _pairs(
    workloads: Sequence[ComparedWorkload], competitors: Sequence[Competitor]
) -> Iterator[tuple[ComparedWorkload, Competitor]]:
    for workload in workloads:
        for competitor in competitors:
            if competitor.enters(workload):
                yield workload, competitor


def check_runs(workloads: Sequence[ComparedWorkload], competitors: Sequence[Competitor]) -> None:
    """Find what would fail or be overwritten before hours are spent on the rest."""
    seen = set()
    for workload, competitor in _pairs(workloads, competitors):
        run = (workload.instance, workload.n_gpus, competitor.label)
        if run in seen:
            raise ConfigurationError(
                f"The comparison has {run[2]!r} twice on {run[0]!r} at n = {run[1]}; "
                "rename or remove one of them."
            )
        seen.add(run)
        require_classes = getattr(competitor.policy, "require_classes", None)
        if require_classes is not None:
            require_classes(workload.n_classes)


def count_runs(workloads: Sequence[ComparedWorkload], competitors: Sequence[Competitor]) -> int:
    """How many evaluations :func:`compare` will run."""
    return sum(1 for _ in _pairs(workloads, competitors))


def rows(results: Sequence[tuple[str, Evaluation]]) -> list[dict[str, Any]]:
    """Results as flat rows with the columns of ``results.csv``."""
    return [
        {
            "instance": result.instance,
            "n_gpus": result.n_gpus,
            "policy": label,
            "score": result.score.mean,
            "score_low": result.score.ci95[0],
            "score_high": result.score.ci95[1],
            "revenue_rate": result.revenue_rate.mean,
            "bound": result.bound,
            "ttft_p50": result.ttft.p50,
            "ttft_p99": result.ttft.p99,
            "tpot_p99": result.tpot.p99,
            "abandoned_share": result.abandoned["share"],
            "pricing": result.paid_for,
            "horizon": result.horizon,
            "warmup": result.warmup,
            "replications": result.replications,
            "seed": result.seed,
            "objective": result.objective.mean,
            "slos": " ".join(f"{k}={v.measured.mean}" for k, v in result.slos.items()),
            "versions": " ".join(f"{k}={v}" for k, v in result.versions.items()),
        }
        for label, result in results
    ]


def write_csv(results: Sequence[tuple[str, Evaluation]], path: Path) -> None:
    """Write ``results.csv``; floats in full, so that the file can be compared byte by byte."""
    write_rows(path, COLUMNS, rows(results))


def settings_notes(results: Sequence[tuple[str, Evaluation]]) -> list[str]:
    """How the results were measured, and what each instance's R* and intervals cover."""
    drawn = [r for _, r in results if not r.requests_given]
    first = results[0][1]
    times = "traces whole, without warm-up"
    if drawn:
        usual = (drawn[0].horizon, drawn[0].warmup)
        times = f"{usual[0]:g} s, warm-up {usual[1]:g} s"
        others = {r.instance: r.horizon for r in drawn if (r.horizon, r.warmup) != usual}
        times += "".join(f" ({name}: {horizon:g} s)" for name, horizon in others.items())
        times += "; traces: whole, none" if len(drawn) < len(results) else ""
    how = (
        f"{first.paid_for} pricing, {first.replications} replications of {times}, "
        f"seed {first.seed}; ± is half a 95% interval."
    )
    by_instance: dict[str, dict[int, Evaluation]] = {}
    for _, result in results:
        if not result.bound_of.startswith(LONG_RUN):
            by_instance.setdefault(result.instance, {}).setdefault(result.n_gpus, result)
    bounds = [_bound_note(name, list(found.values())) for name, found in by_instance.items()]
    return [how, *bounds]


def _bound_note(name: str, results: Sequence[Evaluation]) -> str:
    """Which seconds and requests the bounds of an instance cover, by size where they differ."""
    covers = results[0].bound_of
    if any(result.bound_of != covers for result in results):
        covers = ", ".join(f"{result.bound_of} (n = {result.n_gpus})" for result in results)
    if not results[0].requests_given:
        return f"{name}: R* of {covers}."
    return (
        f"{name}: R* of {covers}, for policies in Python to the end of their last interval; "
        "± is of patience and routing, the requests are given."
    )


def markdown_table(results: Sequence[tuple[str, Evaluation]]) -> str:
    """Scores in percent of R* with half-widths of the 95% intervals, a row per workload."""
    labels = list(dict.fromkeys(label for label, _ in results))
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for label, result in results:
        mean, high = result.score.mean, result.score.ci95[1]
        text = f"{100 * mean:.1f}"
        if math.isfinite(high):
            text += f"±{100 * (high - mean):.1f}"
        cells.setdefault((result.instance, result.n_gpus), {})[label] = text
    lines = ["| instance | n | " + " | ".join(labels) + " |"]
    lines.append("|---|---:|" + "---:|" * len(labels))
    for (instance, n_gpus), row in cells.items():
        values = " | ".join(row.get(label, "-") for label in labels)
        lines.append(f"| {instance} | {n_gpus} | {values} |")
    return "\n".join(lines)


__getattr__ = renamed_attributes(globals(), Scenario="ComparedWorkload")
