"""One GPU with a deadline for the first token is an M/M/1 queue with deterministic patience.

Whoever could start no later than at its deadline less a mean prefill is served, the others are
dropped (Barrer, Operations Research 5, 1957). The work that an arrival finds has a known density.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import llm_sched_env as lse

SECONDS = 0.2
"""A mean prefill."""


def one_gpu(load: float, ttft_seconds: float) -> lse.Instance:
    """Prefills of exponential length on a GPU whose decodes take no time worth counting."""
    gpu = lse.Hardware(alpha=SECONDS, beta=0.0, gamma=1e6, chunk_tokens=100, batch_slots=256)
    deadlines = lse.Deadlines(ttft_seconds=ttft_seconds)
    request = lse.RequestClass("a", 100.0, 0.001, load / SECONDS, 0.0, deadlines=deadlines)
    return lse.Instance("one", (request,), gpu, lse.Prices(0.1, 0.2))


def dropped_and_good(load: float, ttft_seconds: float) -> tuple[float, float]:
    """Shares of the arrivals that are dropped, and that have their first token in time."""
    mu, arrivals = 1.0 / SECONDS, load / SECONDS
    latest = ttft_seconds - SECONDS
    steps = np.linspace(0.0, latest, 20_001)
    density = arrivals * np.exp((arrivals - mu) * steps)
    beyond = arrivals * math.exp((arrivals - mu) * latest) / mu
    empty = 1.0 / (1.0 + np.trapezoid(density, steps) + beyond)
    in_time = 1.0 - np.exp(-mu * (ttft_seconds - steps))
    good = (1.0 - math.exp(-mu * ttft_seconds)) + np.trapezoid(density * in_time, steps)
    return empty * beyond, empty * good


@pytest.mark.parametrize(("load", "ttft_seconds"), [(0.8, 0.6), (1.3, 1.0), (2.0, 2.0)])
@pytest.mark.parametrize("gate", ["fcfs", "earliest-deadline"])
def test_shares_are_those_of_the_queue(load, ttft_seconds, gate):
    rule = lse.DispatchRule(gate=gate, router="coupled", pools="dynamic", drop_late=True)
    result = lse.evaluate(
        rule, one_gpu(load, ttft_seconds), 1,
        horizon=6000.0, warmup=200.0, replications=8, seed=int(10 * load),
    )  # fmt: skip
    shares = result.classes[0].deadlines
    assert shares is not None
    dropped, good = dropped_and_good(load, ttft_seconds)
    # Successive requests are alike: three times the error of independent ones.
    decided = 5800.0 * 8 * load / SECONDS
    for found, known in ((shares.share("rejected"), dropped), (shares.attainment, good)):
        assert found == pytest.approx(known, abs=9.0 * math.sqrt(known * (1 - known) / decided))
    assert shares.share("abandoned") == 0.0
