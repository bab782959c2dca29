"""Policies on the tasks as a study: a cell is a policy on a task."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.result_cache import result_key
from llm_sched_env.model.instance import Instance
from llm_sched_env.tasks import TASKS, Task, task
from llm_sched_env.tasks.evaluation import run_task
from research.framework.claims import Findings
from research.framework.study import Cell, Row, Study
from research.tasks.entrants import TaskEntrant
from research.tasks.headroom_figure import draw_tasks
from research.tasks.standings import TaskStandings, headroom_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUICK_REPLICATIONS = 2
# Seconds of a processor for a simulated second and replication, roughly: compiled, and in Python.
_COMPILED, _DECIDED = 2e-4, 2e-3


class TaskStudy(Study):
    """Everybody on the same requests of each task.

    Args:
        competing: entrants, in the order of the rows.
    """

    name = "tasks"
    title = "Tasks"
    source = "This project"
    names_its_policies = True

    def __init__(self, competing: Sequence[TaskEntrant] = ()) -> None:
        self.competing = list(competing)

    def cells(self, *, quick: bool, seed: int = 0) -> list[Cell]:  # noqa: ARG002 - the tasks' own
        """One cell a task and entrant."""
        return [
            {
                "task": one.task,
                "of": task_digest(task(one.task)),
                "label": one.label,
                "algorithm": one.algorithm,
                "policy": one.policy,
                "kind": one.kind,
                "stamp": one.stamp,
                "steps": one.training[0],
                "seconds": one.training[1],
                "replications": QUICK_REPLICATIONS
                if quick
                else task(one.task).held_out.replications,
            }
            for one in self.competing
        ]

    def cost(self, cell: Cell) -> float:
        """Seconds of a processor, to a factor of a few."""
        chosen = task(cell["task"])
        seconds = (chosen.held_out.horizon or 900.0) * cell["replications"]
        per_second = _COMPILED if cell["kind"] in {"rule", "serving"} else _DECIDED
        return float(seconds * per_second * chosen.n_gpus**0.5)

    def compute(self, cell: Cell) -> list[Row]:
        """One row: revenue and bound of each replication, or why the policy cannot play."""
        chosen = task(cell["task"])
        names = ("task", "label", "algorithm", "kind", "steps", "seconds")
        row: Row = {name: cell[name] for name in names}
        started = time.process_time()
        try:
            runs = run_task(chosen, cell["policy"], replications=cell["replications"])
        except ConfigurationError as error:
            return [row | {"refused": str(error), "revenue": "", "bound": "", "cpu_seconds": 0.0}]
        spent = time.process_time() - started
        return [
            row
            | {
                "refused": "",
                "revenue": " ".join(map(repr, runs.revenue)),
                "bound": " ".join(map(repr, runs.bound)),
                "cpu_seconds": round(spent, 2),
            }
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """The headroom table; it claims nothing."""
        return Findings([], headroom_table(TaskStandings(rows)))

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Shares of the bound, and what trained policies add."""
        draw_tasks(TaskStandings(rows), figure)

    def settings(self, rows: list[Row]) -> str:
        """What was run."""
        names = list(dict.fromkeys(row["task"] for row in rows))
        return (
            f"{len(names)} tasks, {len(rows)} policies on them; all of a task on the same requests."
        )


def task_digest(chosen: Task) -> str:
    """SHA-256 of what decides the results of a task."""
    settings = {name: _plain(value) for name, value in chosen.settings.items()}
    form = {name: _plain(value) for name, value in vars(chosen.form).items()}
    kind = type(chosen.form).__qualname__
    text = repr((sorted(settings.items()), kind, form, chosen.bound, chosen.held_out))
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """What is the same in every process."""
    if callable(value):
        value = value()  # a function that makes an instance
    return result_key(value.to_dict()) if isinstance(value, Instance) else value


def present_tasks(names: Iterable[str] = ()) -> tuple[list[Task], list[str]]:
    """Tasks of these names (default all) whose traces are here, and why the others are not."""
    found, absent = [], []
    for name in names or TASKS:
        chosen = task(name)
        try:
            chosen.run_arguments()
        except ConfigurationError as error:
            absent.append(f"{chosen.name}: {error}")
        else:
            found.append(chosen)
    return found, absent
