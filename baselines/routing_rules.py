"""Routers on arrival as policies in Python (docs/routing.md).

With the same requests ``join-shortest-queue`` and ``least-loaded`` do what the compiled routers of
these names do, event by event, where one group of GPUs prefills. The file also shows how a rule
reads ``info``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning import FluidPlan

Info = dict[str, Any]

ROUTING_RULES = ("join-shortest-queue", "least-loaded", "longest-match", "earliest-finish")
"""Names of :class:`RoutingRule`."""


class RoutingRule:
    """A router as a policy of ``LLMSchedRouting-v0``.

    Args:
        name: ``join-shortest-queue`` (fewest seconds of prefills), ``least-loaded`` (fewest
            requests per slot), ``longest-match`` (of the prompt's blocks; the least work where no
            GPU matches) or ``earliest-finish`` (where the prefill ends first, after reuse).
        candidates: of ``earliest-finish``, how many by match and by load it compares.
        refresh_seconds: between refreshes of what it knows of GPUs.

    Example:
        >>> import llm_sched_env as lse
        >>> rule, times = RoutingRule("earliest-finish"), {"horizon": 60.0, "warmup": 20.0}
        >>> 0.0 < lse.evaluate(rule, "base", n_gpus=5, replications=1, **times).score.mean < 1.0
        True
    """

    def __init__(self, name: str, candidates: int = 4, refresh_seconds: float = 0.0) -> None:
        if name not in ROUTING_RULES:
            raise ConfigurationError("routing rule", name, f"one of {', '.join(ROUTING_RULES)}")
        self._rule = name
        self.name = f"routing {name}"
        compared = checked_integer("candidates", candidates) if name == "earliest-finish" else 1
        self.environment: dict[str, Any] = {
            "control": "routing",
            "candidates": compared,
            "load": "requests" if name == "least-loaded" else "work",
            "refresh_seconds": refresh_seconds,
        }

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        del plan, n_gpus, rng
        compared = int(self.environment["candidates"])
        groups = [group for group in instance.groups if group.role != "decode"]
        # Of the actions of each group: how long a decode of each class lasts, and slots.
        seconds = np.array([instance.on_group(g).full_batch_seconds[1] for g in groups])
        decodes = [group.role == "mixed" for group in groups]
        outputs = fitting_requests(instance).output_tokens
        actions = 2 * compared
        self._decode_seconds = np.repeat(np.outer(outputs, seconds * decodes), actions, axis=1)
        self._slots = np.repeat([float(g.hardware.batch_slots) for g in groups], actions)
        self._by_match = np.tile(np.repeat([True, False], compared), len(groups))

    def act(self, observation: np.ndarray, info: Info) -> int:
        """The possible action with the least cost; the first of equal ones."""
        del observation  # bounded features; the rule goes by exact numbers
        possible = np.flatnonzero(info["action_mask"])
        if info["request_class"] < 0:
            return int(possible[0])
        costs = self.costs(info)[possible]
        return int(possible[np.argmin(costs)])

    def costs(self, info: Info) -> np.ndarray:
        """What the rule makes least, of each action; shape (A,)."""
        if self._rule == "join-shortest-queue":
            return np.where(self._by_match, np.inf, info["queue_seconds"])
        if self._rule == "least-loaded":
            requests = (info["waiting"] + info["running"]) / self._slots
            return np.where(self._by_match, np.inf, requests)
        if self._rule == "longest-match":
            return np.asarray(-info["matched_tokens"])
        # Those before it leave one by one: until then all slots are taken.
        ahead = np.maximum(info["waiting"] + info["running"] + 1.0 - self._slots, 0.0)
        slot = ahead * self._decode_seconds[info["request_class"]] / self._slots
        costs: np.ndarray = np.maximum(info["queue_seconds"], slot) + info["prefill_seconds"]
        return costs
