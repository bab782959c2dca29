"""Put a full leaderboard into docs/results/leaderboard.md (``make leaderboard``)."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from research.leaderboard.ranking_page import END, FULL

ROOT = Path(__file__).parents[2]


def main(results: str) -> None:
    """Copy it between the marks of the page; its rows and figure go to where the page links."""
    docs, folder = ROOT / "docs" / "results", Path(results)
    leaderboard = (folder / "leaderboard.md").read_text(encoding="utf-8")
    if not leaderboard.startswith(FULL):
        sys.exit(
            f"{folder}: got a part of the leaderboard, expected a full one; leave out --quick and "
            "--policies that restrict it"
        )
    linked = leaderboard.replace(
        "](results.csv)", "](../../research/results/leaderboard.csv)"
    ).rstrip("\n")
    page = docs / "leaderboard.md"
    write_whole(page, _replaced(page, FULL, END, linked))
    shutil.copyfile(folder / "results.csv", ROOT / "research" / "results" / "leaderboard.csv")
    shutil.copyfile(folder / "leaderboard.png", docs / "leaderboard.png")


def _replaced(path: Path, start: str, end: str, text: str) -> str:
    """A file's text with everything from one mark to the other replaced."""
    pattern = f"{re.escape(start)}.*?{re.escape(end)}"
    found = path.read_text(encoding="utf-8")
    changed, count = re.subn(pattern, lambda _: text, found, flags=re.DOTALL)
    if count != 1:
        sys.exit(
            f"{path.name}: got {count} places for the leaderboard, expected one; restore its marks"
        )
    return changed


if __name__ == "__main__":
    main(*sys.argv[1:])
