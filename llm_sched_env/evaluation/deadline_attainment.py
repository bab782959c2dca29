"""Which share of the requests of a class was good, and why the others were not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_sched_env.simulation.events.metrics import Metrics

REASONS = ("late_first_token", "slow_tokens", "late_and_slow", "abandoned", "rejected")
"""Why a decided request was not good; each has one."""


@dataclass(frozen=True)
class DeadlineAttainment:
    """The decided requests of a class: those whose end was measured, whenever they arrived.

    A request is decided once it is completed, has abandoned or was rejected. One that is still
    inside at the end is not. decided = good + the five others.

    Attributes:
        good: completed within the deadlines of the class; without any, completed.
        late_first_token: completed, its first token too late, its other tokens in time.
        slow_tokens: completed, its first token in time, its other tokens too slow.
        late_and_slow: completed, both too late.
        abandoned: left a queue.
        rejected: needs more KV tokens than a GPU has.
    """

    good: int
    late_first_token: int
    slow_tokens: int
    late_and_slow: int
    abandoned: int
    rejected: int

    @classmethod
    def measured(cls, runs: Sequence[Metrics], i: int) -> DeadlineAttainment:
        """Of class i, all runs together."""

        def total(name: str) -> int:
            return int(sum((m.counts | m.deadline_counts)[name][i] for m in runs))

        good, late, slow = (total(name) for name in ("good", "late_ttft", "late_tpot"))
        both = late + slow - (total("completed") - good)
        abandoned = total("abandoned_prefill") + total("abandoned_decode")
        return cls(good, late - both, slow - both, both, abandoned, total("rejected"))

    @classmethod
    def together(cls, parts: Sequence[DeadlineAttainment]) -> DeadlineAttainment:
        """Of several classes."""
        return cls(*(sum(getattr(p, name) for p in parts) for name in ("good", *REASONS)))

    @property
    def decided(self) -> int:
        """Requests that were completed, abandoned or rejected: what shares are of."""
        return self.good + int(sum(getattr(self, name) for name in REASONS))

    @property
    def attainment(self) -> float:
        """The share of the decided requests that was good; NaN without any."""
        return self.share("good")

    def share(self, name: str) -> float:
        """A count, by its name, as a share of the decided requests; NaN without any."""
        return float(getattr(self, name)) / self.decided if self.decided else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Plain data: counts, and their shares, None without any decided request."""
        names = ("good", *REASONS)
        counts = {"decided": self.decided} | {name: getattr(self, name) for name in names}
        shares = {name: self.share(name) if self.decided else None for name in names}
        return counts | {"shares": shares}
