"""Entrants of the leaderboard: registered policies, agents, and import paths."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.policies.registry import (
    POLICY_GROUP,
    is_checkpoint,
    registered_policies,
    resolve_agent,
    resolve_policy,
)
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from research.framework.source_stamp import policy_stamp
from research.leaderboard.grid import Case

RULE, TRAINED, OUTSIDE = "rule", "trained", "outside"
"""Kinds: registered and not trained, trained, and by import path."""


@dataclass(frozen=True)
class Entrant:
    """A line of the leaderboard.

    Attributes:
        label: its name there.
        policy: what :func:`llm_sched_env.evaluate` takes in any process: a name or a path.
        kind: one of :data:`RULE`, :data:`TRAINED`, :data:`OUTSIDE`.
        stamp: SHA-256 of what it is; its results are computed anew when it changes.
        compiled: whether the engine runs it; others cost wall time by simulated second.
        n_classes: the numbers of classes on the leaderboard that it knows.
        instance: the only one on which it competes; None for all.
    """

    label: str
    policy: str
    kind: str
    stamp: str
    compiled: bool
    n_classes: frozenset[int]
    instance: str | None = None

    @property
    def is_rule(self) -> bool:
        """Whether it is registered and not trained."""
        return self.kind == RULE

    def enters(self, case: Case) -> bool:
        """Whether it competes in a case."""
        name = case.instance.name
        return self.instance in {None, name} and case.instance.n_classes in self.n_classes


@dataclass(frozen=True)
class Agent:
    """A checkpoint that enters: its file, and the only instance on which it does, if any."""

    path: str
    instance: str | None = None


def entrants(
    cases: Sequence[Case], policies: Sequence[str] = (), agents: Sequence[Agent] = ()
) -> list[Entrant]:
    """Those that compete.

    Args:
        cases: of the leaderboard.
        policies: names of registered policies, or aliases, restrict the leaderboard to them; import
            paths (``package.module:Name``) and checkpoints enter in addition.
        agents: further checkpoints.

    Raises:
        ConfigurationError: for a name that nothing answers to, or two entrants of one name.
    """
    numbers = {case.instance.n_classes for case in cases}
    files = [item for item in policies if is_checkpoint(item)]
    paths = [item for item in policies if ":" in item and item not in files]
    names = [resolve_policy(item)[0] for item in policies if item not in {*files, *paths}]
    wanted = names or list(registered_policies())
    found = [_named(name, numbers) for name in wanted]
    found += [_outside(path, numbers) for path in paths]
    found += [_agent(one, numbers) for one in (*map(Agent, files), *agents)]
    for k, entrant in enumerate(found):
        for other in found[:k]:
            meet = None in {entrant.instance, other.instance} or entrant.instance == other.instance
            if entrant.label == other.label and meet:
                raise ConfigurationError(
                    f"Two entrants have the name {entrant.label!r}; rename or remove one of them."
                )
    return found


def _named(name: str, numbers: set[int]) -> Entrant:
    entry = registered_policies()[name]
    modules = [point.module for point in entry_points(group=POLICY_GROUP, name=name)]
    policy, kind = entry.make(), TRAINED if entry.trained else RULE
    return _entrant(name, name, policy, kind, policy_stamp(policy, *modules), numbers)


def _outside(path: str, numbers: set[int]) -> Entrant:
    label, policy = resolve_policy(path)
    stamp = policy_stamp(policy, path.partition(":")[0])
    return _entrant(label, path, policy, OUTSIDE, stamp, numbers)


def _agent(given: Agent, numbers: set[int]) -> Entrant:
    label, policy = resolve_agent(given.path, given.instance)
    content = hashlib.sha256(Path(given.path).read_bytes()).hexdigest()
    stamp = f"{content} {policy_stamp(policy)}"
    entrant = _entrant(label, given.path, policy, TRAINED, stamp, numbers)
    return dataclasses.replace(entrant, instance=given.instance)


def _entrant(
    label: str, path: str, policy: Any, kind: str, stamp: str, numbers: set[int]
) -> Entrant:
    known = frozenset(number for number in numbers if _knows(policy, number))
    return Entrant(label, path, kind, stamp, isinstance(policy, DispatchRule), known)


def _knows(policy: Any, n_classes: int) -> bool:
    """Whether a policy plays instances of so many classes."""
    try:
        getattr(policy, "require_classes", lambda _: None)(n_classes)
    except LLMSchedError:
        return False
    return True
