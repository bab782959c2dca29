"""Fluid dynamics of decodes: one first-come-first-served queue for pools of decode slots.

Finished prefills take slots of the first pool with room; when all pools are full they wait in one
line over classes. The line is exact, also when classes lose patience at different rates: its head
arrived at a time a, and what arrived at a has shrunk by exp(-theta (t - a)), so that slots freed
at rate c move the head by a' = c / sum_i f_i(a) exp(-theta_i (t - a)). Inflows f are those of the
prefills, which do not depend on decodes: they are known before.

The regime is the number of full pools that keep their freed slots filled; with the last of them
full too, requests wait. Whoever waits at time 0 is ahead of the others and well mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_NONE = 1e-9
# The head of the line leaves the requests of time 0 when this little of them is left.
_BLOCK = 1e-8
# Seconds.
_INSTANT = 1e-6

PerClass = Callable[[float], np.ndarray]


class Line(NamedTuple):
    """How many pools are full before the one with room, and whether the first come are waiting."""

    full: int
    block: bool


class DecodeDynamics:
    """States are (pools, line, first come, head of the line), flat, shape ((K + 2) I + 1,).

    Args:
        inflow: finished prefills per second and GPU at a time, shape (I,).
        rates: completions per second and decode, per pool, at a time; K functions of shape (I,).
        slots: decode slots per GPU of the cluster, shape (K,).
        patience_rates: shape (I,).
    """

    def __init__(
        self,
        inflow: PerClass,
        rates: list[PerClass],
        slots: np.ndarray,
        patience_rates: np.ndarray,
    ) -> None:
        self.inflow, self.rates, self.slots, self.theta = inflow, rates, slots, patience_rates

    def start(self, pools: np.ndarray, line: np.ndarray) -> np.ndarray:
        """A state at time 0 from decodes, shape (K, I), and requests in line, shape (I,)."""
        return np.concatenate([pools.ravel(), line, line, [0.0]])

    def parts(self, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Pools (K, I), line (I,), first come (I,), head of the line."""
        rows = state[:-1].reshape(len(self.slots) + 2, -1)
        return rows[:-2], rows[-2], rows[-1], float(state[-1])

    def _freed(self, time: float, pools: np.ndarray) -> np.ndarray:
        """Completions per second, by pool and class, shape (K, I)."""
        rates = np.array([rate(time) for rate in self.rates])
        completed: np.ndarray = rates * pools
        return completed

    def settle(self, time: float, state: np.ndarray) -> tuple[np.ndarray, Line]:
        """Fill free slots from the line at once, then say which pools are full."""
        # Before rounding below 0 is cut off by class: only the sum says that the line has ended.
        waits = self.parts(state)[1].sum() > _NONE
        pools, line, block, head = self.parts(np.maximum(state, 0.0))
        if block.sum() <= 2 * _BLOCK:
            line, block = np.maximum(line - block, 0.0), np.zeros_like(block)
        for k, slots in enumerate(self.slots):
            free, waiting = slots - pools[k].sum(), line.sum()
            if block.any() and free > 0:
                moved = line * min(1.0, free / waiting)
                pools[k] += moved
                line, block = line - moved, block - moved
        if not waits or line.sum() <= _NONE:
            waits = False
            line, block, head = np.zeros_like(line), np.zeros_like(block), time
        if waits and not block.any():
            head = self._first_inflow(head, time)
        full, left = 0, float(self.inflow(time).sum())
        for k, slots in enumerate(self.slots):
            if not waits and pools[k].sum() < slots - _NONE:
                break
            if slots > 0:
                pools[k] *= slots / pools[k].sum()
            freed = self._freed(time, pools)[k].sum()
            if not waits and left <= freed:
                break
            left -= freed
            full += 1
        settled = np.concatenate([pools.ravel(), line, block, [head]])
        return settled, Line(full, bool(block.any()))

    def _first_inflow(self, head: float, time: float) -> float:
        """The head, past an instant at which nothing came, as at the start of an empty cluster."""
        step = _INSTANT
        while head < time and self.inflow(head).sum() == 0:
            head, step = min(head + step, time), 2 * step
        return head

    def derivative(self, time: float, state: np.ndarray, regime: Line) -> np.ndarray:
        """Changes of the pools and of the line, and the movement of its head."""
        pools, line, block, head = self.parts(state)
        came, freed = self.inflow(time), self._freed(time, pools)
        by_pool = freed.sum(axis=1)
        into = np.zeros_like(pools)
        line_change, block_change, head_change = np.zeros_like(line), np.zeros_like(line), 1.0
        if regime.full < len(self.slots):
            shares = came / max(came.sum(), np.finfo(float).tiny)
            into[: regime.full] = by_pool[: regime.full, None] * shares
            into[regime.full] = came - into[: regime.full].sum(axis=0)
        else:
            if regime.block:
                at_head, head_change = block, 0.0
            else:
                at_head = self.inflow(head) * np.exp(-self.theta * (time - head))
                head_change = by_pool.sum() / at_head.sum()
            into = by_pool[:, None] * (at_head / at_head.sum())
            line_change = came - into.sum(axis=0) - self.theta * line
            if regime.block:
                block_change = -into.sum(axis=0) - self.theta * block
        pool_change = into - freed
        return np.concatenate([pool_change.ravel(), line_change, block_change, [head_change]])

    def margins(self, time: float, state: np.ndarray, regime: Line) -> np.ndarray:
        """A pool filled up, a full pool no longer kept full; or the line, or its block, ended."""
        pools, line, block, _ = self.parts(state)
        k = regime.full
        if k == len(self.slots):
            return np.array([-line.sum(), *([_BLOCK - block.sum()] if regime.block else [])])
        kept = self._freed(time, pools)[:k].sum() - self.inflow(time).sum() if k else -1.0
        return np.array([pools[k].sum() - self.slots[k], kept])
