"""The reports of ``compare`` and ``evaluate``, and of rows without their evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.comparison import rows as flat_rows
from llm_sched_env.evaluation.comparison import settings_notes
from llm_sched_env.evaluation.preparation import PreparedRun
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.reports.answers import comparison_answer
from llm_sched_env.reports.details import detailed
from llm_sched_env.reports.dynamics import dynamics_section
from llm_sched_env.reports.fairness import class_section
from llm_sched_env.reports.latencies import latency_section
from llm_sched_env.reports.page import Report, Section, write_report
from llm_sched_env.reports.results_table import results_table, table_of_rows
from llm_sched_env.reports.scores import policies_of, score_section

# Instances that are shown in detail, and policies of each: what keeps a page small.
_MOST_DETAILED, _MOST_POLICIES = 4, 8

Prepare = Callable[[str, str, int], PreparedRun]
"""The run of a policy by its label, on an instance by its name, at a size."""


def write_comparison(
    results: Sequence[tuple[str, Evaluation]],
    prepare: Prepare,
    notes: Sequence[str],
    command: str,
    path: Path,
) -> None:
    """Write the report of policies on instances at sizes.

    Each instance is shown in detail at the middle one of its sizes; replication 0 of its policies
    is run once more for that.

    Args:
        results: labels and results.
        prepare: the runs behind them.
        notes: what a reader must know.
        command: that made them.
        path: of the page.
    """
    rows = flat_rows(results)
    labels = policies_of(rows)
    sections = [score_section(rows), *_details(results, prepare, labels)]
    sizes = {r.n_gpus for _, r in results}
    table = results_table(results, classes=len(sizes) == 1)
    first = results[0][1]
    instances = list(dict.fromkeys(r.instance for _, r in results))
    policies = f"{len(labels)} schedulers" if len(labels) > 1 else labels[0]
    report = Report(
        title=f"{policies} on {', '.join(instances)}",
        answer=comparison_answer(results),
        sections=sections,
        table=table,
        facts=[("Command", command), *run_facts(first)],
        notes=list(dict.fromkeys([*notes, *settings_notes(results)])),
    )
    write_report(report, path)


def write_scores(
    rows: Sequence[Mapping[str, Any]], notes: Sequence[str], command: str, path: Path
) -> None:
    """Write the report of rows of a ``results.csv``: scores and the table."""
    best = _leaders(rows)
    table = table_of_rows(rows)
    report = Report(
        "Schedulers as shares of R*",
        best,
        [score_section(rows)],
        table,
        [("Command", command)],
        notes,
    )
    write_report(report, path)


def run_facts(result: Evaluation) -> list[tuple[str, str]]:
    """Seeds, times and versions of a result."""
    times = (
        f"{result.replications} of {result.horizon:g} s, the first {result.warmup:g} s unmeasured"
    )
    seeds = f"{result.seed}: replication k draws from SeedSequence({result.seed}, spawn_key=(k,))"
    return [
        ("Seed", seeds),
        ("Runs", times),
        ("Paid for", result.paid_for),
        ("Versions", versions_text(result.versions)),
    ]


def versions_text(versions: Mapping[str, str]) -> str:
    """Names and versions in a line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _details(
    results: Sequence[tuple[str, Evaluation]], prepare: Prepare, labels: Sequence[str]
) -> list[Section]:
    numbers = {label: k for k, label in enumerate(labels)}
    sections: list[Section] = []
    for instance in list(dict.fromkeys(r.instance for _, r in results))[:_MOST_DETAILED]:
        sizes = sorted({r.n_gpus for _, r in results if r.instance == instance})
        n = sizes[len(sizes) // 2]
        own = [(la, r) for la, r in results if (r.instance, r.n_gpus) == (instance, n)]
        own = own[:_MOST_POLICIES]

        def run_of(label: str, instance: str = instance, n: int = n) -> PreparedRun:
            return prepare(label, instance, n)

        found = detailed(own, run_of, numbers)
        dynamics = dynamics_section(found)
        sections += [
            latency_section(found),
            *([dynamics] if dynamics else []),
            class_section(found),
        ]
    return sections


def _leaders(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who earns most, over all instances and sizes, on average and how often."""
    cases: dict[tuple[str, Any], list[Mapping[str, Any]]] = {}
    for row in rows:
        cases.setdefault((row["instance"], row["n_gpus"]), []).append(row)
    wins: dict[str, int] = {}
    for own in cases.values():
        best = max(own, key=lambda row: float(row["score"]))["policy"]
        wins[best] = wins.get(best, 0) + 1
    label, count = max(wins.items(), key=lambda item: item[1])
    return [f"{label} earns most in {count} of {len(cases)} cases, an instance at a size each."]
