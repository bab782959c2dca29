"""The trained rules that ship with the package, as the files in this folder.

This is a package of its own so that results of studies depend on these files and not on all the
code of the training.
"""

from __future__ import annotations

from functools import cache

from llm_sched_env.agents.learned_rule import SHIPPED, LearnedRule
from llm_sched_env.policies.registry import RegisteredPolicy
from llm_sched_env.simulation.scheduling.rules import DispatchRule


@cache
def _shipped(name: str) -> DispatchRule:
    return LearnedRule.load(SHIPPED / f"{name}.json").rule


LEARNED = RegisteredPolicy(
    "trunk-reservation by the plan of the next ten seconds, its reserves corrected by training",
    lambda: _shipped("learned"),
    source="this project",
    trained=True,
)
