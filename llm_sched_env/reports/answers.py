"""Results of policies in words: who earns most, how surely, and what it costs the requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llm_sched_env.evaluation.results import Estimate, Evaluation
from llm_sched_env.reports.axes import seconds_text

Labelled = tuple[str, Evaluation]


def comparison_answer(results: Sequence[Labelled]) -> list[str]:
    """Who earns most, first in a sentence, then instance by instance at its greatest size."""
    cases = []
    for instance in dict.fromkeys(result.instance for _, result in results):
        own = [(label, r) for label, r in results if r.instance == instance]
        most = max(r.n_gpus for _, r in own)
        at_most = [(label, r) for label, r in own if r.n_gpus == most]
        cases.append(sorted(at_most, key=lambda pair: -pair[1].score.mean))
    if len(cases) == 1:
        return _of_case(cases[0])
    best = [case[0][0] for case in cases]
    label = max(best, key=best.count)
    first = f"{label} earns most on {best.count(label)} of {len(cases)} instances."
    return [first, *(" ".join(_of_case(case, described=False)) for case in cases)]


def _of_case(ranked: Sequence[Labelled], *, described: bool = True) -> list[str]:
    """The best of policies on an instance at a size; ``described``: what it gives the requests."""
    label, best = ranked[0]
    where = f"on {best.instance} with {best.n_gpus} GPU{'s' if best.n_gpus > 1 else ''}"
    score = f"{100 * best.score.mean:.1f}% of R*{_interval(best)}"
    if len(ranked) == 1:
        return [f"{label} earns {score} {where}.", quality(label, best)]
    rest = [_lead(best, *ranked[1])]
    if len(ranked) > 2:
        last_label, last = ranked[-1]
        rest.append(f"{last_label} earns least, {100 * last.score.mean:.1f}%.")
    if described:
        rest.append(quality(label, best))
    return [f"{label} earns most {where}: {score}.", " ".join(rest)]


def _interval(result: Evaluation) -> str:
    low, high = result.score.ci95
    return f" (95%: {100 * low:.1f} to {100 * high:.1f}%)" if math.isfinite(low) else ""


def _lead(best: Evaluation, other: str, second: Evaluation) -> str:
    """How far ahead of the second, by differences on the same requests."""
    points = 100.0 * (np.array(best.scores) - np.array(second.scores))
    difference = Estimate.of(points, requests_given=best.requests_given)
    low, high = difference.ci95
    if not math.isfinite(low):
        return f"That is {difference.mean:.2f} points more than {other}."
    if low > 0:
        text = f"That is {difference.mean:.2f} points more than {other}"
        return f"{text} (95%: {low:.2f} to {high:.2f}, on the same requests)."
    return (
        f"These runs cannot tell it apart from {other}: {difference.mean:.2f} points more "
        f"(95%: {low:.2f} to {high:.2f}, on the same requests)."
    )


def quality(label: str, result: Evaluation) -> str:
    """What requests get: deadlines kept, tails, who leaves."""
    parts = []
    if result.deadlines is not None:
        parts.append(
            f"{100 * result.deadlines.attainment:.1f}% of the requests met their deadlines"
        )
    for name, latency in (("TTFT", result.ttft), ("TPOT", result.tpot)):
        if math.isfinite(latency.p99):
            parts.append(f"the 99th percentile of {name} is {seconds_text(latency.p99)}")
    lost = result.abandoned["share"]
    if lost is not None:
        parts.append(
            f"{100 * lost:.1f}% of the requests left before they were done"
            if lost > 0
            else "no request left"
        )
    return f"Under {label} {_listed(parts)}."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
