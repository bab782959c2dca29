"""A twin of the corrected rule in plain Python and numpy, written from docs/learned.md.

Nothing is kept but the arrivals seen and the profile last read: every quantity is reckoned anew
from the twin's own requests. Rates seen are sums over past arrivals, not running estimates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from reference_simulator import Gpu, ReferenceSimulator, Request, _tokens

from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.model.priority_network import (
    CORRECTIONS,
    LATE_SECONDS,
    LATER_SECONDS,
    RECENT_SECONDS,
    SOON_SECONDS,
    STATE_FEATURES,
    ClassProfile,
    RankCorrection,
)
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_ranks import slot_ranks


class CorrectedReferenceSimulator(ReferenceSimulator):
    """One cluster under trunk reservation with corrected ranks.

    Args:
        network: the correction.
        profile: what it is told about the classes.
        *arguments: of :class:`ReferenceSimulator`, likewise by name.

    Attributes:
        closest: the smallest distance between two numbers that were compared to decide. As long as
            it is far above rounding, an engine that sums in another order must decide alike.
        seen: features of all decisions, one row per class that waited.
    """

    def __init__(
        self, network: RankCorrection, profile: ClassProfile, *arguments: Any, **named: Any
    ) -> None:
        self.network, self.profile = network, profile
        self.arrivals_seen: list[list[float]] = [[] for _ in profile.planned_slots]
        self.foreseen_time = 0.0
        self.corrected_at = -1
        self.closest = math.inf
        self.seen: list[np.ndarray] = []
        super().__init__(*arguments, **named)
        self.planned_rates = np.array(self.served_rates)
        self.mean_outputs = fitting_requests(self.instance).output_tokens
        self.soon = self.later = self.planned_rates

    def replan(self, fluid: FluidPlan) -> None:
        """Go by another plan from now on; the means before anything was seen stay."""
        n_gpus = len(self.gpus)
        self.profile = class_profile(fluid, n_gpus)
        self.ranks = slot_ranks(fluid, n_gpus)
        self.served_rates = list(n_gpus * fluid.instance.arrival_rates)
        self.corrected_at = -1
        self.run(self.time, fluid.controls(n_gpus))

    # What it knows of arrivals.

    def _next_request(self) -> Request:
        request = super()._next_request()
        if _tokens(request) <= self.kv_tokens:
            self.arrivals_seen[request.i].append(self.time)
            varies = self.peak_rates != self.arrival_rates
            if varies and self.time >= self.foreseen_time + 1.0:
                self.foreseen_time = self.time
                self.soon = self.planned_rates * self._profiles_at(self.time + SOON_SECONDS)
                self.later = self.planned_rates * self._profiles_at(self.time + LATER_SECONDS)
        return request

    def _profiles_at(self, time: float) -> np.ndarray:
        factors = []
        for c in self.instance.classes:
            known = c.arrival_profile
            # Of two points at one time the second counts; interp takes the first.
            factors.append(
                1.0
                if known is None
                else np.interp(
                    math.nextafter(time % known.period, math.inf), known.times, known.relative_rates
                )
            )
        return np.array(factors)

    def _seen_rates(self, memory: float) -> np.ndarray:
        weights = [
            np.exp((np.array(times) - self.time) / memory).sum() for times in self.arrivals_seen
        ]
        return self.planned_rates * math.exp(-self.time / memory) + np.array(weights) / memory

    # What it sees.

    def _features(self) -> np.ndarray:
        """State features of all classes, shape (I, F)."""
        profile, hardware = self.profile, self.hardware
        n_gpus, n_classes = len(self.gpus), len(self.classes)

        def per_class(requests: list[Request]) -> np.ndarray:
            return np.bincount([r.i for r in requests], minlength=n_classes)

        prompts = np.array([len(queue) for queue in self.queues])
        waiting = per_class(self.solo_line)
        prefilling = per_class([g.prefill for g in self.gpus if g.prefill])
        mixed = per_class([r for g in self.gpus if g.prefill for r in g.decodes])
        solo = per_class([r for g in self.gpus if not g.prefill for r in g.decodes])
        tokens_per_second = mixed / hardware.tau_mixed + solo / hardware.tau_solo
        becoming_free = tokens_per_second / self.mean_outputs
        free = self._free_slots()
        # Row i marks the classes that rank before class i under the plan.
        before = (self.ranks.priority[None, :] > self.ranks.priority[:, None]).astype(float)
        beyond = free - self.ranks.reserve
        recent, late = self._seen_rates(RECENT_SECONDS), self._seen_rates(LATE_SECONDS)
        planned, seconds, slots = (
            np.array(self.served_rates),
            profile.load_seconds,
            profile.slot_scale,
        )
        load, ahead = planned @ seconds, profile.ahead_seconds
        queued = prompts - self._planned_queues()
        columns = {
            "free slots": _squashed(free / slots),
            "free slots beyond the reserve": _squashed(beyond / slots),
            "free slots soon beyond the reserve": _squashed(
                (beyond + ahead * becoming_free.sum() - ahead * (before @ planned)) / slots
            ),
            "free slots beyond waiting decodes": _squashed((free - waiting.sum()) / slots),
            "a free slot beyond waiting decodes": _sign(free > waiting.sum()),
            "own waiting prompts beyond the plan": _squashed(queued / slots),
            "better waiting prompts beyond the plan": _squashed(before @ queued / slots),
            "other waiting prompts beyond the plan": _squashed(
                ((1.0 - before - np.eye(n_classes)) @ queued) / slots
            ),
            "own waiting decodes": _squashed(waiting / slots),
            "all waiting decodes": _squashed(waiting.sum() / slots),
            "own slots beyond the plan": _squashed(
                (prefilling + mixed + solo - profile.planned_slots) / (4.0 * slots)
            ),
            "GPUs with a prefill": 2.0 * prefilling.sum() / n_gpus - 1.0,
            "a GPU can prefill": _sign(bool(self.prefill_slots)),
            "a slot beside a prefill": _sign(bool(self.mixed_slots)),
            "a slot without a prefill": _sign(bool(self.solo_slots)),
            "own arrivals, recent": _against(recent, planned),
            "own arrivals, of late": _against(late, planned),
            "better arrivals, recent": _against(before @ recent, before @ planned),
            "better arrivals, of late": _against(before @ late, before @ planned),
            "load, recent": _against(recent @ seconds, load),
            "load, of late": _against(late @ seconds, load),
            "own arrivals, foreseen": _against(self.soon, planned),
            "better arrivals, foreseen": _against(before @ self.soon, before @ planned),
            "load, foreseen": _against(self.soon @ seconds, load),
            "load, foreseen later": _against(self.later @ seconds, load),
            "backlog beyond the plan": _squashed((queued + waiting) @ seconds / (n_gpus * ahead)),
        }
        assert set(columns) == set(STATE_FEATURES)
        return np.stack(
            [np.broadcast_to(columns[name], n_classes) for name in STATE_FEATURES], axis=1
        )

    def _planned_queues(self) -> np.ndarray:
        """Who is not admitted waits until he gives up; no number where nobody gives up."""
        queues = []
        for i, c in enumerate(self.instance.classes):
            away = (1.0 - self.fraction[i]) * self.served_rates[i]
            queues.append(away / c.patience_rate if c.patience_rate > 0.0 else 0.0)
        return np.array(queues)

    def _corrections(self) -> dict[str, np.ndarray]:
        """By name, for all classes, shape (I,); the same until something else has happened."""
        if len(self.log) > self.corrected_at:
            self.corrected_at = len(self.log)
            self.corrections = self._corrections_now()
        return self.corrections

    def _corrections_now(self) -> dict[str, np.ndarray]:
        features = self._features()
        some = [bool(self.queues[i]) or any(r.i == i for r in self.solo_line) for i in self.classes]
        self.seen.extend(features[some])
        ones = np.ones((len(self.classes), 1))
        inputs = np.hstack([self.profile.features, ones, features])
        hidden = _squashed(inputs @ np.hstack([self.network.static, self.network.state]).T)
        units = np.hstack([hidden, ones])
        outputs = units @ self.network.output.T
        # What the class's features add, output by output.
        for k, gain in enumerate(self.network.gain):
            outputs[:, k] += (units * (self.profile.features @ gain.T)).sum(axis=1)
        return dict(zip(CORRECTIONS, outputs.T, strict=True))

    # What it decides.

    def _serve_by_rank(self) -> None:
        self.corrected_at = -1
        super()._serve_by_rank()

    def _at_least(self, number: float, bound: float) -> bool:
        self.closest = min(self.closest, abs(number - bound))
        return number >= bound

    def _highest(self, candidates: list[int], ranks: np.ndarray) -> int | None:
        """Two classes never tie under random weights: the margin would be 0."""
        if not candidates:
            return None
        descending = sorted((float(ranks[i]) for i in candidates), reverse=True)
        if len(descending) > 1:
            self.closest = min(self.closest, descending[0] - descending[1])
        return max(candidates, key=lambda i: ranks[i])

    def _choose_class(self) -> int | None:
        waiting = [i for i in self.classes if self.queues[i]]
        if not waiting:
            return None
        c, slots = self._corrections(), self.profile.slot_scale
        reserves = self.ranks.reserve * np.exp(c["prefill reserve factor"])
        reserves = reserves - slots * c["prefill reserve"]
        free = self._free_slots()
        bids = self.ranks.priority + self.profile.prefill_cost * (1.0 - np.exp(c["price factor"]))
        bids = bids + self.profile.rank_scale * c["priority"]
        for i in waiting:
            if self._at_least(c["by prefill time"][i], 0.5):
                bids[i] = self.profile.prefill_time_priority[i]
        return self._highest([i for i in waiting if self._at_least(free, reserves[i])], bids)

    def _decode_of_highest_rank(self) -> Request | None:
        if not self.solo_line or not (self.solo_slots or self.mixed_slots):
            return None
        c, free = self._corrections(), self._free_slots()
        reserves = self.ranks.decode_reserve - self.profile.slot_scale * c["decode reserve"]
        bids = self.ranks.decode_priority + self.profile.decode_cost * (
            1.0 - np.exp(c["price factor"])
        )
        bids = bids + self.profile.rank_scale * c["decode priority"]
        heads = {r.i: r for r in reversed(self.solo_line)}
        able = [i for i in sorted(heads) if self._at_least(free, reserves[i])]
        best = self._highest(able, bids)
        return None if best is None else heads[best]

    def _precedes_decodes(self, i: int) -> bool:
        flag = self.ranks.precedes_decodes[i] + self._corrections()["precedes decodes"][i]
        return self._at_least(flag, 0.5)

    def _gpu_for_decode(self, request: Request) -> Gpu | None:
        faster = self.hardware.tau_mixed <= self.hardware.tau_solo
        flag = 1.0 if faster or self._choose_class() is not None else 0.0
        flag += self._corrections()["mixed slots first"][request.i]
        kinds = [self.solo_slots, self.mixed_slots]
        if self._at_least(flag, 0.5):
            kinds.reverse()
        tokens = _tokens(request)
        return self._random_gpu(kinds[0], tokens) or self._random_gpu(kinds[1], tokens)


def _squashed(z: Any) -> np.ndarray:
    return np.asarray(z / (1.0 + np.abs(z)))


def _sign(condition: bool) -> float:
    return 1.0 if condition else -1.0


def _against(rate: Any, planned: Any) -> np.ndarray:
    """(rate - planned) / (rate + planned), 0 where there is neither."""
    total = np.asarray(rate + planned, float)
    return np.divide(rate - planned, total, out=np.zeros_like(total), where=total > 0.0)
