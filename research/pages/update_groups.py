"""Write docs/groups.md from the measured rows (``make groups`` measures them first)."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from llm_sched_env.planning import plan
from research.pages.result_rows import read_results, write_results
from research.setups.fleet_runs import (
    HORIZON,
    RESULTS,
    RUNS,
    SEED,
    SERVING,
    SIZES,
    WARMUP,
    instances,
    measure,
)

DOCS = Path(__file__).parents[2] / "docs"
SHOWN_SIZE = 20
"""GPUs of which the text speaks."""
Rows = list[dict[str, str]]


def main(cache: str | None = None) -> None:
    """Write the page; with a folder for finished evaluations, measure first."""
    if cache is not None:
        write_results(measure(Path(cache)), RESULTS)
    rows = read_results(RESULTS)
    template = (Path(__file__).parent / "groups_page.md").read_text(encoding="utf-8")
    page = template.format(
        tables="\n\n".join(_section(rows, name) for name in instances()),
        horizon=f"{HORIZON:g}",
        warmup=f"{WARMUP:g}",
        runs=RUNS,
        seed=SEED,
    )
    write_whole(DOCS / "groups.md", page)


def _section(rows: Rows, name: str) -> str:
    own = [row for row in rows if row["instance"] == name]
    return f"### {name}\n\n{_finding(own, name)}\n\n{_table(own)}"


def _score(rows: Rows, policy: str, n_gpus: int) -> dict[str, str]:
    wanted = (policy, str(n_gpus))
    return next(row for row in rows if (row["policy"], row["n_gpus"]) == wanted)


def _ranked(rows: Rows, n_gpus: int) -> list[str]:
    own = [row for row in rows if row["n_gpus"] == str(n_gpus)]
    return [row["policy"] for row in sorted(own, key=lambda row: -float(row["score"]))]


def _finding(rows: Rows, name: str) -> str:
    """The groups, and the best rule beside the best of what serving systems do."""
    instance = instances()[name]
    groups = " and ".join(
        f"{group.share:.0%} `{group.name}`" + ("" if group.role == "mixed" else " GPUs")
        for group in instance.groups
    )
    ranked = _ranked(rows, SHOWN_SIZE)
    serving = next(policy for policy in ranked if policy in SERVING)
    best, other = (float(_score(rows, p, SHOWN_SIZE)["score"]) for p in (ranked[0], serving))
    text = (
        f"{groups}; R* is {plan(instance).value:.2f}. At n = {SHOWN_SIZE} the best is "
        f"`{ranked[0]}` with {best:.3f} of R*, the best of what serving systems do "
        f"`{serving}` with {other:.3f}."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _table(rows: Rows) -> str:
    header = ["policy", *(f"n = {n}" for n in SIZES)]
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * len(SIZES)]
    for policy in _ranked(rows, SIZES[-1]):
        scores = [_with_interval(_score(rows, policy, n)) for n in SIZES]
        lines.append(f"| {' | '.join([f'`{policy}`', *scores])} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, str]) -> str:
    mean, high = float(row["score"]), float(row["score_high"])
    return f"{100 * mean:.1f}±{100 * (high - mean):.1f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
