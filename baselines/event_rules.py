"""The dispatch rules as policies of event control, in Python (docs/event_control.md).

Given the same requests they do what the compiled rules do, event by event; credit gates, whose
timers no event wakes, only approximately. They show how a rule reads ``info``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.rules import DispatchRule

_WAIT = 0
_Q_PREFILL, _X = 0, 1  # rows of info["counts"]
_PREFILL_HEADS, _SOLO_HEADS, _MIXED_HEADS = range(3)  # rows of info["head_ranks"]
_ROUNDING = 1e-9
_FULL_CREDIT = 3.0
ROUTERS = {"solo-first": "agent", "randomized": "randomized", "coupled": "coupled"}
"""The router of ``LLMSchedEvent-v0`` under which each compiled router is played."""

Info = dict[str, Any]


class EventRule:
    """A dispatch rule as a policy of ``LLMSchedEvent-v0``.

    Args:
        rule: gate, router, pools and priority.
        wake_interval: seconds; for credit gates, which then admit up to so much later.
    """

    def __init__(self, rule: DispatchRule, wake_interval: float | None = None) -> None:
        if rule.router not in ROUTERS:
            raise ConfigurationError("rule.router", rule.router, f"one of {', '.join(ROUTERS)}")
        self.rule = rule
        self.name = f"event {rule.gate} {rule.router}"
        self.environment = {
            "control": "event",
            "router": ROUTERS[rule.router],
            "pools": rule.pools,
            "wake_interval": wake_interval,
        }

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        del rng
        served = plan.instance
        rates = n_gpus * served.arrival_rates
        self._credit_rates = plan.admission_fraction * rates
        self._targets = self._credit_rates / served.prefill_rates
        turned_away = np.maximum(rates - self._credit_rates, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            waiting = turned_away / served.patience_rates
        self._queue_targets = np.where(turned_away > 0.0, waiting, 0.0)
        if self.rule.gate == "bid-price":
            self._priority, self._reserve = plan.admission_ranks
        else:
            self._priority = instance.output_tokens / instance.prompt_tokens
            self._reserve = np.zeros_like(self._priority)
        self._n_classes = instance.n_classes
        self._slots = n_gpus * instance.hardware.batch_slots
        self._unlimited = plan.admission_fraction >= 1.0 - _ROUNDING
        self._credit = np.where(self._credit_rates > 0.0, _FULL_CREDIT, 0.0)
        self._credit_time = 0.0
        self._stages = self._dispatch_order()
        self._stage, self._event = 0, -1

    def act(self, observation: np.ndarray, info: Info) -> int:
        """The next start of a prefill or decode, or a wait when the rule has no more."""
        del observation  # bounded features; the rule goes by exact counts
        if info["events"] != self._event:
            self._stage, self._event = 0, info["events"]
        while self._stage < len(self._stages):
            action = self._stages[self._stage](info)
            if action != _WAIT:
                return action
            self._stage += 1
        self._stage = 0
        return _WAIT

    def _dispatch_order(self) -> list[Callable[[Info], int]]:
        """What is done after an event, one after the other, each until nothing is left of it."""
        places = {
            "solo-first": [self._place_solo_first],
            "randomized": [
                lambda info: self._place_oldest(info, _SOLO_HEADS),
                lambda info: self._place_oldest(info, _MIXED_HEADS),
            ],
            "coupled": [],
        }[self.rule.router]
        if self.rule.prefill_first:
            return [self._admit, *places]
        if self.rule.router == "randomized":
            # With dynamic pools an admission opens a GPU to mixed decodes.
            return [*places, self._admit, *places]
        return [*places, self._admit]

    def _action(self, part: int, i: int, info: Info) -> int:
        """The action that takes class i's head of a kind, or a wait if it is not possible."""
        action = 1 + part * self._n_classes + i
        return action if info["action_mask"][action] else _WAIT

    # The router.

    def _place_oldest(self, info: Info, part: int) -> int:
        return self._action(part, int(np.argmin(info["head_ranks"][part])), info)

    def _place_solo_first(self, info: Info) -> int:
        return self._place_oldest(info, _SOLO_HEADS) or self._place_oldest(info, _MIXED_HEADS)

    # The gate.

    def _admit(self, info: Info) -> int:
        waiting = np.flatnonzero(info["counts"][_Q_PREFILL]).tolist()
        if self.rule.gate in {"occupancy", "strict-occupancy"}:
            i = self._class_by_occupancy(waiting, info)
        elif self.rule.gate in {"credit", "largest-credit"}:
            i = self._class_by_credit(waiting, info)
        elif self.rule.gate == "fcfs":
            i = self._oldest(waiting, info)
        else:
            i = self._class_by_priority(waiting, info)
        if i < 0:
            return _WAIT
        action = self._action(_PREFILL_HEADS, i, info)
        if action != _WAIT:
            self._credit[i] = max(0.0, self._credit[i] - 1.0)
        return action

    def _oldest(self, classes: list[int], info: Info) -> int:
        ranks = info["head_ranks"][_PREFILL_HEADS]
        return min(classes, key=lambda i: ranks[i], default=-1)

    def _class_by_occupancy(self, waiting: list[int], info: Info) -> int:
        """Smallest X_i / x_i*; ties, up to rounding, by the largest Q_i - n q_i*."""
        strict = self.rule.gate == "strict-occupancy"
        best, best_ratio, best_excess = -1, math.inf, -math.inf
        for i in waiting:
            x, target = int(info["counts"][_X, i]), float(self._targets[i])
            if strict and x >= target * (1.0 - _ROUNDING):
                continue
            ratio = x / target if target > 0.0 else math.inf
            excess = float(info["counts"][_Q_PREFILL, i] - self._queue_targets[i])
            smaller = ratio < best_ratio * (1.0 - _ROUNDING)
            tied = ratio <= best_ratio * (1.0 + _ROUNDING)
            if best < 0 or smaller or (tied and excess > best_excess):
                best, best_ratio, best_excess = i, ratio, excess
        return best

    def _class_by_priority(self, waiting: list[int], info: Info) -> int:
        """The highest rank of those whose reserve of slots is free; ties by age."""
        counts = info["counts"]
        free = self._slots - int(counts[_X].sum() + counts[3].sum() + counts[4].sum())
        ranks = info["head_ranks"][_PREFILL_HEADS]
        allowed = [i for i in waiting if free >= self._reserve[i]]
        return min(allowed, key=lambda i: (-self._priority[i], ranks[i]), default=-1)

    def _class_by_credit(self, waiting: list[int], info: Info) -> int:
        """Of those with a credit the oldest, or the one with most credit."""
        earned = self._credit_rates * (info["time"] - self._credit_time)
        self._credit = np.minimum(_FULL_CREDIT, self._credit + earned)
        self._credit[self._unlimited] = _FULL_CREDIT
        self._credit_time = info["time"]
        allowed = [i for i in waiting if self._credit[i] >= 1.0 - _ROUNDING]
        if self.rule.gate == "credit":
            return self._oldest(allowed, info)
        ranks = info["head_ranks"][_PREFILL_HEADS]
        return min(allowed, key=lambda i: (-self._credit[i], ranks[i]), default=-1)
