"""A study of known rows that leaves a line for every cell that it computes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.evaluation.results import Estimate
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.study import Study


class Counting(Study):
    """Sums of draws; cells: ``numbers`` of them, ``work`` is the cost.

    Args:
        log: gets a line per computed cell, also from other processes.
        deadly: the cell that ends the process without a word.
        wrong: the cell that raises an error of the package.
    """

    name = "counting"
    title = "Sums of draws"
    source = "section 0"

    def __init__(self, log: Path, deadly: int | None = None, wrong: int | None = None) -> None:
        self.log, self.deadly, self.wrong = log, deadly, wrong

    def cells(self, *, quick, seed):
        return [{"k": k, "seed": seed, "work": (7 * k) % 5} for k in range(4 if quick else 8)]

    def cost(self, cell):
        return cell["work"]

    def compute(self, cell):
        if cell["k"] == self.deadly:
            os._exit(9)
        if cell["k"] == self.wrong:
            raise PlanError("no plan today")
        with self.log.open("a") as file:
            file.write(f"{cell['k']}\n")
        draws = np.random.default_rng([cell["seed"], cell["k"]]).random(3)
        return [{"k": cell["k"], "draw": float(draw), "none": None} for draw in draws]

    def findings(self, rows):
        values = np.array([row["draw"] for row in rows])
        claims = [
            Claim("draws have mean 1/2", "0.1", "mean", Estimate.of(values), Criterion(0, 1)),
            Claim(
                "all cells ran",
                "0.2",
                "rows",
                exact(len(rows)),
                Criterion(24, 24),
                {"differs": "a quick run has fewer"},
                ".0f",
            ),
        ]
        return Findings(claims, [{"n": len(rows), "text": "a|b"}], ["A remark."])

    def draw(self, rows, figure):
        figure.subplots().plot([row["draw"] for row in rows])

    def settings(self, rows):
        return f"{len(rows)} rows."

    def computed(self) -> list[int]:
        """Cells computed so far, in order."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []
