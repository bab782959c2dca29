"""Write docs/tasks.md and docs/results/tasks.md from measured rows (``make tasks``)."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

import gymnasium as gym

from llm_sched_env.files.atomic import write_whole
from llm_sched_env.tasks import TASKS, Task
from llm_sched_env.tasks.reference import write_best_rules
from llm_sched_env.tasks.task import HINDSIGHT, INTERVAL, SOLVED
from research.framework.paper_page import table_lines
from research.pages.result_rows import read_results
from research.tasks.standings import TaskStandings, headroom_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "research" / "results" / "tasks.csv"
_BASES = {
    "LLMSched-v0": "environments/interval.md",
    "LLMSchedEvent-v0": "environments/event.md",
    "LLMSchedRouting-v0": "environments/routing.md",
}
_BOUNDS = {
    "fluid": "R*, the fluid bound of the requests and seconds that are measured",
    HINDSIGHT: "the hindsight bound: the fluid program along the very arrivals of each run, known "
    "in advance ([model](model.md))",
}
_WIDTH = 118


def main(results: str | None = None) -> None:
    """Write the pages; with a folder that ``python -m research tasks`` wrote, take it over first.

    The rows also say which rule is the best of each task, from which headroom is counted.
    """
    if results is not None:
        folder, docs = Path(results), ROOT / "docs" / "results"
        shutil.copyfile(folder / "results.csv", RESULTS)
        shutil.copyfile(folder / "tasks.md", docs / "tasks.md")
        shutil.copyfile(folder / "tasks.png", docs / "tasks.png")
    standings = TaskStandings(read_results(RESULTS))
    write_best_rules({task: standings.best_rule(task).policy for task in standings.tasks})
    template = (Path(__file__).parent / "tasks_page.md").read_text(encoding="utf-8")
    page = template.format(
        table="\n".join(table_lines([_linked(row) for row in headroom_table(standings)])),
        solved=f"{SOLVED:.0%}",
        sections="\n\n".join(_section(one, standings) for one in TASKS.values()),
    )
    write_whole(ROOT / "docs" / "tasks.md", page)


def _linked(row: dict[str, str]) -> dict[str, str]:
    return row | {"task": f"[{row['task']}](#{row['task'].lower()})"}


def _section(task: Task, standings: TaskStandings) -> str:
    about = f'`gym.make("{task.id}")`: {task.title}. {task.purpose}'
    parts = [f"### {task.name}", _wrapped(about), _facts(task)]
    return "\n\n".join([*parts, *_measured(task, standings)])


def _measured(task: Task, standings: TaskStandings) -> list[str]:
    """The row of a task, and what its best rule leaves."""
    if task.name not in standings.tasks:
        return ["Not measured yet."]
    rule = standings.best_rule(task.name)
    left = f"The best rule, `{rule.policy}`, leaves {100 * standings.headroom(task.name):.1f}%."
    if rule.solves:
        left += " Solved: for checking an algorithm."
    rows = headroom_table(standings)
    (own,) = [row for row in rows if row["task"] == task.name]
    return ["\n".join(table_lines([{k: v for k, v in own.items() if k != "task"}])), left]


def _facts(task: Task) -> str:
    """A list of what the environment is made of, and how it is measured."""
    env = gym.make(task.id)
    settings = ", ".join(
        f"`{name}={_plain(value)}`" for name, value in task.settings.items() if _is_plain(value)
    )
    base = f"[{task.environment}]({_BASES[task.environment]})"
    facts = [
        f"Base: {base}, {settings}.",
        f"Actions `{env.action_space}`, observations `{_shape(env)}`.",
        f"Reward: {_reward(task)}.",
        f"Bound: {_BOUNDS[task.bound]}.",
        f"Held out: {_held_out(task)}.",
    ]
    env.close()
    return "\n".join(_wrapped(fact, "- ") for fact in facts)


def _shape(env: gym.Env[object, object]) -> str:
    return f"Box(0, 1, {env.observation_space.shape}, float32)"


def _reward(task: Task) -> str:
    paid = "requests that met their deadlines" if task.revenue == "goodput" else "all requests"
    over = "the interval" if task.environment == INTERVAL else "the time since the last decision"
    return f"revenue of {paid} in {over}, as a share of what R* earns"


def _held_out(task: Task) -> str:
    held_out = task.held_out
    runs = f"{held_out.replications} runs, seed {held_out.seed}"
    if held_out.horizon is None:
        return f"the second half of the trace, whole, from empty; {runs}, which differ in patience"
    return f"{runs}, of {held_out.horizon:g} s, of which {held_out.warmup:g} s are warm-up"


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool, tuple))


def _plain(value: object) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _wrapped(text: str, mark: str = "") -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
        break_long_words=False,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
