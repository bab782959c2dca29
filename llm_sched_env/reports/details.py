"""Policies on one instance and size in detail: latencies, time, classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llm_sched_env.evaluation.preparation import PreparedRun
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.reports.run_over_time import RunOverTime, sampled_run

# A policy in Python whose replication took longer is not run once more to be drawn.
_MOST_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Detailed:
    """Policies on one instance and size.

    Attributes:
        name: of the instance, with the size.
        cluster: what was planned for.
        results: by label of the policy.
        runs: replication 0 over time, of those that were run once more; None: of none.
        numbers: of the policies' series.
        how: what the runs over time are, in a sentence.
    """

    name: str
    cluster: Cluster
    results: Mapping[str, Evaluation]
    runs: Mapping[str, RunOverTime]
    numbers: Mapping[str, int]
    how: str

    @property
    def by_class(self) -> bool:
        """Whether series are the classes: of one policy."""
        return len(self.results) == 1

    @property
    def class_names(self) -> list[str]:
        """Of the instance."""
        return [c.name for c in self.cluster.instance.classes]

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Of charts whose series are policies, or classes where there is one policy."""
        if self.by_class:
            return list(enumerate(self.class_names))
        return [(self.numbers[label], label) for label in self.results]


def detailed(
    results: Sequence[tuple[str, Evaluation]],
    prepare: Callable[[str], PreparedRun],
    numbers: Mapping[str, int],
) -> Detailed:
    """Look at policies in detail; runs replication 0 of each once more.

    Args:
        results: labels and results, all of one instance and size.
        prepare: the run of a policy by its label.
        numbers: of the policies' series.
    """
    runs, cluster = {}, None
    for label, result in results:
        prepared = prepare(label)
        cluster = cluster or prepared.run.cluster
        if result.simulation_seconds / result.replications <= _MOST_SECONDS:
            runs[label] = sampled_run(prepared)
    assert cluster is not None
    first = results[0][1]
    gpus = f"{first.n_gpus} GPU{'s' if first.n_gpus > 1 else ''}"
    how = f"Replication 0 of seed {first.seed}."
    if missing := [label for label, _ in results if label not in runs]:
        how += f" Not drawn, since another run would take long: {', '.join(missing)}."
    return Detailed(f"{first.instance}, {gpus}", cluster, dict(results), runs, numbers, how)
