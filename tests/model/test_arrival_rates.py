"""Changing arrival rates: the law of profiles and bursts, their means, files and messages."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_requests import drawn_requests
from scipy import stats

from llm_sched_env import evaluate, presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import ARRIVE

ALARM = 1e-3
RATE = 40.0
# A ramp, a jump down to nothing, a ramp from there; then no arrivals at all for a while.
DAY = ArrivalProfile((0.0, 10.0, 10.0, 18.0, 18.0, 20.0), (1.0, 3.0, 0.0, 2.0, 0.0, 0.0))
JUMP_AT_START = ArrivalProfile((0.0, 0.0, 4.0, 4.0, 8.0), (9.0, 1.0, 1.0, 3.0, 3.0))
PROFILES = {"day": DAY, "jump at the start": JUMP_AT_START}
BURSTS = ArrivalModulation((0.5, 3.0), ((0.0, 0.4), (1.2, 0.0)))


def classes_of(*profiles: ArrivalProfile | None, rates: Any = None) -> tuple[RequestClass, ...]:
    rates = [RATE] * len(profiles) if rates is None else rates
    return tuple(
        RequestClass(f"class {k}", 100.0, 100.0, float(rate), 0.0, arrival_profile=profile)
        for k, (profile, rate) in enumerate(zip(profiles, rates, strict=True))
    )


def instance_of(
    classes: tuple[RequestClass, ...], modulation: ArrivalModulation | None = None
) -> Instance:
    return dataclasses.replace(presets.overload(), classes=classes, modulation=modulation)


def rate_at(profile: ArrivalProfile, phase: np.ndarray) -> np.ndarray:
    """Rate over its mean inside of segments, written from the definition."""
    times, heights = np.array(profile.times), np.array(profile.multipliers)
    mean = np.diff(times) @ (heights[1:] + heights[:-1]) / 2 / times[-1]
    rates = np.zeros_like(phase)
    for a, b, low, high in zip(times, times[1:], heights, heights[1:], strict=False):
        inside = (phase >= a) & (phase < b)
        rates[inside] = low + (phase[inside] - a) / (b - a) * (high - low)
    return rates / mean


@pytest.mark.parametrize("name", PROFILES)
def test_mean_rates_between_times_are_those_of_a_fine_grid(name: str) -> None:
    profile = PROFILES[name]
    edges = np.array([0.0, 0.5, 3.0, profile.period, 1.7 * profile.period, 9.1 * profile.period])
    for a, b, mean in zip(edges, edges[1:], profile.mean_relative_rates(edges), strict=False):
        grid = a + (np.arange(400_000) + 0.5) * (b - a) / 400_000
        assert mean == pytest.approx(rate_at(profile, grid % profile.period).mean(), rel=2e-5)


def operational_time(profile: ArrivalProfile, times: np.ndarray) -> np.ndarray:
    """The integral of the relative rate: on this clock the arrivals are a Poisson process."""
    knots = np.unique([*profile.times])
    whole = np.diff(knots) * rate_at(profile, (knots[1:] + knots[:-1]) / 2)
    until = np.concatenate([[0.0], np.cumsum(whole)])
    cycles, phase = np.divmod(times, profile.period)
    k = np.searchsorted(knots, phase, side="right") - 1
    part = (phase - knots[k]) * rate_at(profile, (phase + knots[k]) / 2)
    return cycles * until[-1] + until[k] + part


def test_the_helpers_agree() -> None:
    assert rate_at(DAY, np.array([0.0, 5.0, 10.0, 14.0, 19.0])) == pytest.approx(
        np.array([1.0, 2.0, 0.0, 1.0, 0.0]) / 1.4
    )
    for profile in PROFILES.values():
        assert operational_time(profile, np.array([3 * profile.period])) == pytest.approx(
            3 * profile.period
        )


@pytest.mark.parametrize("name", PROFILES)
def test_arrivals_follow_their_profile(name: str) -> None:
    profile = PROFILES[name]
    seconds = 40 * profile.period
    records = drawn_requests(instance_of(classes_of(profile, None)), seconds, seed=3)
    changing, steady = (records["arrival_time"][records["request_class"] == i] for i in (0, 1))
    # Counts per half second of the period; a bin of rate 0 must be empty.
    edges = np.arange(0.0, profile.period + 0.1, 0.5)
    counts = np.histogram(changing % profile.period, edges)[0]
    expected = rate_at(profile, edges[:-1] + 0.25)
    assert (counts[expected == 0.0] == 0).all()
    some = expected > 0.0
    expected = expected[some] / expected[some].sum() * counts.sum()
    assert stats.chisquare(counts[some], expected).pvalue > ALARM
    assert stats.chisquare(counts).pvalue < ALARM  # power: not a constant rate
    # The whole process: on the operational clock gaps are exponential, and the other class,
    # thinned beside it, is Poisson as it was.
    for clock, arrivals in ((operational_time(profile, changing), changing), (steady, steady)):
        gaps = np.diff(clock, prepend=0.0)
        assert stats.kstest(gaps, stats.expon(scale=1 / RATE).cdf).pvalue > ALARM
        assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 3.3 / math.sqrt(len(gaps))
        # 40 whole periods have the mean rate.
        assert abs(len(arrivals) - RATE * seconds) < 3.3 * math.sqrt(RATE * seconds)
    raw = np.diff(changing, prepend=0.0)
    assert stats.kstest(raw, stats.expon(scale=1 / RATE).cdf).pvalue < ALARM  # power


def test_only_the_shape_of_a_profile_matters() -> None:
    scaled = ArrivalProfile(DAY.times, tuple(np.array(DAY.multipliers) * 8))
    ours, theirs = (
        drawn_requests(instance_of(classes_of(profile)), 60.0, seed=2) for profile in (DAY, scaled)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("rule", ["gate-and-route", "token-bucket", "fcfs-immediate"])
def test_a_profile_that_says_nothing_changes_nothing(rule: str) -> None:
    """Candidates are all kept: also the thinned streams are those of the steady model."""
    steady = presets.overload()
    flat = dataclasses.replace(
        steady,
        classes=tuple(
            dataclasses.replace(c, arrival_profile=ArrivalProfile((0, 7), (2, 2)))
            for c in steady.classes
        ),
        modulation=ArrivalModulation((3, 3), ((0, 1), (1, 0))),
    )
    ours, theirs = (evaluate(rule, i, 5, horizon=200.0, warmup=20.0) for i in (steady, flat))
    assert ours.scores == theirs.scores
    assert ours.events == theirs.events
    for name, occupancy in ours.occupancy.items():
        np.testing.assert_array_equal(occupancy, theirs.occupancy[name])


RULES = [
    DispatchRule("occupancy", "solo-first", "static"),
    DispatchRule("credit", "randomized", "static"),
    DispatchRule("largest-credit", "solo-first", "dynamic"),
    DispatchRule("fcfs", "coupled", "dynamic"),
]


def test_every_rule_faces_the_same_arrivals_however_the_run_is_cut() -> None:
    classes = tuple(
        dataclasses.replace(c, arrival_profile=profile)
        for c, profile in zip(presets.overload().classes, (DAY, None), strict=True)
    )
    instance = instance_of(classes, BURSTS)
    arrivals = []
    for rule in RULES:
        cluster = Simulation(
            instance, rule, plan(instance).controls(5), 5, np.random.SeedSequence(1),
            log_events=10_000, ranks=slot_ranks(plan(instance), 5),
        )  # fmt: skip
        for until in np.linspace(0.0, 100.0, len(arrivals) + 2)[1:]:
            cluster.run(until)
        events = cluster.events()
        kept = events[events["kind"] == ARRIVE]
        arrivals.append(list(zip(kept["time"].tolist(), kept["index"].tolist(), strict=True)))
    assert len(arrivals[0]) > 500
    assert all(other == arrivals[0] for other in arrivals)
    # Candidates that were dropped leave no gap.
    assert [index for _, index in arrivals[0]] == list(range(len(arrivals[0])))


# Bursts.


def dispersion(modulation: ArrivalModulation, rate: float, window: float) -> float:
    """Index of dispersion of counts of a two-state MMPP in windows (Fischer, Meier-Hellstern)."""
    (_, a), (b, _) = modulation.switch_rates
    low, high = np.array(modulation.multipliers) * rate / relative_mean(modulation)
    share = a * b / (a + b) ** 2
    decay = (1.0 - math.exp(-(a + b) * window)) / ((a + b) * window)
    return float(1.0 + 2.0 * share * (high - low) ** 2 / (rate * (a + b)) * (1.0 - decay))


def relative_mean(modulation: ArrivalModulation) -> float:
    (_, a), (b, _) = modulation.switch_rates
    return float((b * modulation.multipliers[0] + a * modulation.multipliers[1]) / (a + b))


@pytest.mark.parametrize("window", [0.2, pytest.param(4.0, marks=pytest.mark.extended)])
def test_counts_of_bursts_have_their_dispersion_and_mean(window: float) -> None:
    """From the start on: the chain begins in its stationary law."""
    n_windows, replications, rate = 50, 150, 20.0
    instance = instance_of(classes_of(None, rates=[rate]), BURSTS)
    exact = dispersion(BURSTS, rate, window)
    indices, means = [], []
    for seed in range(replications):
        arrivals = drawn_requests(instance, n_windows * window, seed)["arrival_time"]
        counts = np.histogram(arrivals, np.arange(n_windows + 1) * window)[0]
        indices.append(np.mean((counts - rate * window) ** 2) / (rate * window))
        means.append(counts.mean() / window)
    for found, expected in ((means, rate), (indices, exact)):
        error = np.std(found, ddof=1) / math.sqrt(replications)
        assert abs(np.mean(found) - expected) < 3.3 * error
        assert error < 0.1 * expected
    assert exact > 1.4  # power: no Poisson process


# One class per state of the chain, at equal total rates: a class tells the state, and arrivals
# are a Poisson process that is independent of the chain, so they see its time averages.
GENERATOR = np.array([[0.0, 2.0, 0.1], [0.1, 0.0, 1.0], [3.0, 0.0, 0.0]])
TELLTALE = ArrivalModulation(np.eye(3), GENERATOR)


def stationary(rates: np.ndarray) -> np.ndarray:
    generator = rates - np.diag(rates.sum(axis=1))
    values, vectors = np.linalg.eig(generator.T)
    law: np.ndarray = np.real(vectors[:, np.argmin(np.abs(values))])
    return law / law.sum()


def test_states_of_the_chain_come_in_their_shares_and_order() -> None:
    """Classes of successive arrivals are a Markov chain, K = r (r - Q)^-1."""
    shares, rate = stationary(GENERATOR), 5.0
    np.testing.assert_allclose(TELLTALE.stationary_probabilities, shares, rtol=1e-12)
    instance = instance_of(classes_of(None, None, None, rates=rate * shares), TELLTALE)
    records = drawn_requests(instance, 5000.0, seed=4)
    gaps = np.diff(records["arrival_time"], prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=1 / rate).cdf).pvalue > ALARM
    state = records["request_class"]
    counts = np.zeros((3, 3))
    np.add.at(counts, (state[:-1], state[1:]), 1)
    generator = GENERATOR - np.diag(GENERATOR.sum(axis=1))
    kernel = rate * np.linalg.inv(rate * np.eye(3) - generator)
    for row, probabilities, backwards in zip(counts, kernel, counts.T, strict=True):
        assert stats.chisquare(row, probabilities * row.sum()).pvalue > ALARM
        # Power: the chain turned around.
        other = probabilities * backwards.sum()
        assert stats.chisquare(backwards, other).pvalue < ALARM
    assert np.bincount(state) / len(state) == pytest.approx(shares, abs=0.02)


@pytest.mark.extended
def test_the_chain_starts_in_its_stationary_law() -> None:
    shares = stationary(GENERATOR)
    instance = instance_of(classes_of(None, None, None, rates=1000.0 * shares), TELLTALE)
    first = [drawn_requests(instance, 0.02, seed)["request_class"][0] for seed in range(600)]
    counts = np.bincount(first, minlength=3)
    assert stats.chisquare(counts, shares * len(first)).pvalue > ALARM


def test_classes_keep_their_mean_rates_under_multipliers_of_their_own() -> None:
    modulation = ArrivalModulation(((0.0, 4.0, 1.0), (2.0, 1.0, 1.0)), ((0.0, 2.0), (3.0, 0.0)))
    rates, seconds = np.array([10.0, 30.0, 5.0]), 2000.0
    instance = instance_of(classes_of(None, DAY, None, rates=rates), modulation)
    records = drawn_requests(instance, seconds, seed=6)
    counts = np.bincount(records["request_class"])
    # Poisson noise, and that of the share of a state: 2 pi0 pi1 / ((a + b) T).
    shares, relative = np.array([0.6, 0.4]), modulation.relative_rates(3)
    noise = 2 * shares.prod() / (5.0 * seconds) * (relative[1] - relative[0]) ** 2
    error = np.sqrt(rates * seconds + noise * (rates * seconds) ** 2)
    assert (np.abs(counts - rates * seconds) < 3.3 * error).all()
    # The third class has the same rate in both states: no bursts.
    gaps = np.diff(records["arrival_time"][records["request_class"] == 2], prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=0.2).cdf).pvalue > ALARM


@pytest.mark.parametrize("scale", [1e-14, 1e-6, 1.0, 1e9])
def test_stationary_shares_do_not_depend_on_the_unit_of_time(scale: float) -> None:
    chain = ArrivalModulation((1, 2, 3), GENERATOR * scale)
    np.testing.assert_allclose(
        chain.stationary_probabilities, stationary(GENERATOR), rtol=1e-9, atol=0.0
    )


def test_a_long_ring_of_states_is_reachable_and_a_broken_one_is_not() -> None:
    rates = np.roll(np.eye(130), 1, axis=1)
    chain = ArrivalModulation(np.ones(130), rates)
    np.testing.assert_allclose(chain.stationary_probabilities, 1 / 130)
    rates[64] = 0.0
    with pytest.raises(ConfigurationError, match="reachable"):
        ArrivalModulation(np.ones(130), rates)


# Files and messages.

PATTERNS = {
    "profile": instance_of(classes_of(DAY, None)),
    "bursts": instance_of(classes_of(None), BURSTS),
    "bursts by class": instance_of(
        classes_of(None, JUMP_AT_START),
        ArrivalModulation(np.array([[1.0, 2.0], [0.0, 0.5]], np.float32), [[0, 1], [2, 0]]),
    ),
}


@pytest.mark.parametrize("suffix", [".json", ".toml"])
@pytest.mark.parametrize("name", PATTERNS)
def test_saved_patterns_are_read_back_equal(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"saved{suffix}"
    PATTERNS[name].save(path)
    again = Instance.load(path)
    assert again == PATTERNS[name]
    assert hash(again) == hash(PATTERNS[name])


def test_null_in_a_file_means_a_constant_rate() -> None:
    data = presets.base().to_dict()
    data["modulation"] = data["classes"][0]["arrival_profile"] = None
    assert Instance.from_dict(data) == presets.base()


BAD_PROFILES = [
    ((), (), "times: got (), expected a non-empty list"),
    (5, (1, 1), "times: got 5, expected a non-empty list"),
    ((0, 1), None, "multipliers: got None, expected a non-empty list"),
    ((0, math.nan), (1, 1), "times: got nan, expected finite numbers >= 0"),
    ((0, 1), (1, -1), "multipliers: got -1, expected finite numbers >= 0"),
    ((0, 1), (1, True), "multipliers: got True, expected finite numbers >= 0"),
    ((0, 1), (1e308, 1e308), "multipliers: got 1e+308, expected numbers up to 1e+100"),
    ((0, 1, 2), (1, 1), "points: got '3 times, 2 multipliers', expected as many"),
    ((0,), (1,), "points: got '1 times, 1 multipliers', expected as many"),
    ((1, 2), (1, 1), "times: got (1.0, 2.0), expected seconds that start at 0"),
    ((0, 2, 1), (1, 1, 1), "times: got (0.0, 2.0, 1.0), expected seconds that start at 0"),
    ((0, 0), (1, 1), "times: got (0.0, 0.0), expected seconds that start at 0"),
    ((0, 1, 1), (0, 0, 7), "multipliers: got (0.0, 0.0, 7.0), expected a positive rate"),
]


@pytest.mark.parametrize(("times", "multipliers", "message"), BAD_PROFILES)
def test_a_bad_profile_is_one_clear_line(times: Any, multipliers: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ArrivalProfile(times, multipliers)
    assert str(caught.value).startswith(f"arrival profile {message}")
    assert "\n" not in str(caught.value)


RING = ((0, 1), (1, 0))
BAD_MODULATIONS = [
    ((1, 2, 3), RING, "modulation: got '3 multipliers, switch_rates with rows of [2, 2]'"),
    ((1, 2), ((0, 1), (1,)), "modulation: got '2 multipliers, switch_rates with rows of [2, 1]'"),
    ((1,), ((0,),), "modulation: got '1 multipliers, switch_rates with rows of [1]'"),
    ((1, 2), ((1, 1), (1, 0)), "modulation switch_rates: got ((1.0, 1.0), (1.0, 0.0)), expected"),
    ((1, 2), ((0, 1), (0, 0)), "modulation switch_rates: got ((0.0, 1.0), (0.0, 0.0)), expected"),
    ((1, 2), ((0, -1), (1, 0)), "modulation switch_rates: got -1, expected finite numbers >= 0"),
    ((1, 2), None, "modulation switch_rates: got None, expected a non-empty list"),
    ((1, 2), 3.0, "modulation switch_rates: got 3.0, expected a non-empty list"),
    ((1, 2), (1, 2), "modulation switch_rates: got 1, expected a non-empty list"),
    ("12", RING, "modulation multipliers: got '12', expected a non-empty list"),
    ((1, "2"), RING, "modulation multipliers: got '2', expected finite numbers >= 0"),
    ((1, (2, 2)), RING, "modulation multipliers: got 1, expected a non-empty list"),
    ((1, math.inf), RING, "modulation multipliers: got inf, expected finite numbers >= 0"),
]


@pytest.mark.parametrize(("multipliers", "rates", "message"), BAD_MODULATIONS)
def test_a_bad_modulation_is_one_clear_line(multipliers: Any, rates: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ArrivalModulation(multipliers, rates)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("multipliers", "message"),
    [
        (((1, 2, 3), (1, 2, 3)), "one number per state, or 2 (one per class) for each"),
        (((1, 2), (1, 2, 3)), "one number per state, or 2 (one per class) for each"),
        ((0, 0), "a positive rate in some state"),
        (((1, 0), (1, 0)), "a positive rate in some state"),
    ],
)
def test_multipliers_must_fit_the_classes(multipliers: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        instance_of(classes_of(None, None), ArrivalModulation(multipliers, RING))
    assert str(caught.value).endswith(f"expected {message}")


@pytest.mark.parametrize(
    ("place", "table", "message"),
    [
        ("modulation", {"multipliers": [1, 2]}, "instance modulation: missing key 'switch_rates'"),
        ("modulation", [1, 2], "instance modulation: got [1, 2], expected a table with"),
        ("arrival_profile", {"times": [0, 1]}, "instance classes[0] arrival_profile: missing key"),
        ("arrival_profile", "day", "instance classes[0] arrival_profile: got 'day', expected a"),
    ],
)
def test_a_file_names_the_bad_place(place: str, table: Any, message: str) -> None:
    data = presets.base().to_dict()
    (data if place == "modulation" else data["classes"][0])[place] = table
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(data)
    assert str(caught.value).startswith(message)


def test_patterns_of_the_wrong_kind_are_rejected() -> None:
    with pytest.raises(ConfigurationError, match="arrival_profile: got 3, expected an Arrival"):
        RequestClass("a", 1.0, 1.0, 1.0, 0.0, arrival_profile=3)
    with pytest.raises(ConfigurationError, match="modulation: got 3, expected an Arrival"):
        instance_of(classes_of(None), 3)
