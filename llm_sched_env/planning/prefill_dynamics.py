"""Fluid dynamics of queues and prefills under the printed gate: q_p' and x' of (24)-(37).

The gate admits the waiting class with the smallest x / x*. In the fluid that is a complementarity
system: while the pool has room nothing waits; when it is full, what it frees goes to the classes in
order of x / x*, and classes with the same ratio share so that their ratios stay equal. Per class
one of three: OPEN, admitted as it arrives, with an empty queue; SHARE, at the ratio at which
capacity runs out, sliding with the others there; SHUT, above it, admitted not at all. Their
shares follow from one monotone equation, so the next regime never has to be guessed.

Classes with x* = 0 come last, the largest q_p - q_p* first, as in the gate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llm_sched_env.model.instance import Instance

OPEN, SHARE, SHUT = range(3)
# Ranks that agree to this tie; queues and free capacity below this are empty and none.
_TIE = 1e-7
_NONE = 1e-9


class Gate(NamedTuple):
    """Per class OPEN, SHARE or SHUT; and whether the pool stays full."""

    status: np.ndarray
    full: bool


def share_out(total: float, slope: np.ndarray, offset: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Amounts ``clip(slope * level + offset, 0, most)`` at the level at which they sum to total.

    Args:
        total: to be shared; if it exceeds the sum of ``most``, that is what is given.
        slope: > 0, shape (K,).
        offset: shape (K,).
        most: >= 0, may be infinite, shape (K,).
    """
    if most.sum() <= total:
        return np.array(most)
    starts, stops = -offset / slope, (most - offset) / slope
    bends = np.sort(np.concatenate([starts, stops[np.isfinite(stops)]]))
    sums = np.array([np.clip(slope * bend + offset, 0.0, most).sum() for bend in bends])
    k = int(np.searchsorted(sums, total, side="right")) - 1
    if k < 0:
        return np.zeros_like(offset)
    rising = slope[(starts <= bends[k]) & (bends[k] < stops)].sum()
    level = bends[k] + ((total - sums[k]) / rising if rising > 0 else 0.0)
    amounts: np.ndarray = np.clip(slope * level + offset, 0.0, most)
    return amounts


class PrefillDynamics:
    """States are (q_prefill, x), flat, shape (2I,), per GPU.

    Args:
        instance: classes and hardware.
        targets: x* of the gate, shape (I,).
        pool: share of the GPUs in the mixed pool.
    """

    def __init__(self, instance: Instance, targets: np.ndarray, pool: float) -> None:
        self.arrivals, self.theta = instance.arrival_rates, instance.patience_rates
        self.mu, self.targets, self.pool = instance.prefill_rates, targets, pool
        rejected = np.maximum(0.0, self.arrivals - self.mu * targets)
        with np.errstate(divide="ignore", invalid="ignore"):
            self.queue_targets = np.where(rejected > 0, rejected / self.theta, 0.0)
        # Tiers come one after the other: with a target; without; without and with endless targets
        # of the queue, which all tie and go by index.
        endless = np.isinf(self.queue_targets) & (targets == 0)
        self.tier = np.where(targets > 0, 0, np.where(endless, 2 + np.arange(len(targets)), 1))
        self.slope = np.where(targets > 0, targets, 1.0)

    def ranks(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The gate's order inside a tier, smallest first; rank' = (u - steady) / slope."""
        finite = np.where(np.isfinite(self.queue_targets), self.queue_targets, 0.0)
        ranks: np.ndarray = np.where(self.tier == 0, x / self.slope, finite - q)
        return ranks

    def steady(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Admissions per second that leave the ranks as they are."""
        kept: np.ndarray = np.where(self.tier == 0, self.mu * x, self.arrivals - self.theta * q)
        return kept

    def settle(self, time: float, state: np.ndarray) -> tuple[np.ndarray, Gate]:  # noqa: ARG002
        """Fill free capacity at once, then say who is admitted."""
        q, x = np.maximum(state.reshape(2, -1), 0.0)
        q[q < _NONE] = 0.0
        if x.sum() < self.pool - _NONE:
            q, x = self._filled(q, x)
        if x.sum() < self.pool - _NONE:
            return np.concatenate([q, x]), Gate(np.full(len(q), OPEN), full=False)
        if x.sum() > 0:
            x = x * (self.pool / x.sum())
        status = self._admissions(q, x)
        return np.concatenate([q, x]), Gate(status, full=bool((status != OPEN).any()))

    def _filled(self, q: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What waits moves into free capacity, the lowest ranks rising together."""
        for tier in np.unique(self.tier):
            own = self.tier == tier
            free = max(0.0, self.pool - x.sum())
            moved = np.zeros_like(x)
            offset = -self.ranks(q, x)[own] * self.slope[own]
            moved[own] = share_out(free, self.slope[own], offset, q[own])
            q, x = q - moved, x + moved
        q[q < _NONE] = 0.0
        return q, x

    def _admissions(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The status of every class when the pool is full; x of ties is made equal in rank."""
        status = np.full(len(q), SHUT)
        coming = (q > 0) | (self.arrivals > 0)
        status[~coming] = OPEN
        left, ranks = float(self.mu @ x), self.ranks(q, x)
        steady = self.steady(q, x)
        most = np.where(q > 0, np.inf, self.arrivals)
        for group in self._ties(ranks, coming):
            if self.tier[group[0]] == 0:
                x[group] = self.targets[group] * (x[group].sum() / self.targets[group].sum())
            if most[group].sum() <= left:
                status[group] = OPEN
                left -= most[group].sum()
                continue
            amounts = share_out(left, self.slope[group], steady[group], most[group])
            status[group] = np.where(amounts >= most[group], OPEN, SHARE)
            status[group[amounts <= 0]] = SHUT
            if not (status[group] == SHARE).any():
                status[group[np.argmax(amounts < most[group])]] = SHARE
            break
        return status

    def _ties(self, ranks: np.ndarray, coming: np.ndarray) -> list[np.ndarray]:
        """Classes that come, in groups of equal rank, in the gate's order."""
        groups: list[list[int]] = []
        for i in np.lexsort((ranks, self.tier)):
            if not coming[i]:
                continue
            last = groups[-1][-1] if groups else -1
            if (
                groups
                and self.tier[i] == self.tier[last]
                and ranks[i] - ranks[last] <= _TIE * max(1.0, abs(ranks[i]))
            ):
                groups[-1].append(i)
            else:
                groups.append([i])
        return [np.array(group) for group in groups]

    def admitted(self, q: np.ndarray, x: np.ndarray, gate: Gate) -> np.ndarray:
        """u_p, admissions per second and GPU, shape (I,)."""
        u = np.where(gate.status == OPEN, self.arrivals, 0.0)
        if gate.full:
            share = gate.status == SHARE
            steady = self.steady(q, x)[share]
            left = self.mu @ x - u.sum() - steady.sum()
            u[share] = steady + self.slope[share] * (left / self.slope[share].sum())
        return u

    def derivative(self, time: float, state: np.ndarray, gate: Gate) -> np.ndarray:  # noqa: ARG002
        """q_p' = lambda - u_p - theta q_p and x' = u_p - mu_p x."""
        q, x = state.reshape(2, -1)
        u = self.admitted(q, x, gate)
        return np.concatenate([self.arrivals - u - self.theta * q, u - self.mu * x])

    def margins(self, time: float, state: np.ndarray, gate: Gate) -> np.ndarray:  # noqa: ARG002
        """Free capacity used up; or a queue emptied, nothing left to share, ranks that meet."""
        q, x = state.reshape(2, -1)
        if not gate.full:
            return np.array([x.sum() - self.pool])
        share = gate.status == SHARE
        ranks, tier = self.ranks(q, x), self.tier[share][0]
        common = ranks[share].mean()
        beside = self.tier == tier
        scale = max(1.0, abs(common))
        below = beside & (gate.status == OPEN) & (self.arrivals > 0)
        above = beside & (gate.status == SHUT)
        return np.concatenate(
            [
                -q[share],
                -self.admitted(q, x, gate)[share],
                (ranks[below] - common) / scale,
                (common - ranks[above]) / scale,
            ]
        )
