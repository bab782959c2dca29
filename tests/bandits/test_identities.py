"""Policies of linear bandits against direct formulas, and special cases that must coincide."""

from __future__ import annotations

import numpy as np
import pytest

from llm_sched_env.bandits import (
    Assumptions,
    Certificate,
    DiscountedUCB,
    EllipsoidalMinUCB,
    EmpiricalBayes,
    LearnedCertificate,
    LinUCB,
    OfflineData,
    PooledUCB,
    StagedUCB,
    min_ucb,
)
from llm_sched_env.errors import ConfigurationError

D, N, T, K = 4, 60, 40, 6
ASSUMED = Assumptions(noise=0.3, parameter_norm=1.5, regularization=0.7, failure=0.01)


@pytest.fixture
def random():
    return np.random.default_rng(5)


@pytest.fixture
def offline(random):
    actions = random.standard_normal((N, D)) * [1.0, 1.0, 0.5, 0.1]
    return OfflineData(actions, actions @ random.standard_normal(D) + random.standard_normal(N))


@pytest.fixture
def metric(random):
    root = random.standard_normal((D, D))
    return root @ root.T


@pytest.fixture
def played(random):
    """Online pairs."""
    return random.standard_normal((T, D)), random.standard_normal(T)


@pytest.fixture
def actions(random):
    return random.standard_normal((K, D))


def learned(policy, played):
    for x, y in zip(*played, strict=True):
        policy.update(x, y)
    return policy


def norm(x, inverse_of):
    return np.sqrt(x @ np.linalg.solve(inverse_of, x))


def radius(gram, start):
    """Theorem 2 of Abbasi-Yadkori et al., from determinants."""
    ratio = np.linalg.det(gram) / np.linalg.det(start)
    noise = np.sqrt(2 * np.log(np.sqrt(ratio) / ASSUMED.failure))
    return ASSUMED.noise * noise + np.sqrt(ASSUMED.regularization) * ASSUMED.parameter_norm


def test_ridge_equals_the_normal_equations(played):
    policy = learned(LinUCB(D, ASSUMED), played)
    xs, ys = played
    gram = ASSUMED.regularization * np.eye(D) + xs.T @ xs
    assert np.allclose(policy.online.gram, gram, rtol=1e-12)
    assert np.allclose(policy.online.inverse, np.linalg.inv(gram), rtol=1e-9)
    assert np.allclose(policy.online.centre, np.linalg.solve(gram, xs.T @ ys), rtol=1e-9)
    assert policy.radius == pytest.approx(radius(gram, ASSUMED.regularization * np.eye(D)))


def test_rank_one_updates_stay_exact_over_many_rounds(random):
    policy = LinUCB(D, ASSUMED)
    for x in random.standard_normal((20_000, D)):
        policy.online.add(x, 1.0)
    inverse = np.linalg.inv(policy.online.gram)
    assert np.allclose(policy.online.inverse, inverse, rtol=1e-9, atol=1e-9 * inverse.max())
    growth = np.linalg.slogdet(policy.online.gram)[1] - D * np.log(ASSUMED.regularization)
    assert policy.online.log_det_growth == pytest.approx(growth, rel=1e-10)


def test_widths_of_both_branches_equal_the_formulas(offline, metric, played, actions):
    rho = 0.4
    policy = EllipsoidalMinUCB(offline, Certificate.of_matrix(metric, rho), ASSUMED)
    learned(policy, played)
    start = ASSUMED.regularization * np.eye(D)
    v = start + played[0].T @ played[0]
    w = v + offline.gram
    centre = np.linalg.solve(w, offline.target + played[0].T @ played[1])
    for k, x in enumerate(actions):
        assert policy.widths(actions)[k] == pytest.approx(radius(v, start) * norm(x, v))
        bias = rho * norm(offline.gram @ np.linalg.solve(w, x), metric)
        pooled = radius(w, start) * norm(x, w) + bias
        assert policy.pooled_widths(actions)[k] == pytest.approx(pooled)
        online_bound = x @ policy.online.centre + policy.widths(actions)[k]
        smaller = min(online_bound, x @ centre + pooled)
        assert policy.upper_bounds(actions)[k] == pytest.approx(smaller)
    assert policy.select(actions) == int(np.argmax(policy.upper_bounds(actions)))


def test_discounted_branch_equals_its_formula(offline, metric, played, actions):
    rho = 0.4
    policy = DiscountedUCB(offline, Certificate.of_matrix(metric, rho), ASSUMED)
    learned(policy, played)
    start = ASSUMED.regularization * np.eye(D)
    a = start + offline.gram
    beta_off = radius(a, start)
    p = np.linalg.inv(np.linalg.inv(a) + (rho / beta_off) ** 2 * np.linalg.inv(metric))
    h = start + played[0].T @ played[0] + p
    centre = np.linalg.solve(h, played[0].T @ played[1] + p @ np.linalg.solve(a, offline.target))
    assert np.allclose(policy.weights, p)
    for k, x in enumerate(actions):
        z = p @ np.linalg.solve(h, x)
        width = radius(h, start + p) * norm(x, h) + beta_off * norm(z, a) + rho * norm(z, metric)
        assert policy.discounted_widths(actions)[k] == pytest.approx(width)
        assert policy.discounted_upper_bounds(actions)[k] == pytest.approx(x @ centre + width)


def test_pooling_as_if_unbiased_is_linucb_that_played_the_offline_pairs(random, actions):
    xs, ys = random.standard_normal((N, D)), random.standard_normal(N)
    pooled = PooledUCB(OfflineData(xs, ys), ASSUMED)
    warm = learned(LinUCB(D, ASSUMED), (xs, ys))
    assert np.allclose(pooled.upper_bounds(actions), warm.upper_bounds(actions), rtol=1e-9)


def test_rho_zero_is_pooling(offline, metric, played, actions):
    free = learned(EllipsoidalMinUCB(offline, Certificate.of_matrix(metric, 0.0), ASSUMED), played)
    pooled = learned(PooledUCB(offline, ASSUMED), played)
    assert np.array_equal(free.pooled_upper_bounds(actions), pooled.upper_bounds(actions))


def test_identity_is_min_ucb(offline, played, actions):
    known = Certificate.of_matrix(np.eye(D), 0.3)
    ellipsoidal = learned(EllipsoidalMinUCB(offline, known, ASSUMED), played)
    euclidean = learned(min_ucb(offline, 0.3, ASSUMED), played)
    assert np.allclose(ellipsoidal.upper_bounds(actions), euclidean.upper_bounds(actions))
    # min-UCB by its own formula: rho |G W^-1 x|
    w = euclidean.pooled.gram
    lengths = [np.linalg.norm(offline.gram @ np.linalg.solve(w, x)) for x in actions]
    base = learned(PooledUCB(offline, ASSUMED), played).widths(actions)
    assert np.allclose(euclidean.pooled_widths(actions), base + 0.3 * np.array(lengths))


@pytest.mark.parametrize("matrix", [np.eye(D), np.diag([1.0, 0.0, 0.0, 0.0])])
def test_no_offline_data_is_linucb(matrix, random):
    certificate = Certificate.of_matrix(matrix, 3.0)
    alone = LinUCB(D, ASSUMED)
    with_none = EllipsoidalMinUCB(OfflineData.none(D), certificate, ASSUMED)
    for _ in range(50):
        actions = random.standard_normal((K, D))
        k = alone.select(actions)
        assert with_none.select(actions) == k
        assert np.allclose(with_none.upper_bounds(actions), alone.upper_bounds(actions))
        y = random.standard_normal()
        alone.update(actions[k], y)
        with_none.update(actions[k], y)


def test_no_bound_in_a_direction_makes_pooling_infinitely_wide_there(offline, actions):
    half = Certificate.of_matrix(np.diag([1.0, 1.0, 1.0, 0.0]), 0.1)
    policy = EllipsoidalMinUCB(offline, half, ASSUMED)
    assert np.isinf(policy.pooled_widths(actions)).all()
    assert np.array_equal(policy.upper_bounds(actions), LinUCB.upper_bounds(policy, actions))
    discounted = DiscountedUCB(offline, half, ASSUMED)
    assert np.isfinite(discounted.discounted_widths(actions)).all()
    assert not discounted.weights[:, 3].any()
    # The limit of a bound that is very large.
    large = Certificate.of_matrix(np.diag([1.0, 1.0, 1.0, 1e-9]), 0.1)
    limit = DiscountedUCB(offline, large, ASSUMED)
    assert np.allclose(discounted.weights, limit.weights, atol=1e-5)


def test_discounting_without_bias_keeps_all_offline_data(offline, metric):
    policy = DiscountedUCB(offline, Certificate.of_matrix(metric, 0.0), ASSUMED)
    assert np.allclose(policy.weights, ASSUMED.regularization * np.eye(D) + offline.gram)


def test_learned_pooled_width_is_never_below_the_online_one(random):
    for case in range(20):
        scale = 10.0 ** random.uniform(-2, 1, D)
        xs = random.standard_normal((int(random.integers(1, 500)), D)) * scale
        offline = OfflineData(xs, random.standard_normal(len(xs)))
        rule = LearnedCertificate(offline, ASSUMED)
        policy = EllipsoidalMinUCB(offline, rule, ASSUMED)
        learned(policy, (random.standard_normal((5 * case, D)), random.standard_normal(5 * case)))
        actions = random.standard_normal((50, D))
        ratio = policy.pooled_widths(actions) / policy.widths(actions)
        assert ratio.min() >= 1.0


def test_a_cap_narrows_the_learned_certificate(offline, played, actions):
    free, capped = (
        learned(
            EllipsoidalMinUCB(offline, LearnedCertificate(offline, ASSUMED, cap), ASSUMED), played
        )
        for cap in (None, 0.01)
    )
    assert (capped.pooled_widths(actions) < free.pooled_widths(actions)).all()
    # About the width of a Euclidean bound of sqrt(2) times the cap.
    bound = learned(min_ucb(offline, 0.01 * np.sqrt(2), ASSUMED), played)
    assert np.allclose(capped.pooled_widths(actions), bound.pooled_widths(actions), rtol=0.01)


def test_empirical_bayes_by_its_formula(played):
    xs = np.repeat(np.diag([3.0, 2.0, 1.0, 0.5]), 10, axis=0)
    offline = OfflineData(xs, xs @ np.array([1.0, 0.0, 2.0, 0.0]))
    policy = learned(EllipsoidalMinUCB(offline, EmpiricalBayes(offline, ASSUMED), ASSUMED), played)
    a = ASSUMED.regularization * np.eye(D) + offline.gram
    delta = np.linalg.solve(a, offline.target) - policy.online.centre
    error = ASSUMED.noise**2 * np.diag(np.linalg.inv(a) + policy.online.inverse)
    expected = 4 * np.maximum(0.0, delta**2 - error)
    assert (expected > 0).any()
    # G is diagonal: its eigenbasis is the given one.
    assert np.allclose(policy.certificate.inverse, np.diag(expected))


def test_staged_widths_split_the_noise(offline, metric, actions, played):
    policy = StagedUCB(D, 1000, K, offline, Certificate.of_matrix(metric, 0.2), ASSUMED)
    policy._learning = 1
    learned(policy, played)
    own = played[0].T @ played[0]
    eye = ASSUMED.regularization * np.eye(D)
    scalar = np.sqrt(2 * np.log(2 * 1000 * K * policy.n_stages / ASSUMED.failure))
    a = eye + offline.gram
    noise_off = ASSUMED.noise * np.sqrt(
        2 * np.log(np.sqrt(np.linalg.det(a) / np.linalg.det(eye)) / ASSUMED.failure)
    )

    def width(gram, x, *, far):
        z = np.linalg.solve(gram, x)
        total = scalar * ASSUMED.noise * np.sqrt(z @ own @ z)
        total += ASSUMED.regularization * ASSUMED.parameter_norm * np.linalg.norm(z)
        if far:
            total += noise_off * np.sqrt(z @ a @ z) + 0.2 * norm(offline.gram @ z, metric)
        return total

    for k, x in enumerate(actions):
        found = policy.estimates(actions, 1)[1][k]
        assert found == pytest.approx(
            min(width(eye + own, x, far=False), width(a + own, x, far=True))
        )


def test_staged_stages_are_separate_and_exploitation_teaches_none(random):
    policy = StagedUCB(D, 100, K, assumptions=Assumptions(noise=0.0, parameter_norm=1.0))
    theta = np.array([0.5, 0.0, 0.5, 0.0])
    for _ in range(100):
        actions = random.standard_normal((K, D))
        x = actions[policy.select(actions)]
        before = [ridge.gram.copy() for ridge, _ in policy.stages]
        policy.update(x, x @ theta)
        changed = [
            not np.array_equal(b, r.gram) for b, (r, _) in zip(before, policy.stages, strict=True)
        ]
        assert sum(changed) == (policy._learning is not None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LinUCB(0), "dimension: got 0, expected an integer >= 1"),
        (lambda: LinUCB(2).select(np.zeros((0, 2))), "actions: shape"),
        (lambda: LinUCB(2).select(np.array([[np.nan, 0.0]])), "actions: got"),
        (lambda: LinUCB(2).update(np.zeros(3), 0.0), "x: got"),
        (lambda: LinUCB(2).update(np.zeros(2), np.nan), "y: got nan, expected a finite number"),
        (lambda: OfflineData(np.zeros((2, 2)), np.zeros(3)), "offline data: shapes"),
        (lambda: Certificate.of_matrix(-np.eye(2), 1.0), "expected a positive semidefinite"),
        (lambda: Certificate.of_matrix(np.array([[1.0, 1.0], [0.0, 1.0]]), 1.0), "a symmetric"),
        (lambda: Certificate.euclidean(2, -1.0), "rho: got -1.0, expected a finite number >= 0"),
        (lambda: Assumptions(failure=1.0), "failure: got 1.0, expected a number in"),
        (lambda: min_ucb(OfflineData.none(2), np.inf), "rho: got inf"),
        (
            lambda: EllipsoidalMinUCB(OfflineData.none(2), Certificate.euclidean(3, 0.0)),
            "certificate: dimension: got 3, expected 2, as offline data",
        ),
        (lambda: StagedUCB(2, 10, 2, OfflineData.none(2)), "together, or neither"),
    ],
)
def test_what_cannot_be_is_one_clear_line(wrong, message):
    with pytest.raises(ConfigurationError, match=message):
        wrong()
