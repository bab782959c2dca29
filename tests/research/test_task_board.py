"""The headroom table and the leaderboard by task: who competes, what is kept, what is published."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.tasks import HeldOut, suite
from llm_sched_env.tasks.reference import best_rule, write_best_rules
from research.framework.cell_runs import run_cells
from research.pages import update_tasks
from research.tasks.entrants import TRAINED, Given, entrants
from research.tasks.leaderboard_page import leaderboard_page
from research.tasks.standings import TaskStandings, closed_by, headroom_table, interquartile_mean
from research.tasks.study import TaskStudy, task_digest

ROOT = Path(__file__).parents[2]
POLICIES = ("trunk-reservation", "gate-and-route", "fcfs-immediate", "learned", "random-actions")


class Sleeper:
    """An entrant from outside, in the task's own action space."""

    def reset(self, instance: Any, plan: Any, n_gpus: int, rng: Any) -> None:
        self.size = 2 * instance.n_classes

    def act(self, observation: Any, info: Any) -> Any:
        return np.zeros(self.size, np.float32)


def row(task: str, label: str, kind: str, revenue: list[float], **more: Any) -> dict[str, Any]:
    return {
        "task": task,
        "label": label,
        "algorithm": more.get("algorithm", label),
        "kind": kind,
        "steps": more.get("steps"),
        "seconds": more.get("seconds"),
        "refused": "",
        "revenue": " ".join(map(repr, revenue)),
        "bound": " ".join(["10.0"] * len(revenue)),
        "cpu_seconds": 0.1,
    }


ROWS = [
    row("Bursts", "random-actions", "reference", [5.0, 5.2]),
    row("Bursts", "do-nothing", "reference", [5.5, 5.2]),
    row("Bursts", "gate-and-route", "rule", [7.0, 7.2]),
    row("Bursts", "fcfs-immediate", "serving", [7.5, 7.2]),
    row("Bursts", "trunk-reservation", "rule", [8.0, 8.2]),
    *(
        row("Bursts", f"ppo-{k}", TRAINED, [8.0 + k, 8.2 + k], algorithm="ppo", steps=10)
        for k in range(4)
    ),
    row("Overload200", "gate-and-route", "rule", [9.0, 9.2]),
    row("Overload200", "trunk-reservation", "rule", [9.92, 9.94]),
    row("Overload200", "learned", TRAINED, [9.93, 9.95]),
]


@pytest.fixture
def one_small_task(monkeypatch: pytest.MonkeyPatch) -> None:
    own = suite.TASKS["Overload5"]
    held_out = HeldOut(horizon=30.0, warmup=5.0, replications=2, seed=1)
    small = dataclasses.replace(own, serving=POLICIES[2:3], rules=POLICIES[:2], held_out=held_out)
    monkeypatch.setattr(suite, "TASKS", {"Overload5": small})


def test_entrants_of_every_kind_by_import_path(one_small_task: None, tmp_path: Path) -> None:
    path = f"{__name__}:Sleeper"
    competing = entrants(suite.TASKS.values(), [Given(path, "Overload5"), Given(path, "Bursts")])
    labels = [one.label for one in competing]
    assert labels[:2] == ["random-actions", "do-nothing"]
    assert {*POLICIES, "Sleeper"} <= {*labels}
    study = TaskStudy(competing)
    cells = study.cells(quick=False)
    from llm_sched_env.evaluation.executor import Executor

    arguments = {"executor": Executor(jobs=1)}
    rows = run_cells(study, cells, tmp_path, **arguments)
    assert run_cells(study, cells, tmp_path, **arguments) == rows
    assert len(list((tmp_path / "tasks").iterdir())) == len(cells)
    standings = TaskStandings(rows)
    slept = standings.one("Overload5", "Sleeper")
    nothing = standings.one("Overload5", "do-nothing")
    assert slept is not None
    assert nothing is not None
    assert slept.revenue == nothing.revenue


def test_two_entrants_of_one_name_are_refused(one_small_task: None) -> None:
    alias = Given("GG-SP")  # of gate-and-route, which competes
    with pytest.raises(ConfigurationError, match="Two entrants of the task Overload5"):
        entrants(suite.TASKS.values(), [alias])


def test_a_changed_task_is_measured_anew() -> None:
    own = suite.TASKS["Bursts"]
    other = dataclasses.replace(own, settings={**own.settings, "n_gpus": 21})
    assert task_digest(own) == task_digest(dataclasses.replace(own, purpose="another text"))
    assert task_digest(own) != task_digest(other)
    # The same in every process: nothing of it is an address.
    assert task_digest(own) == task_digest(dataclasses.replace(own, form=type(own.form)()))


def test_the_headroom_table_names_the_best_and_marks_what_is_solved() -> None:
    bursts, overload = headroom_table(TaskStandings(ROWS))
    assert "trunk-reservation" in bursts["best rule"]
    assert bursts["headroom"] == "19.0"
    assert bursts["learned less rule"].startswith("+30.00")
    assert overload["headroom"] == "0.7 (solved)"
    assert overload["random"] == "-"


def test_seeds_of_one_training_are_one_algorithm() -> None:
    standings = TaskStandings(ROWS)
    (ppo,) = standings.algorithms("Bursts")
    assert (ppo.algorithm, len(ppo.runs), ppo.steps) == ("ppo", 4, 10.0)
    closed = closed_by(ppo, standings.best_rule("Bursts"))
    each = [k / 1.9 for k in range(4)]
    assert closed.mean == pytest.approx(np.mean(each[1:3]))
    assert closed.ci95[0] < closed.mean < closed.ci95[1]
    assert interquartile_mean([0.0, 1.0, 2.0, 100.0]) == pytest.approx(1.5)
    text = leaderboard_page(TaskStandings(ROWS), versions(), "python -m research tasks")
    assert text == leaderboard_page(TaskStandings(ROWS), versions(), "python -m research tasks")
    assert "| `ppo` | 4 |" in text
    assert "Solved: for checking an algorithm" in text


def test_best_rules_are_kept_for_evaluate_task(tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    before = best_rule("Bursts")
    write_best_rules({"Bursts": "token-bucket"}, file)
    assert '"Bursts": "token-bucket"' in file.read_text()
    assert best_rule("Bursts") == before


def test_the_pages_are_those_of_the_rows() -> None:
    """Numbers of docs/tasks.md and the best rules follow from research/results/tasks.csv."""
    standings = TaskStandings(update_tasks.read_results(update_tasks.RESULTS))
    page = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    for found in headroom_table(standings):
        assert found["best rule"] in page
        assert best_rule(found["task"]) == standings.best_rule(found["task"]).policy
        section = page.partition(f"### {found['task']}\n")[2].partition("\n### ")[0]
        assert found["learned less rule"] in section
        assert ("Solved: for checking" in section) == ("solved" in found["headroom"])
    assert set(re.findall(r"^### (\w+)$", page, re.MULTILINE)) == {*suite.TASKS}
