"""Write docs/bandits.md from the measured rows (``make bandits`` measures them first)."""

from __future__ import annotations

import csv
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from llm_sched_env.adaptation.cases import SIMULATORS, default_cluster
from llm_sched_env.adaptation.experiment import Adaptation, default_points
from llm_sched_env.adaptation.figure import write_figure
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.files.atomic import save_figure, write_whole
from research.framework.cell_runs import run_cells
from research.framework.claims import Claim
from research.framework.paper_page import table_lines
from research.framework.study import Row
from research.framework.study_files import csv_bytes
from research.pages.adaptation_table import adaptation_parts
from research.studies.biased_offline_data import BiasedOfflineData

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROWS = ROOT / "research" / "results" / "bandits.csv"
ADAPTED = ROOT / "research" / "results" / "adapt.json"
SEED = 0
STUDY = BiasedOfflineData()
_TEXTS = ("direction", "policy")


def main(folder: str | None = None) -> None:
    """Write page and figure; with a folder for finished cells, compute the rows first."""
    if folder is not None:
        cells = STUDY.cells(quick=False, seed=SEED)
        rows = run_cells(STUDY, cells, Path(folder) / "cells", executor=Executor())
        write_whole(ROWS, csv_bytes(rows))
        measure_adaptation(Path(folder) / "hours")
    rows = read_rows()
    findings = STUDY.findings(rows)
    adapted = json.loads(ADAPTED.read_text(encoding="utf-8"))
    template = (Path(__file__).parent / "bandits_page.md").read_text(encoding="utf-8")
    page = template.format(
        settings=textwrap.fill(STUDY.settings(rows), 118),
        claims="\n".join([*table_lines(_claims(findings.claims)), *_reasons(findings.claims)]),
        regrets="\n".join(table_lines(findings.table)),
        **adaptation_parts(adapted),
    )
    write_whole(DOCS / "bandits.md", page)
    _draw(rows, DOCS / "bandits.png")


def measure_adaptation(cache: Path) -> None:
    """Run ``llmsched adapt`` as it is by default; its JSON and figure go to where the page links.

    Args:
        cache: folder of finished evaluations.
    """
    adaptation = Adaptation(default_cluster(), SIMULATORS, default_points())
    result = adaptation.run(Executor(), cache)
    write_whole(ADAPTED, json.dumps(result.to_dict(), indent=1, allow_nan=False))
    write_figure(result, DOCS / "adapt.png")


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows of the file, numbers as numbers and empty cells as None."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: text if name in _TEXTS else _number(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def _number(text: str) -> float | int | None:
    if not text:
        return None
    return int(text) if text.isdecimal() else float(text)


def _claims(claims: Sequence[Claim]) -> list[dict[str, object]]:
    return [
        {
            "": k,
            "claim": f"{claim.statement} ({claim.place})",
            "our number": claim.quantity,
            "value [95% interval]": claim.number(),
            "agrees if": claim.criterion.text(claim.shown),
            "outcome": f"**{claim.outcome}**",
        }
        for k, claim in enumerate(claims, 1)
    ]


def _reasons(claims: Sequence[Claim]) -> list[str]:
    found = [
        f"- ({k}) {claim.outcome}: {claim.reason}."
        for k, claim in enumerate(claims, 1)
        if claim.reason
    ]
    return ["", *found] if found else []


def _draw(rows: list[Row], path: Path) -> None:
    """The figure as PNG without a mark of the library's version: same rows, same bytes."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    STUDY.draw(rows, figure)
    save_figure(figure, path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
