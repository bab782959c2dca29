"""Write docs/datasets.md from the measured rows (``make datasets`` measures them first)."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from llm_sched_env.files.atomic import write_whole
from research.framework.paper_page import table_lines
from research.pages.result_rows import read_results, write_results
from research.setups.offline_runs import (
    ARGUMENTS,
    EPISODES,
    RESULTS,
    RUNS,
    SOURCES,
    STEPS,
    TRAININGS,
    measure,
)

DOCS = Path(__file__).parents[2] / "docs"
_LEARNERS = {"data": "the data's policy", "bc": "behaviour cloning", "iql": "IQL"}

Rows = list[dict[str, str]]


def main(folder: str | None = None) -> None:
    """Write the page; with a folder for datasets, measure first."""
    if folder is not None:
        write_results(measure(Path(folder)), RESULTS)
    rows = read_results(RESULTS)
    template = (Path(__file__).parent / "datasets_page.md").read_text(encoding="utf-8")
    page = template.format(
        n_gpus=ARGUMENTS["n_gpus"],
        horizon=f"{ARGUMENTS['horizon']:g}",
        episodes=EPISODES,
        runs=RUNS,
        trainings=TRAININGS,
        steps=f"{STEPS:,}",
        rule=_cell([row for row in rows if row["learner"] == "trunk-reservation"]),
        table="\n".join(table_lines([_line(rows, source) for source in SOURCES])),
    )
    write_whole(DOCS / "datasets.md", page)


def _line(rows: Rows, source: str) -> dict[str, str]:
    own = [row for row in rows if row["data"] == source]
    found = {
        shown: _cell([row for row in own if row["learner"] == learner])
        for learner, shown in _LEARNERS.items()
    }
    return {"data": source, "random actions": f"{SOURCES[source]:.0%}", **found}


def _cell(rows: Rows) -> str:
    """The mean over trainings with the interval over runs, and the range over trainings."""
    mean, high = (fmean(float(row[name]) for row in rows) for name in ("score", "score_high"))
    text = f"{100 * mean:.1f} ± {100 * (high - mean):.1f}"
    if len(rows) == 1:
        return text
    scores = [100 * float(row["score"]) for row in rows]
    return f"{text} ({min(scores):.1f} to {max(scores):.1f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
