"""The paper's occupancy gate in plain Python: choose the class to prefill next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from llm_sched_env.planning import FluidPlan


class OccupancyGate:
    """The waiting class with the smallest X / (n x*), ties by the queue's excess over n q_p*."""

    def __init__(self, plan: FluidPlan, n_gpus: int) -> None:
        self._prefill_targets = [n_gpus * float(x) for x in plan.x]
        self._queue_targets = [n_gpus * float(q) for q in plan.q_prefill]

    def choose(self, prefills: Sequence[int], waiting: Sequence[int]) -> int:
        """The class to admit.

        Args:
            prefills: prefills in service, by class.
            waiting: requests waiting for prefill, by class; at least one.
        """

        def rank(i: int) -> tuple[float, float]:
            target = self._prefill_targets[i]
            ratio = prefills[i] / target if target > 0.0 else math.inf
            # Rounded, so that targets in simple ratios tie.
            return round(ratio, 9), self._queue_targets[i] - waiting[i]

        return min((i for i, size in enumerate(waiting) if size), key=rank)
