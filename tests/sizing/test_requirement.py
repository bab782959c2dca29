"""Shares, their limits, verdicts and what may be asked."""

from __future__ import annotations

import numpy as np
import pytest

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.sizing.requirement import MET, MISSED, OPEN, Requirement, Share, share_of
from llm_sched_env.sizing.requirement import verdict_of as verdict


def own_shares(rng, kind):
    """Shares of twenty parts, and their mean: alike, varying, or now and then a bad one."""
    if kind == "alike":
        return np.full(20, 0.94), 0.94
    if kind == "varying":
        return rng.beta(0.94 * 50, 0.06 * 50, 20), 0.94
    return np.where(rng.random(20) < 0.2, 0.95, 1.0), 0.99


@pytest.mark.parametrize("kind", ["alike", "varying", "bursts"])
def test_the_limits_cover_as_often_as_they_say(kind):
    rng = np.random.default_rng(0)
    below = above = 0
    for _ in range(500):
        own, mean = own_shares(rng, kind)
        totals = rng.poisson(1000, 20)
        found = share_of(rng.binomial(totals, own), totals, 0.9)
        below += found.low <= mean
        above += mean <= found.high
    # 500 draws of a chance of 0.9 are below 0.87 once in a hundred times.
    assert below / 500 >= 0.87
    assert above / 500 >= (0.87 if kind != "bursts" else 0.8)


def test_limits_of_one_part_are_those_of_clopper_and_pearson():
    from scipy.stats import binomtest

    found = share_of(np.array([95]), np.array([100]), 0.975)
    interval = binomtest(95, 100).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_limits_widen_with_the_number_of_policies_and_few_requests():
    counts, totals = np.array([98, 95, 99]), np.full(3, 100)
    assert share_of(counts, totals, 0.95, 4).low < share_of(counts, totals, 0.95).low
    assert share_of(np.array([5, 5]), np.array([5, 5]), 0.95).low < 0.8


def test_verdicts():
    surely, perhaps, not_at_all = (
        Share(0.99, 0.98, 1.0),
        Share(0.95, 0.9, 0.97),
        Share(0.5, 0.4, 0.6),
    )
    assert verdict([surely], 0.96) == MET
    assert verdict([surely, perhaps], 0.96) == OPEN
    assert verdict([surely, not_at_all], 0.96) == MISSED


@pytest.mark.parametrize(
    ("measure", "level"),
    [("percentile", 100.0), ("percentile", 0.0), ("share", 1.1), ("goodput", -1.0), ("p99", 1.0)],
)
def test_what_may_not_be_asked(measure, level):
    with pytest.raises(ConfigurationError):
        Requirement(measure, level)


def test_goodput_is_a_share_of_what_arrives():
    with pytest.raises(ConfigurationError, match="at most the 5 requests per second"):
        Requirement("goodput", 6.0).share(rate=5.0)
    with pytest.raises(ConfigurationError, match="confidence"):
        Requirement(confidence=1.0)
