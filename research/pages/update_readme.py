"""Put the table and figures of a comparison into the README (``make readme``)."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from llm_sched_env.commands.quick_comparison import CURVES
from llm_sched_env.files.atomic import write_whole

START, END = "<!-- table: make readme -->", "<!-- end of table -->"

ROOT = Path(__file__).parents[2]


def main(results: str) -> None:
    """Copy ``table.md`` between the marks of README.md, and the figures into docs/."""
    docs = ROOT / "docs"
    readme = docs.parent / "README.md"
    table = (Path(results) / "table.md").read_text(encoding="utf-8")
    text, count = re.subn(
        f"{START}.*?{END}",
        lambda _: f"{START}\n{table}{END}",
        readme.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        sys.exit(f"README.md: got {count} places for the table, expected one; restore its marks")
    write_whole(readme, text)
    shutil.copyfile(Path(results) / "figure.png", docs / "comparison.png")
    shutil.copyfile(Path(results) / CURVES, docs / CURVES)


if __name__ == "__main__":
    main(*sys.argv[1:])
