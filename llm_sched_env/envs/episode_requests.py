"""Requests that share prefixes, drawn for each episode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.model.drawn_conversations import draw_requests
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.state.layout import RequestStream


@dataclass(frozen=True)
class EpisodeRequests:
    """Requests of a cluster up to a time.

    Attributes:
        stream: in order of arrival.
        until: seconds.
    """

    stream: RequestStream
    until: float

    @classmethod
    def drawn(
        cls, instance: Instance, n_gpus: int, until: float, seed: np.random.SeedSequence
    ) -> EpisodeRequests:
        """Those of a run with this seed, as :func:`llm_sched_env.evaluate` draws them."""
        drawn = draw_requests(instance, n_gpus, until, seed)
        stream = RequestStream(*drawn[:4], np.empty(0), drawn.session, *drawn.blocks.arrays)
        return cls(stream, until)

    def extended(
        self, instance: Instance, n_gpus: int, until: float, seed: np.random.SeedSequence
    ) -> EpisodeRequests:
        """These requests and, after their end, as many more as there are up to a later time.

        The later ones are of other conversations, of which no cache has anything.
        """
        if until <= self.until:
            return self
        own, more = self.stream, draw_requests(instance, n_gpus, until - self.until, seed)
        lists = [(own.block_ids, own.block_starts), more.blocks.arrays]
        numbers = _above(lists[0][0], lists[1][0])
        starts = np.concatenate([lists[0][1], lists[0][1][-1] + lists[1][1][1:]])
        blocks = BlockLists(np.concatenate([lists[0][0], numbers]), starts)
        stream = RequestStream(
            np.concatenate([own.arrival_time, self.until + more.arrival_time]),
            np.concatenate([own.request_class, more.request_class]),
            np.concatenate([own.prompt_tokens, more.prompt_tokens]),
            np.concatenate([own.output_tokens, more.output_tokens]),
            np.empty(0),
            np.concatenate([own.session, _above(own.session, more.session)]),
            *blocks.arrays,
        )
        return EpisodeRequests(stream, until)


def _above(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Other numbers, made greater than all of these."""
    shifted: np.ndarray = others + (int(numbers.max()) + 1 if len(numbers) else 0)
    return shifted
