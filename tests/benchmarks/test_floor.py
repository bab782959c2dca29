"""The floor does the work it stands for: its result hangs on every draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.benchmarks.floor import Floor, draw_events
from llm_sched_env.simulation.events.random_streams import stream_keys

RATES = np.array([3.0, 0.0, 1.0, 2.5])
KEYS = stream_keys(np.random.SeedSequence(7))[:2]
_TWO_64 = 2**64


def plain_uniform(key, counter):
    """SplitMix64 in Python's integers."""
    bits = (int(key) + counter * 0x9E3779B97F4A7C15) % _TWO_64
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % _TWO_64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % _TWO_64
    return (((bits ^ (bits >> 31)) >> 11) + 0.5) * 2.0**-53


def test_every_event_is_drawn_as_in_plain_python():
    counts = np.zeros(len(RATES), np.int64)
    draw, time = draw_events(RATES, *KEYS, 0, 0.0, 50.0, counts)
    expected, now, k = np.zeros(len(RATES), np.int64), 0.0, 0
    while now <= 50.0:
        now -= math.log(plain_uniform(KEYS[0], k)) / RATES.sum()
        chosen = plain_uniform(KEYS[1], k) * RATES.sum()
        expected[np.searchsorted(np.cumsum(RATES)[:-1], chosen, side="right")] += 1
        k += 1
    assert draw == k > 200
    assert time == pytest.approx(now)
    assert counts.tolist() == expected.tolist()
    assert counts[1] == 0


def test_either_stream_changes_the_result():
    def run(time_key, kind_key):
        counts = np.zeros(len(RATES), np.int64)
        _, time = draw_events(RATES, time_key, kind_key, 0, 0.0, 1e4, counts)
        return time, counts.tolist()

    time, counts = run(*KEYS)
    other_time, other_counts = run(KEYS[0] + np.uint64(1), KEYS[1])
    assert time != other_time
    assert counts != other_counts
    same_time, other_counts = run(KEYS[0], KEYS[1] + np.uint64(1))
    assert time == same_time
    assert counts != other_counts
    # Kinds come in proportion to their rates: five standard deviations.
    assert counts == pytest.approx(1e4 * RATES, abs=5 * math.sqrt(3e4))


def test_it_scans_twelve_rates_with_two_classes_and_goes_on_where_it_ended():
    instance = lse.presets.base()
    whole, parts = (Floor(instance, lse.plan(instance), 20, seed=3) for _ in range(2))
    assert len(whole.rates) == 12
    # The plan's flows balance: what arrives is prefilled or leaves.
    arrivals, leave, _, prefilled, *_ = whole.rates.reshape(6, 2)
    assert arrivals == pytest.approx(leave + prefilled)
    total = whole.advance(90.0)
    assert sum(parts.advance(seconds) for seconds in (20.0, 30.0, 40.0)) == total
    assert parts.time == whole.time
    assert parts.counts.tolist() == whole.counts.tolist()
    assert whole.events == total == pytest.approx(90 * whole.rates.sum(), rel=0.1)
