"""The part of docs/bandits.md on ``llmsched adapt``, from its JSON."""

from __future__ import annotations

import textwrap
from typing import Any

from research.framework.paper_page import table_lines

_LEARNS_NOT = "simulator's best point"


def adaptation_parts(adapted: dict[str, Any]) -> dict[str, str]:
    """Texts by the names that the page's template has for them.

    Args:
        adapted: what ``llmsched adapt`` writes.
    """
    cases = adapted["cases"]
    numbers = ("n_gpus", "points", "hour_seconds", "warmup", "runs", "days", "repetitions", "noise")
    return {
        **{name: f"{adapted[name]:g}" for name in numbers},
        "loads": ", ".join(f"{load:g}" for load in adapted["loads"]),
        "adapted": "\n".join(table_lines(_table(cases))),
        "adapted_cases": "\n".join(_sentence(case) for case in cases),
        "misfit": f"{cases[0]['misfit']:.2f}",
        "hourly": f"{cases[0]['gain_of_hourly_choice']:.1%}",
    }


def _table(cases: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row a method, a column a simulator."""
    return [
        {"method": method}
        | {_heading(case): _percent(case["lost"][method]["end"]) for case in cases}
        for method in cases[0]["lost"]
    ]


def _heading(case: dict[str, Any]) -> str:
    name, kind = case["simulator"], case["kind"]
    return name if name == kind else f"{name} ({kind})"


def _percent(estimate: dict[str, Any]) -> str:
    mean, high = estimate["mean"], estimate["ci95"][1]
    return f"{100 * mean:.2f}" + ("" if high is None else f" ± {100 * (high - mean):.2f}")


def _sentence(case: dict[str, Any]) -> str:
    """What a simulator takes for the best, and who loses least."""
    lost = {name: found["end"]["mean"] for name, found in case["lost"].items()}
    least = min((name for name in lost if name != _LEARNS_NOT), key=lambda name: lost[name])
    text = (
        f"- **{_heading(case)}**: its best point is {_point(case['simulated_best_point'])}; the "
        f"real one's is {_point(case['best_point'])}. To hold the former loses "
        f"{case['loss_of_simulated_best']:.1%}. The linear fits differ by {case['bias']:.2f}. Of "
        f"the learners, {least} loses least, {lost[least]:.1%}; LinUCB {lost['LinUCB']:.1%}, "
        f"pooled {lost['pooled']:.1%}."
    )
    return textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False)


def _point(point: dict[str, Any]) -> str:
    return (
        f"{point['prefill_share']:.1%} prefill, C = {point['chunk_tokens']}, "
        f"B = {point['batch_slots']}, reserves x {point['reserve_scale']:g}"
    )
