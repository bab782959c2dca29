"""Who competes on a task: references, rules, trained policies, and whoever is named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.policies.registry import (
    POLICY_GROUP,
    is_checkpoint,
    registered_policies,
    resolve_policy,
)
from llm_sched_env.tasks.reference_policies import NOTHING, RANDOM
from llm_sched_env.tasks.task import Task
from research.framework.source_stamp import policy_stamp

REFERENCE, SERVING, RULE, TRAINED = "reference", "serving", "rule", "trained"
"""Kinds: ends that everybody should leave behind, what serving systems do, other rules, learned."""
_SEED = re.compile(r"[-_](?:seed)?\d+$")


@dataclass(frozen=True)
class TaskEntrant:
    """A policy on one task.

    Attributes:
        task: its name.
        label: of the policy.
        policy: what :func:`llm_sched_env.tasks.evaluate_task` takes in any process.
        kind: one of :data:`REFERENCE`, :data:`SERVING`, :data:`RULE` and :data:`TRAINED`.
        stamp: SHA-256 of what it is; its results are computed anew when it changes.
        training: steps (of rules: generations) and seconds of its training, where its file tells.
    """

    task: str
    label: str
    policy: str
    kind: str
    stamp: str
    training: tuple[int | None, float | None] = (None, None)

    @property
    def algorithm(self) -> str:
        """Entrants whose labels differ in a number at the end are seeds of one training."""
        return _SEED.sub("", self.label) if self.kind == TRAINED else self.label


@dataclass(frozen=True)
class Given:
    """A policy that somebody enters: an import path or a file, and the only task, if any."""

    policy: str
    task: str | None = None


def entrants(tasks: Iterable[Task], given: Sequence[Given] = ()) -> list[TaskEntrant]:
    """Those that compete on each of the tasks, in the order of the page.

    Raises:
        ConfigurationError: for a name that nothing answers to, or two entrants of one name.
    """
    found: list[TaskEntrant] = []
    for task in tasks:
        kinds = {RANDOM: REFERENCE, NOTHING: REFERENCE}
        kinds |= dict.fromkeys(task.rules, RULE) | dict.fromkeys(task.serving, SERVING)
        kinds |= dict.fromkeys(task.learned, TRAINED)
        kinds |= {one.policy: TRAINED for one in given if one.task in {None, task.name}}
        found += [_entrant(task.name, policy, kind) for policy, kind in kinds.items()]
    places = [(one.task, one.label) for one in found]
    for place in places:
        if places.count(place) > 1:
            raise ConfigurationError(
                f"Two entrants of the task {place[0]} have the name {place[1]!r}; rename one."
            )
    return found


def _entrant(task: str, policy: str, kind: str) -> TaskEntrant:
    if kind == REFERENCE:
        return TaskEntrant(task, policy, policy, kind, policy)
    label, resolved = resolve_policy(policy)
    if is_checkpoint(policy):
        stamp = hashlib.sha256(Path(policy).read_bytes()).hexdigest()
        return TaskEntrant(task, label, policy, kind, stamp, _training(resolved, policy))
    modules = [policy.partition(":")[0]] if _is_import_path(policy) else _modules(label)
    stamp = policy_stamp(resolved, *modules)
    return TaskEntrant(task, label, policy, kind, stamp, _training(resolved, policy))


def _is_import_path(policy: str) -> bool:
    return bool(re.fullmatch(r"[\w.]+:\w+", policy)) and "." in policy.partition(":")[0]


def _modules(name: str) -> list[str]:
    """Where a registered policy is defined; nothing for what is made of a text."""
    known = registered_policies()
    found = entry_points(group=POLICY_GROUP, name=name) if name in known else ()
    return [point.module for point in found]


def _training(resolved: Any, policy: str) -> tuple[int | None, float | None]:
    """Steps and seconds, where a file tells them."""
    saved = getattr(resolved, "checkpoint", None)
    if saved is not None:
        return int(saved.steps), float(saved.seconds)
    record = getattr(resolved, "training", None)
    if record is not None:
        return int(record["steps"]), float(record["seconds"])
    if policy.endswith(".json"):
        from llm_sched_env.agents.learned_rule import LearnedRule

        rule = LearnedRule.load(policy)
        return rule.generations, rule.seconds
    return None, None
