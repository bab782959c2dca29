"""Agents that ship for the registered tasks, by attribute: ``task_agents:session_router``.

Rules and routers are files of this folder; what trained them is in each. A package of its own, so
that results depend on these files and not on all the code of the training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_sched_env.agents.learned_rule import load_rule

FOLDER = Path(__file__).parent
"""Of their files."""


def names() -> list[str]:
    """Of every agent that ships."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def __getattr__(name: str) -> Any:
    """The policy of this name."""
    if name not in names():
        raise AttributeError(f"got no agent {name!r}, expected one of {', '.join(names())}")
    return load_rule(FOLDER / f"{name}.json")
