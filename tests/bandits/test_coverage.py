"""Confidence sets and certificates hold as often as they say, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from llm_sched_env.bandits import (
    Assumptions,
    Certificate,
    DiscountedUCB,
    EllipsoidalMinUCB,
    EmpiricalBayes,
    LearnedCertificate,
    LinUCB,
    OfflineData,
    StagedUCB,
)

D, K, N, ROUNDS, RUNS, FAILURE = 3, 5, 200, 80, 100, 0.1
NOISE = 0.5


def unit(random, *shape):
    rows = random.standard_normal((*shape, D))
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def world(seed, bias=0.6):
    """theta, theta_off with a difference in the first direction, offline pairs, a generator."""
    random = np.random.default_rng(seed)
    theta = unit(random)
    other = theta + bias * np.eye(D)[0]
    xs = unit(random, N)
    data = OfflineData(xs, xs @ other + NOISE * random.standard_normal(N))
    norm = max(np.linalg.norm(theta), np.linalg.norm(other))
    return theta, other, data, Assumptions(NOISE, float(norm), 1.0, FAILURE), random


def play(policy, theta, random, check):
    """Rounds until the end or until a check fails; whether all held."""
    for _ in range(ROUNDS):
        actions = unit(random, K)
        if not check(policy, actions, actions @ theta):
            return False
        x = actions[policy.select(actions)]
        policy.update(x, x @ theta + NOISE * random.standard_normal())
    return True


def require_coverage(failed, failure):
    """As few failures as the bound allows, up to chance of 1 in 1000."""
    assert failed <= binom.ppf(0.999, RUNS, failure)


def test_online_set():
    failed = 0
    for seed in range(RUNS):
        theta, _, _, assumed, random = world(seed)
        failed += not play(
            LinUCB(D, assumed),
            theta,
            random,
            lambda p, xs, means: (abs(xs @ p.online.centre - means) <= p.widths(xs)).all(),
        )
    require_coverage(failed, FAILURE)


@pytest.mark.parametrize("kind", [EllipsoidalMinUCB, DiscountedUCB])
def test_pooled_sets_with_a_known_certificate(kind):
    exact = Certificate(np.eye(D), [1.0, 0.0, 0.0], 0.6)
    failed = 0

    def inside(p, xs, means):
        if kind is EllipsoidalMinUCB:
            return (abs(xs @ p.pooled.centre - means) <= p.pooled_widths(xs)).all()
        return (abs(xs @ p.discounted.centre - means) <= p.discounted_widths(xs)).all()

    for seed in range(RUNS):
        theta, other, data, assumed, random = world(seed)
        assert exact.holds_for(other - theta)
        failed += not play(kind(data, exact, assumed), theta, random, inside)
    # Two sets are used: of the offline pairs and of all.
    require_coverage(failed, 2 * FAILURE)


def test_pooling_as_if_unbiased_fails():
    """The simulation can tell: without the bias term the same set misses."""
    wrong = Certificate.euclidean(D, 0.0)
    held = sum(
        play(
            EllipsoidalMinUCB(data, wrong, assumed),
            theta,
            random,
            lambda p, xs, means: (abs(xs @ p.pooled.centre - means) <= p.pooled_widths(xs)).all(),
        )
        for theta, _, data, assumed, random in map(world, range(20))
    )
    assert held == 0


@pytest.mark.extended
@pytest.mark.parametrize("cap", [None, 0.6])
def test_learned_certificate(cap):
    failed = 0
    for seed in range(RUNS):
        theta, other, data, assumed, random = world(seed)
        policy = EllipsoidalMinUCB(data, LearnedCertificate(data, assumed, cap), assumed)
        difference = other - theta
        failed += not play(
            policy, theta, random, lambda p, *_, d=difference: p.certificate.holds_for(d)
        )
    require_coverage(failed, 2 * FAILURE)


def test_empirical_bayes_has_no_guarantee():
    """It misses more often than any certificate may: what noise explains counts as nothing."""
    missed = sum(
        not EllipsoidalMinUCB(data, EmpiricalBayes(data, assumed), assumed).certificate.holds_for(
            other - theta
        )
        for theta, other, data, assumed, _ in map(world, range(RUNS))
    )
    assert missed > binom.ppf(0.999, RUNS, 2 * FAILURE)


@pytest.mark.extended
def test_staged_estimates():
    exact = Certificate(np.eye(D), [1.0, 0.0, 0.0], 0.6)

    def inside(p, xs, means):
        found = (p.estimates(xs, stage) for stage in range(p.n_stages))
        return all((abs(centre - means) <= width).all() for centre, width in found)

    failed = 0
    for seed in range(RUNS // 3):
        theta, _, data, assumed, random = world(seed)
        policy = StagedUCB(D, ROUNDS, K, data, exact, assumed)
        failed += not play(policy, theta, random, inside)
    assert failed <= binom.ppf(0.999, RUNS // 3, 2 * FAILURE)


def test_certificates_contain_what_their_matrix_says():
    random = np.random.default_rng(0)
    root = random.standard_normal((D, D))
    matrix = root @ root.T
    known = Certificate.of_matrix(matrix, 0.7)
    for difference in random.standard_normal((200, D)):
        inside = difference @ matrix @ difference <= 0.7**2
        assert known.holds_for(difference) == inside
        # The support function is the largest product over the ellipsoid.
        scaled = 0.7 * difference / np.sqrt(difference @ matrix @ difference)
        rows = random.standard_normal((10, D))
        assert (rows @ scaled <= known.support(rows) + 1e-12).all()
    z = random.standard_normal(D)
    best = 0.7 * np.linalg.solve(matrix, z) / np.sqrt(z @ np.linalg.solve(matrix, z))
    assert z @ best == pytest.approx(known.support(z[None])[0])
    assert not Certificate(np.eye(2), [1.0, 0.0], 1.0).holds_for(np.array([0.0, 0.1]))
    assert Certificate(np.eye(2), [1.0, np.inf], 1.0).holds_for(np.array([0.5, 9.0]))
