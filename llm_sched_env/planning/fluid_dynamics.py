"""The fluid dynamics (24)-(37): the limit of sample paths divided by n (Theorem 3.1).

Under static pools prefills do not depend on decodes: their path is found first and drives the
decodes. A decode of the mixed pool has a running prefill beside it with probability X / (pool),
since prefills start on random GPUs of the pool **[ours]**: prefills are some hundred times shorter
than decodes, so what is left out is a term of relative order mu_s / mu_p.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.decode_dynamics import DecodeDynamics
from llm_sched_env.planning.fluid_plan import FluidPlan
from llm_sched_env.planning.prefill_dynamics import PrefillDynamics
from llm_sched_env.planning.regimes import PiecewisePath, integrate

FLUID_ROUTERS = ("solo-first", "randomized")
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class FluidPath:
    """A path of the fluid model; quantities per GPU, arrays of shape (T, I).

    Attributes:
        times: seconds, shape (T,).
        q_prefill: waiting for prefill.
        x: prefills in service.
        q_decode: prefilled and waiting for a decode slot, all lines.
        y_mixed: decodes beside a running prefill.
        y_solo: decodes without one, those of the mixed pool included.
        switches: seconds at which a regime of prefills or decodes began, shape (R,).

    Example:
        >>> import llm_sched_env as lse
        >>> path = lse.fluid_path(lse.plan("base"), horizon=30.0)
        >>> path.x.shape == (len(path.times), 2)
        True
    """

    times: np.ndarray
    q_prefill: np.ndarray
    x: np.ndarray
    q_decode: np.ndarray
    y_mixed: np.ndarray
    y_solo: np.ndarray
    switches: np.ndarray
    _occupancy: Any = field(repr=False)

    @property
    def occupancy(self) -> np.ndarray:
        """Rows q_prefill, x, q_decode, y_mixed, y_solo at all times; shape (T, 5, I)."""
        rows = (self.q_prefill, self.x, self.q_decode, self.y_mixed, self.y_solo)
        return np.stack(rows, axis=1)

    def at(self, times: Any) -> FluidPath:
        """The same path at other times, seconds from 0 to the horizon, shape (T,).

        Raises:
            ConfigurationError: for a time outside the path.
        """
        wanted = np.atleast_1d(np.asarray(times, float))
        horizon = self._occupancy.horizon
        if not ((wanted >= 0) & (wanted <= horizon)).all():
            raise ConfigurationError("times", times, f"seconds between 0 and {horizon:g}")
        return _sampled(self._occupancy, wanted, self.switches)


def fluid_path(
    plan: FluidPlan,
    horizon: float,
    *,
    router: str = "solo-first",
    start: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    mixed_fraction: float | None = None,
    solo_probability: np.ndarray | None = None,
) -> FluidPath:
    """The fluid path of gate-and-route or of the SLI-aware policy.

    Args:
        plan: instance, and x*, sum x* and p_s unless given below.
        horizon: seconds.
        router: ``solo-first`` (gate-and-route) or ``randomized`` by p_s with a line per pool
            (SLI-aware); the gate is the printed one, the pools static.
        start: rows q_prefill, x, q_decode, y_mixed, y_solo per GPU, shape (5, I); default empty.
            Decodes of the mixed pool are spread evenly over it. What can start at once, does.
        targets: x* of the gate, shape (I,).
        mixed_fraction: share of the GPUs in the mixed pool.
        solo_probability: p_s of the randomized router, shape (I,).

    Raises:
        ConfigurationError: for an argument that is not allowed, or a start beyond (12)-(14).
        PlanError: if the integration fails.

    Example:
        >>> import llm_sched_env as lse
        >>> path = lse.fluid_path(lse.plan("base"), horizon=30.0)
        >>> float(path.times[-1])
        30.0
    """
    if not is_finite_number(horizon, positive=True):
        raise ConfigurationError("horizon", horizon, "a finite number of seconds > 0")
    if router not in FLUID_ROUTERS:
        raise ConfigurationError("router", router, " or ".join(FLUID_ROUTERS))
    instance, n = plan.instance, plan.instance.n_classes
    pool = plan.mixed_fraction if mixed_fraction is None else mixed_fraction
    if not (is_finite_number(pool) and pool <= 1):
        raise ConfigurationError("mixed_fraction", pool, "a number between 0 and 1")
    given = {
        "targets": (plan.x if targets is None else targets, (n,), np.inf),
        "solo_probability": (
            plan.solo_probability if solo_probability is None else solo_probability,
            (n,),
            1.0,
        ),
        "start": (np.zeros((5, n)) if start is None else start, (5, n), np.inf),
    }
    targets, solo_probability, start = (_array(k, *v) for k, v in given.items())
    slots = instance.hardware.batch_slots
    pools = _pools(start, pool, np.array([slots * (1 - pool), (slots - 1) * pool]))
    prefills = PrefillDynamics(instance, targets, pool)
    prefill_path = integrate(prefills, np.concatenate(start[:2]), horizon)
    occupancy = _Occupancy(instance, pool, float(horizon), prefill_path)
    if router == "solo-first":
        occupancy.add(np.ones(n), [0, 1], pools, start[2])
    else:
        for k, share in enumerate((solo_probability, 1.0 - solo_probability)):
            occupancy.add(share, [k], pools, share * start[2])
    paths = [prefill_path, *(path for _, _, path in occupancy.stations)]
    grid = np.unique(np.concatenate([path.grid for path in paths]))
    switches = np.unique(np.concatenate([path.switches for path in paths]))
    return _sampled(occupancy, grid, switches)


class _Occupancy:
    """The five rows at any time, from the paths of prefills and of one or two lines of decodes."""

    def __init__(
        self, instance: Instance, pool: float, horizon: float, prefills: PiecewisePath
    ) -> None:
        self.instance, self.pool, self.horizon, self.prefills = instance, pool, horizon, prefills
        self.stations: list[tuple[DecodeDynamics, list[int], PiecewisePath]] = []

    def add(self, share: np.ndarray, which: list[int], pools: np.ndarray, line: np.ndarray) -> None:
        """A line with a share of the finished prefills, before pools (0: solo, 1: mixed)."""
        hardware = self.instance.hardware
        slots = [hardware.batch_slots * (1 - self.pool), (hardware.batch_slots - 1) * self.pool]
        flow = share * self.instance.prefill_rates
        station = DecodeDynamics(
            lambda time: flow * self.x(time),
            [(self.solo_rates, self.mixed_pool_rates)[k] for k in which],
            np.array([slots[k] for k in which]),
            self.instance.patience_rates,
        )
        state = station.start(pools[which], line)
        path = integrate(station, state, self.horizon, self.prefills.switches.tolist())
        self.stations.append((station, which, path))

    def x(self, time: float) -> np.ndarray:
        x: np.ndarray = np.maximum(self.prefills(time).reshape(2, -1)[1], 0.0)
        return x

    def beside_prefill(self, time: float) -> float:
        """Share of the mixed pool's GPUs with a running prefill."""
        return min(1.0, float(self.x(time).sum()) / self.pool) if self.pool > 0 else 0.0

    def solo_rates(self, time: float) -> np.ndarray:  # noqa: ARG002
        return self.instance.solo_decode_rates

    def mixed_pool_rates(self, time: float) -> np.ndarray:
        beside = self.beside_prefill(time)
        mixed, solo = self.instance.mixed_decode_rates, self.instance.solo_decode_rates
        rates: np.ndarray = beside * mixed + (1 - beside) * solo
        return rates

    def __call__(self, time: float) -> np.ndarray:
        """Rows q_prefill, x, q_decode, y_mixed, y_solo; shape (5, I)."""
        pools, line = np.zeros((2, self.instance.n_classes)), np.zeros(self.instance.n_classes)
        for station, which, path in self.stations:
            found, waiting, _, _ = station.parts(path(time))
            pools[which] = found
            line = line + waiting
        beside = self.beside_prefill(time)
        q = self.prefills(time).reshape(2, -1)[0]
        rows = [q, self.x(time), line, beside * pools[1], pools[0] + (1 - beside) * pools[1]]
        values: np.ndarray = np.maximum(np.array(rows), 0.0)
        return values


def _sampled(occupancy: _Occupancy, times: np.ndarray, switches: np.ndarray) -> FluidPath:
    values = np.array([occupancy(time) for time in times])
    rows = np.moveaxis(values.reshape(len(times), 5, occupancy.instance.n_classes), 1, 0)
    q_prefill, x, q_decode, y_mixed, y_solo = rows
    return FluidPath(times, q_prefill, x, q_decode, y_mixed, y_solo, switches, occupancy)


def _array(name: str, value: Any, shape: tuple[int, ...], most: float) -> np.ndarray:
    array = np.asarray(value, float)
    if array.shape != shape or not (np.isfinite(array) & (array >= 0) & (array <= most)).all():
        allowed = "finite numbers >= 0" if np.isinf(most) else f"numbers between 0 and {most:g}"
        raise ConfigurationError(name, value, f"{allowed}, shape {shape}")
    return array


def _pools(start: np.ndarray, pool: float, slots: np.ndarray) -> np.ndarray:
    """Decodes of the solo and of the mixed pool, shape (2, I), from the rows of a start."""
    prefills, y_mixed, y_solo = start[1].sum(), start[3], start[4]
    spread = y_mixed * (pool / prefills) if prefills > 0 else y_mixed
    mixed = np.minimum(spread, y_mixed + y_solo)
    solo = y_mixed + y_solo - mixed
    surplus = solo * (1 - min(1.0, slots[0] / solo.sum())) if solo.any() else solo
    pools = np.array([solo - surplus, mixed + surplus])
    full = np.array([prefills, *pools.sum(axis=1)])
    if (full > np.array([pool, *slots]) * (1 + _ROUNDING) + _ROUNDING).any():
        raise ConfigurationError(
            "start",
            full.tolist(),
            f"prefills, solo and mixed pool's decodes up to {[pool, *slots.tolist()]}",
        )
    return pools
