"""The hindsight bound of changing traffic: closed forms, R*, and no policy above it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.arrival_paths import (
    ArrivalPath,
    expected_arrivals,
    recorded_arrivals,
)
from llm_sched_env.planning.traffic_bound import WITHIN_STEPS, traffic_bound
from llm_sched_env.presets import CHANGING_PRESETS
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.simulation import sample_requests

THETA, SLOTS = 0.1, 16


def one_class(rate: float = 0.3) -> lse.Instance:
    """A prompt of a thousandth of a second: prefills take nothing."""
    only = lse.RequestClass("only", 1.0, 500.0, rate, THETA)
    return dataclasses.replace(lse.presets.base(), name="one class", classes=(only,))


def all_at_once(requests_per_gpu: float, horizon: float, seconds: float) -> ArrivalPath:
    steps = round(horizon / seconds)
    arrivals = np.zeros((steps, 1))
    arrivals[0] = requests_per_gpu
    return ArrivalPath(seconds, arrivals, arrivals.copy())


def path_of(instance, n_gpus, horizon, seconds, replication=0):
    requests = sample_requests(instance, n_gpus, horizon, replication_seed(0, replication))
    return recorded_arrivals(
        requests.arrival_time,
        requests.request_class,
        instance.n_classes,
        n_gpus,
        horizon=horizon,
        seconds=seconds,
    )


# Closed forms


def test_without_contention_it_is_what_has_been_decoded_in_time():
    instance, horizon = one_class(), 60.0
    mu, rate = instance.solo_decode_rates[0], 0.3
    completed = rate * horizon - rate / mu * (1.0 - np.exp(-mu * horizon))
    exact = instance.bundled_revenues[0] * completed / horizon
    coarse, fine = (
        traffic_bound(instance, expected_arrivals(instance, horizon=horizon, seconds=h))
        for h in (2.0, 1.0)
    )
    assert fine == pytest.approx(exact, rel=1e-3)
    assert abs(coarse - exact) > 2.0 * abs(fine - exact)


@pytest.mark.parametrize("waiting", [4.0, 24.0])
def test_a_crowd_at_the_start_drains_as_slots_and_patience_have_it(waiting):
    instance, horizon = one_class(), 80.0
    mu = instance.solo_decode_rates[0]
    crowd = SLOTS + waiting
    # q' = -theta q - B mu until it is empty, then the slots do.
    served = SLOTS * mu
    empty = np.log(1.0 + waiting * THETA / served) / THETA
    completed = served * empty + SLOTS * (1.0 - np.exp(-mu * (horizon - empty)))
    exact = instance.bundled_revenues[0] * completed / horizon
    # The crowd comes within the first step: later by half of it.
    found = traffic_bound(instance, all_at_once(crowd, horizon, 0.25))
    assert found == pytest.approx(exact, rel=3e-3)
    at_any_time = traffic_bound(instance, all_at_once(crowd, horizon, 0.5), within_steps="any")
    assert exact <= at_any_time <= 1.05 * exact


@pytest.mark.parametrize("within_steps", WITHIN_STEPS)
@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("name", ["base", "overload"])
def test_at_constant_rates_every_further_second_earns_the_fluid_optimum(
    name, pricing, within_steps
):
    instance, seconds = lse.presets.PRESETS[name](), 4.0

    def earned(horizon):
        path = expected_arrivals(instance, horizon=horizon, seconds=seconds)
        return horizon * traffic_bound(instance, path, pricing, within_steps=within_steps)

    further = (earned(360.0) - earned(240.0)) / 120.0
    assert further == pytest.approx(lse.plan(instance, pricing).value, rel=1e-4)


# What makes it a bound


@pytest.mark.parametrize("name", ["phased", "daily"])
def test_it_falls_with_the_step_to_what_evenly_spread_departures_give(name):
    instance = CHANGING_PRESETS[name]()

    def value(seconds, within_steps):
        path = expected_arrivals(instance, horizon=60.0, seconds=seconds)
        return traffic_bound(instance, path, within_steps=within_steps)

    even = value(0.5, "uniform")
    assert value(4.0, "uniform") == pytest.approx(even, rel=2e-3)
    gaps = [value(h, "any") - even for h in (1.0, 0.5, 0.25)]
    assert 0 < gaps[2] < 0.6 * gaps[1]
    assert gaps[1] < 0.75 * gaps[0] < 0.75 * 0.02 * even


def test_knowing_the_requests_is_worth_no_more_than_that_they_come_evenly():
    """It is concave in the arrivals, so the mean over runs is at most that of the mean path."""
    instance = CHANGING_PRESETS["phased"]()
    paths = [path_of(instance, 2, 160.0, 4.0, k) for k in range(6)]
    even = ArrivalPath(
        4.0,
        np.mean([path.arrivals for path in paths], axis=0),
        np.mean([path.present for path in paths], axis=0),
    )
    for within_steps in WITHIN_STEPS:
        own = [traffic_bound(instance, path, within_steps=within_steps) for path in paths]
        assert np.mean(own) < traffic_bound(instance, even, within_steps=within_steps)


@pytest.mark.parametrize("name", ["phased", "bursts"])
def test_no_policy_earns_more_on_the_same_requests(name):
    instance, n_gpus, horizon, warmup, runs = CHANGING_PRESETS[name](), 5, 240.0, 40.0, 12
    bounds = [
        traffic_bound(instance, path_of(instance, n_gpus, horizon, 4.0, k), warmup=warmup)
        for k in range(runs)
    ]
    for policy in ("trunk-reservation", "token-bucket", "fcfs-immediate"):
        result = lse.evaluate(
            policy, instance, n_gpus, horizon=horizon, warmup=warmup, replications=runs, seed=0
        )
        shares = np.array(result.scores) * result.bound / bounds
        # Lengths are random too: single runs may be luckier than the bound's expectation.
        assert shares.mean() < 1.0 + 3.0 * shares.std(ddof=1) / np.sqrt(runs)


# Paths


def test_the_path_of_requests_counts_them_and_how_long_they_are_there():
    path = recorded_arrivals(
        np.array([0.0, 1.0, 3.5, 9.0]),
        np.array([0, 1, 1, 0]),
        2,
        2,
        horizon=8.0,
        seconds=2.0,
    )
    assert path.arrivals.tolist() == [[0.5, 0.5], [0.0, 0.5], [0.0, 0.0], [0.0, 0.0]]
    assert path.present.tolist() == [[0.5, 0.25], [0.0, 0.125], [0.0, 0.0], [0.0, 0.0]]


def test_the_expected_path_integrates_the_profile():
    ramp = lse.ArrivalProfile((0.0, 10.0), (0.0, 2.0))
    only = dataclasses.replace(one_class(1.0).classes[0], arrival_profile=ramp)
    instance = dataclasses.replace(one_class(), classes=(only,))
    path = expected_arrivals(instance, horizon=20.0, seconds=5.0)
    # The rate is t / 5: arrivals t^2 / 10, and on average over a step their integral / 5.
    assert path.arrivals.ravel() == pytest.approx([2.5, 7.5, 2.5, 7.5])
    later = (1000.0 - 125.0) / 30.0 / 5.0 - 2.5
    assert path.present.ravel() == pytest.approx([125.0 / 30.0 / 5.0, later] * 2, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"within_steps": "euler"}, "within_steps"),
        ({"warmup": 3.0}, "warmup"),
        ({"pricing": "bundled", "seconds": 10.0}, "seconds"),
        ({"kv_tokens": 9000}, "kv_tokens"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_in_a_line(arguments, field):
    instance = CHANGING_PRESETS["peaks"]()
    if "kv_tokens" in arguments:
        hardware = dataclasses.replace(instance.hardware, kv_tokens=arguments.pop("kv_tokens"))
        instance = dataclasses.replace(instance, hardware=hardware)
    path = expected_arrivals(instance, horizon=40.0, seconds=arguments.pop("seconds", 4.0))
    with pytest.raises(ConfigurationError, match=field):
        traffic_bound(instance, path, **arguments)
    with pytest.raises(ConfigurationError, match="modulation"):
        expected_arrivals(CHANGING_PRESETS["bursts"](), horizon=40.0, seconds=4.0)
