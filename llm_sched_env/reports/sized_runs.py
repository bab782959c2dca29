"""A sized or tuned case in detail: its latencies by class, and its run over time."""

from __future__ import annotations

import numpy as np

from llm_sched_env.evaluation.latency_distribution import quantiles_of
from llm_sched_env.reports.dynamics import LEAD as OVER_TIME
from llm_sched_env.reports.dynamics import charts_by_class as over_time_by_class
from llm_sched_env.reports.latencies import LATENCIES, LEAD, charts_by_class
from llm_sched_env.reports.page import Section
from llm_sched_env.reports.request_times import RequestTimes
from llm_sched_env.reports.run_over_time import plan_levels, run_of_requests
from llm_sched_env.simulation.state import layout
from llm_sched_env.sizing.judged import Candidate
from llm_sched_env.sizing.served_case import case_times
from llm_sched_env.sizing.workload import Workload


def case_sections(workload: Workload, candidate: Candidate, seed: int, title: str) -> list[Section]:
    """Latencies and the course of the first sample, which is run once more.

    Args:
        workload: what is served.
        candidate: policy and cluster.
        seed: of patience and routing.
        title: what it is, for the sections' titles.
    """
    told = case_times(workload, candidate.case(0, seed))
    sample, times = workload.samples[0], told.times
    instance = told.cluster.instance
    left = np.fmin(times[layout.LEAVE_PREFILL], times[layout.LEAVE_DECODE])
    requests = RequestTimes(
        tuple(c.name for c in instance.classes),
        sample.request_class,
        sample.prompt_tokens,
        sample.output_tokens,
        sample.arrival_time,
        times[layout.PREFILL_START],
        times[layout.PREFILL_END],
        times[layout.DECODE_START],
        times[layout.DECODE_END],
        np.fmin(left, times[layout.REJECT]),
        workload.counted[0],
    )
    names = list(requests.class_names)
    latencies = requests.latencies
    rows = {
        latency: np.array(
            [
                quantiles_of(latencies[latency][requests.counted & (requests.request_class == i)])
                for i in range(len(names))
            ]
        )
        for latency in LATENCIES
    }
    run = run_of_requests(requests, candidate.n_gpus, sample.duration)
    levels = plan_levels(told.cluster)
    several = len(workload.samples) > 1
    whose = f"Sample 0 of {len(workload.samples)}, seed {seed}." if several else "All requests."
    legend = list(enumerate(names))
    return [
        Section(
            f"Latencies: {title}", f"{whose} {LEAD}", charts_by_class(names, rows, instance), legend
        ),
        Section(
            f"Over time: {title}",
            f"{whose} {OVER_TIME}",
            over_time_by_class(run, names, levels),
            [*legend, (len(names), "all classes")],
        ),
    ]
