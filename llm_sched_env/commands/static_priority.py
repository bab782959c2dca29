"""``--priority`` and ``--reserve``: the order and the kept slots of ``static-priority``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from llm_sched_env.commands.options import names, numbers
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule

POLICY = "static-priority"

PriorityOption = Annotated[
    str | None,
    typer.Option(help=f"Of {POLICY}: classes, first come those admitted first."),
]
ReserveOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Of {POLICY}: CLASS=R free slots it leaves; repeatable."),
]


def ordered_policy(policy: str, priority: str | None, reserves: Sequence[str] | None) -> Any:
    """The policy by name, or the rule with the priority and the reserves that are given."""
    if priority is None and not reserves:
        return policy
    _, rule = resolve_policy(policy)
    if not isinstance(rule, DispatchRule) or rule.gate != POLICY:
        raise ConfigurationError(
            f"--priority and --reserve need --policy {POLICY}, got {policy!r}: other policies have "
            "orders of their own"
        )
    order = None if priority is None else tuple(names("--priority", priority))
    slots = dict(map(_reserve, reserves or ()))
    return dataclasses.replace(rule, priority=order, reserves=slots)


def with_order(
    evaluate: Callable[..., Evaluation], priority: str | None, reserves: Sequence[str] | None
) -> Callable[..., Evaluation]:
    """``evaluate`` that gives ``static-priority`` its order; results keep the policy's name."""
    if priority is None and not reserves:
        return evaluate

    def evaluate_ordered(policy: Any, **arguments: Any) -> Evaluation:
        result = evaluate(ordered_policy(policy, priority, reserves), **arguments)
        return dataclasses.replace(result, policy=policy)

    return evaluate_ordered


def _reserve(text: str) -> tuple[str, float]:
    name, _, slots = text.rpartition("=")
    if not name:
        raise ConfigurationError("--reserve", text, "CLASS=R, such as batch=4")
    return name, numbers("--reserve", slots)[0]
