"""The figures of a run that are compared, by the same definitions for measured and simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.model.instance import Prices
from llm_sched_env.validation.served_run import ABANDONED, COMPLETED, ServedRun

LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True)
class Latency:
    """Mean and percentiles of a latency, s; None if no request has it."""

    mean: float | None
    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: np.ndarray) -> Latency:
        """From the latencies of requests."""
        if len(seconds) == 0:
            return cls(None, None, None)
        return cls(float(seconds.mean()), *np.quantile(seconds, (0.5, 0.99)).tolist())


@dataclass(frozen=True)
class RunFigures:
    """Figures of a run until a horizon.

    Attributes:
        completed: requests.
        abandoned: requests.
        revenue_rate: of what completed, per GPU and second, at prices per prompt and output token.
        ttft: time to first token, of all that got one.
        tpot: (end - first token) / output tokens, of completed requests.
        e2e: from arrival to end, of completed requests.
    """

    completed: int
    abandoned: int
    revenue_rate: float
    ttft: Latency
    tpot: Latency
    e2e: Latency

    @classmethod
    def of(cls, run: ServedRun, horizon: float, n_gpus: int, prices: Prices) -> RunFigures:
        """The figures of a run as it stands after ``horizon`` seconds."""
        run = run.until(horizon)
        done = run.outcome == COMPLETED
        paid = prices.prefill * run.prompt_tokens[done] + prices.decode * run.output_tokens[done]
        return cls(
            int(done.sum()),
            int((run.outcome == ABANDONED).sum()),
            float(paid.sum()) / (horizon * n_gpus),
            *(Latency.of(getattr(run, name)) for name in LATENCIES),
        )


def relative_errors(measured: Any, simulated: Any) -> Any:
    """Simulated / measured - 1 of plain figures, nested alike; None where it is not defined."""
    if isinstance(measured, dict):
        return {key: relative_errors(measured[key], simulated[key]) for key in measured}
    if measured is None or simulated is None:
        return None
    if measured == 0:
        return 0.0 if simulated == 0 else None
    return simulated / measured - 1.0
