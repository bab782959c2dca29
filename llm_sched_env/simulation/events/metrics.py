"""Metrics of a run after the warm-up: rates and occupancies per GPU, counts, latencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.simulation.state.layout import (
    CLASS_TOTALS,
    COUNTS,
    DEADLINE_COUNTS,
    E2E,
    HISTOGRAM_BINS,
    LOWEST_EXPONENT,
    OCCUPANCIES,
    SUB_BINS_BITS,
    TPOT,
    TTFT,
    EngineState,
)

LATENCIES = {"ttft": TTFT, "tpot": TPOT, "e2e": E2E}
_IN_SERVICE = ("x", "y_mixed", "y_solo")
_SERVED = ("admitted", "prefilled", "completed", "moved", "move_seconds")
_PERCENTILES = (50.0, 90.0, 95.0, 99.0)


@dataclass(frozen=True)
class Latency:
    """Mean and percentiles in seconds (TPOT: seconds per token); NaN when nothing was counted.

    Percentiles come from a histogram of 64 bins per factor of two: at most 1.6% off.
    """

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, eq=False)
class CacheUse:
    """What caches were good for, of the prefills that started.

    Attributes:
        prompt_tokens: of these, by class, shape (I,).
        cached_tokens: that needed no prefill, likewise.
        gpu_prompt_tokens: by GPU, shape (n,).
        gpu_cached_tokens: likewise.
        evictions: blocks that were forgotten, by GPU.
        blocks: that caches have at the end, by GPU.
    """

    prompt_tokens: np.ndarray
    cached_tokens: np.ndarray
    gpu_prompt_tokens: np.ndarray
    gpu_cached_tokens: np.ndarray
    evictions: np.ndarray
    blocks: np.ndarray

    @property
    def share(self) -> float:
        """Cached tokens over prompt tokens; NaN if no prefill started."""
        total = float(self.prompt_tokens.sum())
        return float(self.cached_tokens.sum()) / total if total > 0 else float("nan")


@dataclass(frozen=True, eq=False)
class Metrics:
    """Counts and time averages of one run between ``start`` and ``end`` (seconds).

    Revenue is that of all requests, or only of those that arrived since ``start``, as
    :func:`reset_metrics` was told.
    By class, initial + arrived = completed + rejected + abandoned_prefill + abandoned_decode +
    inside. ``deadline_counts`` has the completed requests that were good, and those whose first
    token was late (``late_ttft``) or whose tokens were slow (``late_tpot``), some of them both;
    ``good_revenue`` is what the good ones earn at completion.
    ``by_group`` has, by class and group of GPUs, shape (I, G), the occupancies of the services and
    how many requests were ``admitted``, ``prefilled`` and ``completed`` there. Where moves take
    time it has how many KV caches ``moved`` there and their ``move_seconds`` in all, with the wait
    for a link, and ``link_busy`` the share of time that the links out of a group are in use, (G,).
    ``reuse`` says what caches were good for; None without caches.
    Other arrays have one entry per class; occupancies are time averages per GPU. ``latency_counts``
    and ``latency_sums`` pool over replications: shapes (3, I, bins) and (3, I).
    """

    n_gpus: int
    start: float
    end: float
    occupancy: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]
    deadline_counts: dict[str, np.ndarray]
    inside: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    bundled_revenue: np.ndarray
    prefill_revenue: np.ndarray
    decode_revenue: np.ndarray
    good_revenue: np.ndarray
    by_group: dict[str, np.ndarray]
    link_busy: np.ndarray
    latency_counts: np.ndarray
    latency_sums: np.ndarray
    events: int
    reuse: CacheUse | None = None

    @property
    def gpu_seconds(self) -> float:
        """Measured time of all GPUs together, the denominator of every rate."""
        return self.n_gpus * (self.end - self.start)

    def revenue(self, pricing: str, revenue: str = "all") -> np.ndarray:
        """Revenue by class, in currency: bundled (22) or separate (23); shape (I,).

        Of all requests, or ``goodput``: of good ones, at completion under either pricing.
        """
        if revenue == "goodput":
            return self.good_revenue
        if pricing == "bundled":
            return self.bundled_revenue
        return self.prefill_revenue + self.decode_revenue

    def revenue_rate(self, pricing: str, revenue: str = "all") -> float:
        """Revenue per GPU and second."""
        return float(self.revenue(pricing, revenue).sum()) / self.gpu_seconds


def read_metrics(state: EngineState) -> Metrics:
    """The metrics of a state since its last :func:`reset_metrics`."""
    clock = state.clock[0]
    by_pair = (len(state.parameters), len(state.groups))
    start, end = float(clock["metrics_start"]), float(clock["time"])
    gpu_seconds = len(state.gpus) * (end - start)
    totals, classes = state.totals.reshape(by_pair), state.classes.reshape(by_pair)
    occupancy = {}
    for name in OCCUPANCIES:
        area = classes[name] * end + totals[f"{name}_area"]
        # Rounding of the running sums can leave -1e-16 where nothing ever was.
        occupancy[name] = np.maximum(area, 0.0) / gpu_seconds if gpu_seconds > 0 else area * np.nan

    def by_class(name: str) -> np.ndarray:
        summed: np.ndarray = totals[name].sum(axis=1)
        return summed

    return Metrics(
        n_gpus=len(state.gpus),
        start=start,
        end=end,
        occupancy={name: values.sum(axis=1) for name, values in occupancy.items()},
        counts={name: by_class(name) for name in COUNTS},
        deadline_counts={name: by_class(name) for name in DEADLINE_COUNTS},
        inside=np.sum([classes[name] for name in OCCUPANCIES], axis=(0, 2)),
        prompt_tokens=by_class("prompt_tokens"),
        output_tokens=by_class("output_tokens"),
        bundled_revenue=by_class("bundled_revenue"),
        prefill_revenue=by_class("prefill_revenue"),
        decode_revenue=by_class("decode_revenue"),
        good_revenue=by_class("good_revenue"),
        by_group={name: occupancy[name] for name in _IN_SERVICE}
        | {name: totals[name].copy() for name in _SERVED},
        link_busy=_link_busy(state, end) / (end - start)
        if end > start
        else np.full(by_pair[1], np.nan),
        latency_counts=state.histograms.copy(),
        latency_sums=np.array([by_class(f"{name}_sum") for name in LATENCIES]),
        events=int(clock["events"]),
        reuse=_cache_use(state),
    )


def _cache_use(state: EngineState) -> CacheUse | None:
    if len(state.caches) == 0:
        return None
    by_pair = (len(state.parameters), len(state.groups))
    totals, caches = state.reuse_totals.reshape(by_pair), state.caches[: len(state.gpus)]
    return CacheUse(
        prompt_tokens=totals["prompt_tokens"].sum(axis=1),
        cached_tokens=totals["cached_tokens"].sum(axis=1),
        gpu_prompt_tokens=caches["prompt_tokens"].copy(),
        gpu_cached_tokens=caches["cached_tokens"].copy(),
        evictions=caches["evictions"].copy(),
        blocks=caches["blocks"].copy(),
    )


def _link_busy(state: EngineState, now: float) -> np.ndarray:
    """Seconds since the last reset that a link of each group was in use on average; shape (G,)."""
    if len(state.links) == 0:
        return np.zeros(len(state.groups))
    # From now on a link is busy until it is free.
    busy = state.links["busy_seconds"] - np.maximum(0.0, state.links["free_time"] - now)
    sums: np.ndarray = np.add.reduceat(busy, state.groups["first_gpu"])
    return sums / state.groups["n_gpus"]


def reset_metrics(state: EngineState, *, pay_earlier_arrivals: bool = True) -> None:
    """Forget what was counted so far: the end of the warm-up.

    Args:
        state: of one cluster.
        pay_earlier_arrivals: whether requests that arrived before now still earn revenue.
    """
    time = state.clock["time"][0]
    state.clock["paid_from"] = -np.inf if pay_earlier_arrivals else time
    state.totals[:] = np.zeros(1, CLASS_TOTALS)
    state.totals["initial"] = sum(state.classes[name] for name in OCCUPANCIES)
    for name in OCCUPANCIES:
        state.totals[f"{name}_area"] = -state.classes[name] * time
    state.links["busy_seconds"] = np.maximum(0.0, state.links["free_time"] - time)
    state.histograms[:] = 0
    for name in ("prompt_tokens", "cached_tokens"):
        state.reuse_totals[name] = 0.0
        state.caches[name] = 0.0
    state.caches["evictions"] = 0
    state.clock["metrics_start"] = time


def bin_edges() -> np.ndarray:
    """Edges of the latency histogram in seconds; shape (bins + 1,)."""
    place = np.arange(HISTOGRAM_BINS + 1)
    octave, step = place >> SUB_BINS_BITS, place & ((1 << SUB_BINS_BITS) - 1)
    edges: np.ndarray = np.ldexp(1.0 + step / (1 << SUB_BINS_BITS), octave + LOWEST_EXPONENT)
    return edges


def summarize_latency(counts: np.ndarray, total_seconds: float) -> Latency:
    """Mean and percentiles from histogram counts (bins,) and the exact sum."""
    n = int(counts.sum())
    if n == 0:
        return Latency(0, *([float("nan")] * 5))
    edges = bin_edges()
    cumulative = np.concatenate([[0], np.cumsum(counts)]) / n
    wanted = [float(np.interp(p / 100, cumulative, edges)) for p in _PERCENTILES]
    return Latency(n, total_seconds / n, *wanted)


def plain_latency(latency: Latency) -> dict[str, Any]:
    """Plain data; ``None`` for what was not observed."""
    values: dict[str, Any] = {"count": latency.count}
    for name in ("mean", "p50", "p90", "p95", "p99"):
        value = getattr(latency, name)
        values[name] = None if np.isnan(value) else value
    return values
