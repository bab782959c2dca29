"""The fluid dynamics (24)-(37) under gate-and-route, integrated in small steps.

The derivatives of the model page with the policy's allocation: at each step free prefill capacity
is filled by the printed gate, the class of the smallest x/x* first, and ended prefills take solo
slots first, then mixed ones. That is unambiguous as long as nobody waits for a decode slot and no
decode is in the mixed pool while part of it has no prefill; both are checked on the way.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.instance import Instance

# Capacities and queues are met up to rounding.
_NONE = 1e-12


def fluid_path(
    instance: Instance,
    targets: np.ndarray,
    pool: float,
    start: np.ndarray,
    cells: int,
    cell_seconds: float,
    steps: int,
) -> np.ndarray:
    """Averages over consecutive cells of time.

    Args:
        instance: classes and hardware.
        targets: x* of the gate, shape (I,).
        pool: share of the GPUs in the mixed pool.
        start: rows q_prefill, x, q_decode, y_mixed, y_solo; shape (5, I).
        cells: how many.
        cell_seconds: their length.
        steps: of the integration, in each cell.

    Returns:
        shape (cells, 5, I), rows as in ``start``.
    """
    slots, dt = instance.hardware.batch_slots, cell_seconds / steps
    mu_p, mu_m, mu_s = (
        rates * dt
        for rates in (
            instance.prefill_rates, instance.mixed_decode_rates, instance.solo_decode_rates
        )
    )  # fmt: skip
    theta, arrivals = instance.patience_rates * dt, instance.arrival_rates * dt
    q_p, x, q_d, y_m, y_s = np.array(start, float)
    averages = np.zeros((cells, 5, len(x)))
    for k in range(cells * steps):
        ended = mu_p * x
        q_p = q_p + arrivals - theta * q_p
        y_m, y_s = y_m - mu_m * y_m, y_s - mu_s * y_s
        # The router: solo slots first.
        inflow = max(ended.sum(), _NONE)
        solo = min(1.0, (slots * (1.0 - pool) - y_s.sum()) / inflow)
        y_s, y_m = y_s + solo * ended, y_m + (1.0 - solo) * ended
        # The gate.
        admitted = _admitted(q_p, x - ended, targets, pool)
        q_p, x = q_p - admitted, x - ended + admitted
        assert y_m.sum() <= (slots - 1) * pool
        assert y_m.sum() < _NONE or x.sum() > pool - 1e-6
        averages[k // steps] += np.array([q_p, x, q_d, y_m, y_s]) / steps
    return averages


def _admitted(q_p: np.ndarray, x: np.ndarray, targets: np.ndarray, pool: float) -> np.ndarray:
    """Fill the free capacity: the lowest x/x* rise together while their queues last."""
    admitted = np.zeros_like(x)
    free = pool - x.sum()
    while free > _NONE:
        waiting = q_p - admitted > _NONE
        if not waiting.any():
            break
        ratios = np.where(waiting, (x + admitted) / targets, np.inf)
        lowest = ratios.min()
        rising = ratios < lowest + 1e-9
        higher = ratios[~rising].min(initial=np.inf)
        share = np.where(rising, targets, 0.0)
        left = (q_p - admitted)[rising] / targets[rising]
        lift = min(higher - lowest, free / share.sum(), left.min())
        admitted += lift * share
        free -= lift * share.sum()
    return admitted
