"""Put full-size results of the studies into the documentation (``make paper``)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from research.framework.paper_page import INTRODUCTION, is_quick, parts, with_paragraph
from research.framework.registry import STUDIES
from research.framework.study_files import PAGE

ROOT = Path(__file__).parents[2]


def main(results: str) -> None:
    """Copy each study's part into docs/results/paper.md, its figure and rows to where it links."""
    docs, rows, folder = (
        ROOT / "docs" / "results",
        ROOT / "research" / "results" / "paper",
        Path(results),
    )
    page_file = docs / PAGE
    page = page_file.read_text(encoding="utf-8") if page_file.exists() else INTRODUCTION
    found = parts((folder / PAGE).read_text(encoding="utf-8"))
    quick = [name for name, part in found.items() if is_quick(part)]
    if quick:
        sys.exit(f"{folder}: got quick runs of {', '.join(quick)}, expected full ones")
    (docs / "paper").mkdir(parents=True, exist_ok=True)
    order = [study.name for study in STUDIES]
    for name, part in found.items():
        shutil.copyfile(folder / f"{name}.png", docs / "paper" / f"{name}.png")
        shutil.copyfile(folder / f"{name}.csv", rows / f"{name}.csv")
        linked = part.replace(f"]({name}.png", f"](paper/{name}.png")
        linked = linked.replace(f"]({name}.csv", f"](../../research/results/paper/{name}.csv")
        page = with_paragraph(page, name, linked, order)
    write_whole(page_file, page)


if __name__ == "__main__":
    main(*sys.argv[1:])
