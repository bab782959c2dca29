"""Compute the study of exact optima and write its page (``make exact-optimum``)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from llm_sched_env.optimum_page import write_page
from llm_sched_env.optimum_study import Row, cells, compute


def main(arguments: list[str]) -> None:
    """Rows of every cell, kept as soon as they are there; then the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smallest systems only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    planned = cells(quick=options.quick, seed=options.seed)
    for number, cell in enumerate(planned, start=1):
        print(f"{number} of {len(planned)}: {json.dumps(cell)}", file=sys.stderr, flush=True)
        rows += compute(cell)
    write_page(rows, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
