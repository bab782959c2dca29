"""The trained rules that come with the package: the files beside this one.

A package of its own, so that results of studies are stamped with these files and not with all the
training.
"""

from __future__ import annotations

from functools import cache

from llm_sched_env.agents.learned_rule import SHIPPED, load_rule
from llm_sched_env.policies.registry import RegisteredPolicy
from llm_sched_env.simulation.scheduling.rules import DispatchRule


@cache
def _shipped(name: str) -> DispatchRule:
    return load_rule(SHIPPED / f"{name}.json")


LEARNED = RegisteredPolicy(
    "trunk-reservation by the plan of the next ten seconds, its reserves corrected by training",
    lambda: _shipped("learned"),
    source="this project",
    trained=True,
)
