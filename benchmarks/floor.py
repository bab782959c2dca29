"""A lower bound on the cost of an event: two random draws and a scan of the event rates.

Any simulation of a Markov chain draws when the next event comes and which one it is. This loop
does that with the engine's own random numbers and nothing else: six kinds of events per class
(twelve rates with two classes) at the constant rates of the fluid plan.
"""

from __future__ import annotations

import numba
import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.events.random_streams import exponential, stream_keys, uniform


@numba.njit(error_model="numpy", nogil=True)
def draw_events(
    rates: np.ndarray,
    time_key: np.uint64,
    kind_key: np.uint64,
    first: int,
    start: float,
    until: float,
    counts: np.ndarray,
) -> tuple[int, float]:
    """Draw events from time ``start`` to the first one after ``until``.

    Args:
        rates: of the kinds of events, 1/s.
        time_key: stream of the gaps.
        kind_key: stream of the kinds.
        first: number of the first draw.
        start: seconds.
        until: seconds.
        counts: of the kinds drawn, added to.

    Returns:
        The number of the next draw and the time reached.
    """
    total = rates.sum()
    draw, time = first, start
    while time <= until:
        time += exponential(time_key, draw) / total
        chosen = uniform(kind_key, draw) * total
        kind, cumulative = 0, 0.0
        # To the end: leaving the scan early costs more than it saves, as no CPU predicts where.
        for k in range(len(rates) - 1):
            cumulative += rates[k]
            kind += chosen >= cumulative
        counts[kind] += 1
        draw += 1
    return draw, time


class Floor:
    """The bare loop at the rates that a cluster has at the fluid plan.

    Attributes:
        rates: of arrivals, abandonments in both queues, ends of prefills and of mixed and solo
            decodes, each by class, 1/s.
        counts: events drawn so far, by kind.
        time: simulated seconds.
    """

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        per_gpu = (
            instance.arrival_rates,
            instance.patience_rates * np.where(np.isfinite(plan.q_prefill), plan.q_prefill, 0.0),
            instance.patience_rates * np.where(np.isfinite(plan.q_decode), plan.q_decode, 0.0),
            instance.prefill_rates * plan.x,
            instance.mixed_decode_rates * plan.y_mixed,
            instance.solo_decode_rates * plan.y_solo,
        )
        self.rates = n_gpus * np.concatenate(per_gpu)
        self.counts = np.zeros(len(self.rates), np.int64)
        self.time = 0.0
        self._until = 0.0
        self._draw = 0
        self._time_key, self._kind_key = stream_keys(np.random.SeedSequence(seed))[:2]

    @property
    def events(self) -> int:
        """Events drawn so far."""
        return int(self.counts.sum())

    def advance(self, seconds: float) -> int:
        """Draw the events of this many seconds more; how many there were."""
        first = self._draw
        self._until += seconds
        self._draw, self.time = draw_events(
            self.rates,
            self._time_key,
            self._kind_key,
            first,
            self.time,
            self._until,
            self.counts,
        )
        return self._draw - first
