"""Put full-size results of ``llmsched experiment`` into the documentation (``make paper``)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from llm_sched_env.experiments.paper_page import INTRODUCTION, is_quick, parts, with_paragraph
from llm_sched_env.experiments.registry import STUDIES
from llm_sched_env.experiments.study_files import PAGE


def main(results: str) -> None:
    """Copy each study's part into ``paper.md``, its rows and figure into ``paper/``."""
    docs, folder = Path(__file__).parent, Path(results)
    page_file = docs / PAGE
    page = page_file.read_text(encoding="utf-8") if page_file.exists() else INTRODUCTION
    found = parts((folder / PAGE).read_text(encoding="utf-8"))
    quick = [name for name, part in found.items() if is_quick(part)]
    if quick:
        sys.exit(f"{folder}: got quick runs of {', '.join(quick)}, allowed are full ones")
    (docs / "paper").mkdir(exist_ok=True)
    order = [study.name for study in STUDIES]
    for name, part in found.items():
        for file in (f"{name}.csv", f"{name}.png"):
            shutil.copyfile(folder / file, docs / "paper" / file)
        linked = part.replace(f"]({name}.", f"](paper/{name}.")
        page = with_paragraph(page, name, linked, order)
    page_file.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
