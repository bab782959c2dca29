"""The best rule of each task, as the headroom table found it (``make tasks``)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from llm_sched_env.files.atomic import write_whole

FILE = Path(__file__).with_name("best_rules.json")


@cache
def _best_rules() -> dict[str, str]:
    if not FILE.exists():
        return {}
    found: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def best_rule(task: str) -> str | None:
    """The rule that earned the most in the held-out runs of a task; None if nobody measured it."""
    return _best_rules().get(task)


def write_best_rules(names: dict[str, str], file: Path = FILE) -> None:
    """Keep the best rule of each task."""
    write_whole(file, json.dumps(names, indent=1, sort_keys=True) + "\n")
    _best_rules.cache_clear()
