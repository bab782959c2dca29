"""Put tables and figures of ``train-study`` into the documentation (``make training``)."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from llm_sched_env.agents.training_variants import VARIANTS
from llm_sched_env.files.atomic import write_whole
from research.agent_training.page import FIGURE, TABLE
from research.agent_training.study import STUDIES

ROOT = Path(__file__).parents[2]
CAPTIONS = {
    "variants": "*What to see: how far each way of training gets, and how soon; a line begins at "
    "the score of the policy that training starts from.*",
    "scratch": "*What to see: from scratch PPO passes the paper's policy early and ends below the "
    "best rule (dashed); around the rule it starts there and stays.*",
    "scale": "*What to see: whether more steps of training still add to the score at the end.*",
}


def main(results: str) -> None:
    """Fill the marks of ``training.md``; figures go next to it as ``training_STUDY.png``."""
    docs = ROOT / "docs"
    page_file = docs / "training.md"
    page = page_file.read_text(encoding="utf-8")
    lines = [f"| `{variant.name}` | {variant.description} |" for variant in VARIANTS]
    page = _filled(page, "variants: names", "end of names", ["| name | |", "|---|---|", *lines])
    for study in STUDIES:
        folder = Path(results) / study
        if not (folder / TABLE).exists():
            continue
        table = (folder / TABLE).read_text(encoding="utf-8").splitlines()
        shutil.copyfile(folder / FIGURE, docs / f"training_{study}.png")
        table += ["", f"![Evaluations during training](training_{study}.png)", CAPTIONS[study]]
        page = _filled(
            page, f"table: python -m research train-study {study}", "end of table", table
        )
    write_whole(page_file, page)


def _filled(page: str, start: str, end: str, lines: list[str]) -> str:
    """The page with these lines between two marks; exits when the marks are not there once."""
    first, last = f"<!-- {start} -->", f"<!-- {end} -->"
    content = "\n".join([first, *lines, last])
    pattern = f"{re.escape(first)}.*?{re.escape(last)}"
    filled, count = re.subn(pattern, lambda _: content, page, count=0, flags=re.DOTALL)
    if count != 1:
        sys.exit(f"training.md: got {count} places for {start!r}, expected one; restore its marks")
    return filled


if __name__ == "__main__":
    main(*sys.argv[1:])
