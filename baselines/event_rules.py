"""The dispatch rules as event-driven policies in Python (docs/event_control.md).

Given the same requests they do what the compiled rules do, event by event. Credit gates are only
approximated, because their timers are not events. The file also shows how a rule reads ``info``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.scheduling.rule_parameters import static_ranks
from llm_sched_env.simulation.scheduling.rules import DispatchRule

_WAIT = 0
_Q_PREFILL, _X, _, _Y_MIXED, _Y_SOLO = range(5)  # rows of info["counts"]
_PREFILL_HEADS, _SOLO_HEADS, _MIXED_HEADS = range(3)  # rows of info["head_ranks"]
_ROUNDING = 1e-9
ROUTERS = {
    "solo-first": "agent",
    "prefill-aware": "agent",
    "bid-price": "agent",
    "randomized": "randomized",
    "coupled": "coupled",
}
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
        if rule.correction is not None:
            raise ConfigurationError(
                "A trained rule (rule.correction) cannot act at events, since only the engine has "
                "its features; evaluate the rule itself."
            )
        if rule.foresight is not None:
            raise ConfigurationError(
                "A rule that replans (rule.foresight) cannot act at events, where it would keep "
                "its first plan; evaluate the rule itself."
            )
        if rule.drop_late:
            raise ConfigurationError(
                "A rule that drops who is late (rule.drop_late) cannot act at events, where no "
                "action drops a request; evaluate the rule itself."
            )
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
        self._ranks = SlotRanks(*np.zeros((5, instance.n_classes)))
        if self.rule.gate == "bid-price":
            self._ranks = slot_ranks(plan, n_gpus)
        elif self.rule.gate == "decode-per-prompt":
            ratio = instance.output_tokens / instance.prompt_tokens
            self._ranks = self._ranks._replace(priority=ratio)
        elif self.rule.gate == "static-priority":
            self._ranks = static_ranks(self.rule, [c.name for c in instance.classes])
        solo, mixed = instance.full_batch_seconds
        self._mixed_is_faster = mixed <= solo
        self._n_classes = instance.n_classes
        self._ttft_deadlines = instance.deadlines[0]
        self._slots = n_gpus * instance.hardware.batch_slots
        self._unlimited = plan.admission_fraction >= 1.0 - _ROUNDING
        self._credit = np.where(self._credit_rates > 0.0, self.rule.credit_cap, 0.0)
        self._credit_time = 0.0
        self._stages = self._dispatch_order()
        self._begin_event(-1)

    def _begin_event(self, event: int) -> None:
        self._event: int = event
        self._stage: int = 0
        # By bid, until a head finds no room for its KV tokens.
        self._prefills_fit = self._decodes_fit = True
        self._prefills_asked_at = -1

    def act(self, observation: np.ndarray, info: Info) -> int:
        """The next start of a prefill or decode, or a wait when the rule has no more."""
        del observation  # bounded features; the rule goes by exact counts
        if info["events"] != self._event:
            self._begin_event(info["events"])
        while self._stage < len(self._stages):
            action = self._stages[self._stage](info)
            if action != _WAIT:
                return action
            self._stage += 1
        self._stage = 0
        return _WAIT

    def _dispatch_order(self) -> list[Callable[[Info], int]]:
        """What is done after an event, one after the other, each until nothing is left of it."""
        if self.rule.router == "bid-price":
            return [self._serve_by_bid]
        places = {
            "solo-first": [self._place_solo_first],
            "prefill-aware": [self._place_oldest_leaving_room],
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
        """The oldest head of the lines of one kind of GPU."""
        return self._action(part, int(np.argmin(info["head_ranks"][part])), info)

    def _place_solo_first(self, info: Info) -> int:
        return self._place_oldest(info, _SOLO_HEADS) or self._place_oldest(info, _MIXED_HEADS)

    def _place_oldest_leaving_room(self, info: Info) -> int:
        return self._leaving_room(int(np.argmin(info["head_ranks"][_SOLO_HEADS])), info)

    def _leaving_room(self, i: int, info: Info) -> int:
        """Class i's decode, on a mixed GPU first if that is faster or a request can be admitted."""
        kinds = [_SOLO_HEADS, _MIXED_HEADS]
        if self._mixed_is_faster or self._class_to_admit(info) >= 0:
            kinds.reverse()
        return self._action(kinds[0], i, info) or self._action(kinds[1], i, info)

    def _serve_by_bid(self, info: Info) -> int:
        """Decodes, then prefills, each by bid, but for classes whose prefill precedes decodes."""
        prefills = int(info["counts"][_X].sum())
        if prefills == self._prefills_asked_at:
            self._prefills_fit = False
        self._prefills_asked_at = -1
        while True:
            i = self._class_to_admit(info) if self._prefills_fit else -1
            admission = self._action(_PREFILL_HEADS, i, info) if i >= 0 else _WAIT
            decoding = self._decode_by_bid(info) if self._decodes_fit else -1
            if admission != _WAIT and (decoding < 0 or self._ranks.precedes_decodes[i]):
                self._prefills_asked_at = prefills
                return admission
            if decoding < 0:
                return _WAIT
            action = self._leaving_room(decoding, info)
            if action != _WAIT:
                return action
            self._decodes_fit = False

    def _decode_by_bid(self, info: Info) -> int:
        """The highest decode bid of those whose reserve of slots is free; ties by age."""
        ranks, free = info["head_ranks"][_SOLO_HEADS], self._free_slots(info)
        waiting = np.flatnonzero(ranks < self._n_classes).tolist()
        allowed = [i for i in waiting if free >= self._ranks.decode_reserve[i]]
        return min(allowed, key=lambda i: (-self._ranks.decode_priority[i], ranks[i]), default=-1)

    # The gate.

    def _admit(self, info: Info) -> int:
        i = self._class_to_admit(info)
        action = self._action(_PREFILL_HEADS, i, info) if i >= 0 else _WAIT
        if action != _WAIT:
            self._credit[i] = max(0.0, self._credit[i] - 1.0)
        return action

    def _class_to_admit(self, info: Info) -> int:
        """The class that the gate admits if a GPU can prefill, or -1."""
        waiting = np.flatnonzero(info["counts"][_Q_PREFILL]).tolist()
        if self.rule.gate in {"occupancy", "strict-occupancy"}:
            return self._class_by_occupancy(waiting, info)
        if self.rule.gate in {"credit", "largest-credit"}:
            return self._class_by_credit(waiting, info)
        if self.rule.gate == "fcfs":
            return self._oldest(waiting, info)
        if self.rule.gate == "earliest-deadline":
            return self._first_due(waiting, info)
        return self._class_by_priority(waiting, info)

    def _free_slots(self, info: Info) -> int:
        return self._slots - int(info["counts"][[_X, _Y_MIXED, _Y_SOLO]].sum())

    def _oldest(self, classes: list[int], info: Info) -> int:
        ranks = info["head_ranks"][_PREFILL_HEADS]
        return min(classes, key=lambda i: ranks[i], default=-1)

    def _first_due(self, classes: list[int], info: Info) -> int:
        """The head whose first token is due first; ties, and classes without deadline, by age."""
        ranks = info["head_ranks"][_PREFILL_HEADS]
        due = info["head_arrivals"] + self._ttft_deadlines
        return min(classes, key=lambda i: (due[i], ranks[i]), default=-1)

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
        ranks, free = info["head_ranks"][_PREFILL_HEADS], self._free_slots(info)
        allowed = [i for i in waiting if free >= self._ranks.reserve[i]]
        return min(allowed, key=lambda i: (-self._ranks.priority[i], ranks[i]), default=-1)

    def _class_by_credit(self, waiting: list[int], info: Info) -> int:
        """Of those with a credit the oldest, or the one with most credit."""
        earned = self._credit_rates * (info["time"] - self._credit_time)
        self._credit = np.minimum(self.rule.credit_cap, self._credit + earned)
        self._credit[self._unlimited] = self.rule.credit_cap
        self._credit_time = info["time"]
        allowed = [i for i in waiting if self._credit[i] >= 1.0 - _ROUNDING]
        if self.rule.gate == "credit":
            return self._oldest(allowed, info)
        ranks = info["head_ranks"][_PREFILL_HEADS]
        return min(allowed, key=lambda i: (-self._credit[i], ranks[i]), default=-1)
