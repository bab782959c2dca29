"""The report of ``serve``: policies on engines, request by request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llm_sched_env.evaluation.comparison import rows as flat_rows
from llm_sched_env.evaluation.latency_distribution import quantiles_of
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.reports.answers import comparison_answer
from llm_sched_env.reports.charts import distribution
from llm_sched_env.reports.comparison_page import run_facts
from llm_sched_env.reports.details import Detailed
from llm_sched_env.reports.dynamics import dynamics_section
from llm_sched_env.reports.fairness import class_section
from llm_sched_env.reports.latencies import LATENCIES, LEAD, latency_section, tail
from llm_sched_env.reports.page import Report, Section, write_report
from llm_sched_env.reports.request_times import RequestTimes
from llm_sched_env.reports.results_table import results_table
from llm_sched_env.reports.run_over_time import run_of_requests
from llm_sched_env.reports.scores import score_section
from llm_sched_env.validation.served_run import COMPLETED, ServedRun
from llm_sched_env.validation.validate import Validation


def served_requests(run: ServedRun, decode_start: np.ndarray) -> RequestTimes:
    """A measured run as requests with times.

    Args:
        run: of an engine.
        decode_start: when each request got a slot, s; NaN where it did not; shape (K,).
    """
    done = run.outcome == COMPLETED
    return RequestTimes(
        run.class_names,
        run.request_class,
        run.prompt_tokens,
        run.output_tokens,
        run.arrival_time,
        run.prefill_start,
        run.first_token,
        decode_start[: len(run)],
        np.where(done, run.end, np.nan),
        np.where(done, np.nan, run.end),
        np.ones(len(run), bool),
    )


def write_served_page(
    results: Sequence[tuple[str, Evaluation]],
    requests: Mapping[str, RequestTimes],
    cluster: Cluster,
    validations: Sequence[tuple[str, Validation]],
    command: str,
    path: Path,
) -> None:
    """Write the report of policies on engines.

    Args:
        results: labels and results.
        requests: of each policy's run.
        cluster: what the policies planned for.
        validations: the same requests simulated, by label; may be empty.
        command: that made them.
        path: of the page.
    """
    labels = [label for label, _ in results]
    numbers = {label: k for k, label in enumerate(labels)}
    first = results[0][1]
    runs = {
        label: run_of_requests(own, first.n_gpus, first.horizon) for label, own in requests.items()
    }
    name = f"{first.instance}, {first.n_gpus} engine{'s' if first.n_gpus > 1 else ''}"
    how = "Each policy's run on the engines, in real time."
    found = Detailed(name, cluster, dict(results), runs, numbers, how)
    dynamics = dynamics_section(found)
    sections = [
        score_section(flat_rows(results)),
        latency_section(found),
        *([dynamics] if dynamics else []),
        class_section(found),
        *(_beside_simulation(label, validation) for label, validation in validations),
    ]
    report = Report(
        f"{', '.join(labels)} on a real engine",
        comparison_answer(results),
        sections,
        results_table(results, classes=True),
        [("Command", command), *run_facts(first)],
        [result.note for _, result in results[:1] if result.note],
    )
    write_report(report, path)


def _beside_simulation(label: str, validation: Validation) -> Section:
    """Measured and simulated latencies of the same requests."""
    charts = []
    sides = (("measured", validation.measured_run), ("simulated", validation.simulated_run))
    for latency, title in LATENCIES.items():
        curves = [
            tail(k, name, quantiles_of(getattr(run, latency)))
            for k, (name, run) in enumerate(sides)
        ]
        caption = "What to see: how far the simulated line is from the measured one."
        charts.append(distribution(title, curves, caption))
    legend = [(k, name) for k, (name, _) in enumerate(sides)]
    return Section(f"Measured and simulated: {label}", LEAD, charts, legend)
