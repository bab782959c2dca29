"""Blocks of prompts: which parts of requests can be reused from a cache of KV blocks.

A block stands for a fixed number of tokens together with everything before them, as in prefix
caches of serving engines: two requests that begin with the same blocks have the same prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import ConfigurationError

BLOCK_TOKENS = 512
"""Tokens of a block, as in the Mooncake traces."""


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The blocks of K requests, those of a request in their order.

    Args:
        ids: of all requests in a row, whole numbers >= 0.
        starts: request k has ``ids[starts[k] : starts[k + 1]]``; shape (K + 1,).

    Raises:
        ConfigurationError: for arrays that are no lists of whole numbers.

    Example:
        >>> blocks = BlockLists.of([[0, 1, 2], [], [0, 1, 7]])
        >>> blocks.counts.tolist(), blocks.picked([2]).ids.tolist()
        ([3, 0, 3], [0, 1, 7])
    """

    ids: np.ndarray
    starts: np.ndarray

    def __post_init__(self) -> None:
        for name in ("ids", "starts"):
            array = np.asarray(getattr(self, name))
            whole = np.issubdtype(array.dtype, np.integer) or array.size == 0
            if array.ndim != 1 or not whole or (array < 0).any():
                raise ConfigurationError(
                    f"block lists {name}", array, "whole numbers >= 0 in a row"
                )
            object.__setattr__(self, name, np.ascontiguousarray(array, np.int64))
        starts = self.starts
        ordered = len(starts) > 0 and starts[0] == 0 and (np.diff(starts) >= 0).all()
        if not ordered or starts[-1] != len(self.ids):
            raise ConfigurationError(
                "block lists starts", starts, f"non-decreasing places from 0 to {len(self.ids)}"
            )

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> BlockLists:
        """From one list a request."""
        counts = np.array([len(blocks) for blocks in lists], np.int64)
        ids = [block for blocks in lists for block in blocks]
        return cls(np.array(ids), _starts(counts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``ids`` and ``starts``."""
        return self.ids, self.starts

    @property
    def counts(self) -> np.ndarray:
        """Blocks of each request, shape (K,)."""
        return np.diff(self.starts)

    def picked(self, rows: slice | np.ndarray | Sequence[int]) -> BlockLists:
        """Those of some of the requests: a slice, a mask or indices."""
        chosen = np.arange(len(self))[rows]
        counts = self.counts[chosen]
        starts = _starts(counts)
        places = np.arange(starts[-1]) + np.repeat(self.starts[chosen] - starts[:-1], counts)
        return BlockLists(self.ids[places], starts)

    @staticmethod
    def joined(lists: Sequence[BlockLists]) -> BlockLists:
        """Of all requests of several files one after the other, whose blocks are all different."""
        firsts = np.cumsum([0, *(int(one.ids.max(initial=-1)) + 1 for one in lists)])
        ids = [one.ids + first for one, first in zip(lists, firsts, strict=False)]
        return BlockLists(
            np.concatenate(ids), _starts(np.concatenate([one.counts for one in lists]))
        )

    def reused_tokens(self, prompt_tokens: np.ndarray, block_tokens: int) -> np.ndarray:
        """Prompt tokens that one infinite cache has when requests come in this order, shape (K,).

        At least one token of a prompt is left. No cache of any size saves more of a request, as
        long as it holds only what has come before.
        """
        matched = np.zeros(len(self), np.int64)
        seen: set[int] = set()
        ids, starts = self.ids.tolist(), self.starts.tolist()
        for k in range(len(self)):
            own = ids[starts[k] : starts[k + 1]]
            known = 0
            while known < len(own) and own[known] in seen:
                known += 1
            matched[k] = known
            seen.update(own[known:])
        reused: np.ndarray = np.minimum(
            matched * block_tokens, np.maximum(prompt_tokens - 1.0, 0.0)
        )
        return reused


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
