"""Plans from profiles that are known in advance: which plan when, and what runs under them."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from llm_sched_env import evaluate, presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalProfile
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning import plan
from llm_sched_env.planning.look_ahead_plans import look_ahead_plans
from llm_sched_env.policies.rolling_horizon import parameters_of_plan, plan_changes, run_under_plans
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

TRUNK = DispatchRule("bid-price", "bid-price", "dynamic")
FORESIGHTED = dataclasses.replace(TRUNK, foresight=10.0)
# Two periods without a common one, a jump, a pause.
HAT = ArrivalProfile((0.0, 20.0, 30.0, 40.0), (1.0, 1.0, 6.0, 1.0))
PAUSE = ArrivalProfile((0.0, 25.0, 25.0, 70.0), (2.0, 2.0, 0.0, 0.0))


def tides(*profiles: ArrivalProfile | None, kv_tokens: int | None = None) -> Instance:
    instance = presets.overload()
    classes = tuple(
        dataclasses.replace(own, arrival_profile=profile)
        for own, profile in zip(instance.classes, profiles, strict=True)
    )
    hardware = dataclasses.replace(instance.hardware, kv_tokens=kv_tokens)
    return dataclasses.replace(instance, classes=classes, hardware=hardware)


def mean_ahead(profile: ArrivalProfile | None, start: float, ahead: float) -> float:
    """Mean relative rate by the midpoints of a fine grid."""
    if profile is None:
        return 1.0
    seconds = start + (np.arange(20_000) + 0.5) * ahead / 20_000
    values = np.interp(seconds % profile.period, profile.times, profile.multipliers)
    grid = (np.arange(200_000) + 0.5) * profile.period / 200_000
    return float(values.mean() / np.interp(grid, profile.times, profile.multipliers).mean())


@pytest.mark.parametrize("kv_tokens", [None, pytest.param(3000, marks=pytest.mark.extended)])
def test_every_second_has_the_plan_of_the_mean_rates_ahead(kv_tokens: int | None) -> None:
    instance = tides(HAT, PAUSE, kv_tokens=kv_tokens)
    fitting = fitting_requests(instance).arrival_rates
    plans = look_ahead_plans(plan(instance), 120.0, 10.0)
    starts = [start for start, _ in plans]
    assert starts[0] == 0.0
    assert (np.diff(starts) > 0).all()
    assert all(a.plan is not b.plan for a, b in itertools.pairwise(plans))
    seen = set()
    for second in range(120):
        in_force = plans[np.searchsorted(starts, second, side="right") - 1].plan
        wanted = [max(0.01, mean_ahead(profile, second, 10.0)) for profile in (HAT, PAUSE)]
        ratios = in_force.instance.arrival_rates / (fitting * wanted)
        assert (np.abs(np.log(ratios)) < 0.051).all()
        seen.add(id(in_force))
    assert len(seen) > 10


def test_requests_that_fit_are_not_cut_twice() -> None:
    """A plan at the mean rates is the fixed one, whether or not there is a KV limit."""
    instance = tides(ArrivalProfile((0.0, 50.0), (1.0, 1.0)), HAT, kv_tokens=3000)
    fixed = plan(instance)
    for _, foreseen in look_ahead_plans(fixed, 60.0, 5.0):
        for name in ("prompt_tokens", "output_tokens", "patience_rates"):
            np.testing.assert_array_equal(
                getattr(foreseen.instance, name), getattr(fixed.instance, name)
            )
        assert foreseen.instance.arrival_rates[0] == fixed.instance.arrival_rates[0]


def test_where_nothing_is_foreseen_the_plan_is_the_fixed_one() -> None:
    for instance in (presets.base(), presets.resolve_instance("bursts")):
        fixed = plan(instance)
        assert look_ahead_plans(fixed, 100.0, 10.0) == ((0.0, fixed),)
        assert plan_changes(FORESIGHTED, fixed, 5, 100.0) == ()
    levels = plan(tides(HAT, None), slos=["tpot@limit=0.03"])
    assert look_ahead_plans(levels, 100.0, 10.0) == ((0.0, levels),)
    assert plan_changes(TRUNK, plan(tides(HAT, None)), 5, 100.0) == ()


def test_steady_arrivals_give_the_bytes_of_the_rule_without_foresight() -> None:
    settings = {"horizon": 60.0, "warmup": 10.0, "replications": 2}
    for name in ("overload", "bursts"):
        plain, ahead = (evaluate(rule, name, 4, **settings) for rule in (TRUNK, FORESIGHTED))
        assert plain.scores == ahead.scores
        assert plain.events == ahead.events


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("gate", ["occupancy", "bid-price"])
def test_an_evaluation_sets_each_plan_at_its_time(gate: str, pricing: str) -> None:
    """By hand: rank by rank from the plans in force, the run cut at the warm-up in between."""
    router = "bid-price" if gate == "bid-price" else "solo-first"
    pools = "dynamic" if gate == "bid-price" else "static"
    rule, n_gpus = DispatchRule(gate, router, pools, foresight=7.0), 4
    instance = tides(HAT, PAUSE)
    settings = {"horizon": 80.0, "warmup": 33.3, "replications": 1, "seed": 5, "pricing": pricing}
    found = evaluate(rule, instance, n_gpus, **settings)
    fixed = plan(instance, pricing)
    simulation = Simulation(
        instance, rule, fixed.controls(n_gpus), n_gpus, replication_seed(5, 0),
        **parameters_of_plan(rule, fixed, n_gpus),
    )  # fmt: skip
    for second in range(80):
        if second == 34:
            simulation.run(33.3)
            # The measured seconds are no whole periods: who came before is not paid.
            simulation.reset_metrics(pay_earlier_arrivals=False)
        simulation.run(float(second))
        in_force = [p for start, p in look_ahead_plans(fixed, 80.0, 7.0) if start <= second][-1]
        simulation.batch.replan(
            in_force.controls(n_gpus),
            in_force.instance.arrival_rates,
            **parameters_of_plan(rule, in_force, n_gpus),
        )
    simulation.run(80.0)
    earned = simulation.metrics().revenue_rate(pricing)
    assert found.revenue_rate.mean == pytest.approx(earned, rel=1e-12)
    assert (
        found.scores
        != evaluate(dataclasses.replace(rule, foresight=None), instance, n_gpus, **settings).scores
    )


def test_a_run_in_parts_is_the_run() -> None:
    instance, n_gpus = tides(HAT, PAUSE), 3
    fixed = plan(instance)
    changes = plan_changes(FORESIGHTED, fixed, n_gpus, 60.0)
    logs = []
    for stops in ((60.0,), (20.0, 20.5, 31.0, 60.0)):
        simulation = Simulation(
            instance, FORESIGHTED, fixed.controls(n_gpus), n_gpus, np.random.SeedSequence(1),
            log_events=4000, **parameters_of_plan(FORESIGHTED, fixed, n_gpus),
        )  # fmt: skip
        since = 0.0
        for stop in stops:
            run_under_plans(simulation.batch, changes, since, stop)
            since = stop
        logs.append(simulation.events().tobytes())
    assert logs[0] == logs[1]
    assert len(changes) > 10


@pytest.mark.parametrize("foresight", [0.0, -1.0, np.nan, np.inf, "soon"])
def test_foresight_that_cannot_be(foresight: float) -> None:
    with pytest.raises(ConfigurationError) as error:
        dataclasses.replace(TRUNK, foresight=foresight)
    assert "foresight" in str(error.value)
    assert "\n" not in str(error.value)
