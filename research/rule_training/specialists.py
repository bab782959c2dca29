"""Rules trained for one instance and size, by attribute: ``specialists:phased_5``.

``llmsched evaluate --instance phased --gpus 5 --policy research.rule_training.specialists:NAME``
"""

from __future__ import annotations

from pathlib import Path

from llm_sched_env.agents.learned_rule import LearnedRule
from llm_sched_env.simulation.scheduling.rules import DispatchRule

WEIGHTS = Path(__file__).with_name("weights")
"""Folder of their files."""


def names() -> list[str]:
    """INSTANCE_SIZE of every specialist that is shipped."""
    return sorted(file.stem for file in WEIGHTS.glob("*.json"))


def __getattr__(name: str) -> DispatchRule:
    """The rule of a specialist."""
    if name not in names():
        raise AttributeError(f"got no specialist {name!r}, expected one of {', '.join(names())}")
    return LearnedRule.load(WEIGHTS / f"{name}.json").rule
