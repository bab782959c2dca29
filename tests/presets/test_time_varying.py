"""Named changing traffic, and plans from other data than is replayed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.slot_prices import critical_scale
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.presets import (
    CHANGING_PRESETS,
    NAMED_INSTANCES,
    PAPER_PRICES,
    QWEN_8B_A100,
)
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.simulation import sample_requests
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.locations import find_azure_2023
from llm_sched_env.workloads.traces import instance_from_trace
from research.setups.traffic_scenarios import (
    REPLAY,
    REPLAY_LOAD,
    held_out_replay,
    scenario_bounds,
    scenario_names,
)
from research.studies.time_varying_arrivals import SPECIALISTS, TimeVaryingArrivals

# Presets


@pytest.mark.parametrize("name", CHANGING_PRESETS)
def test_a_changing_preset_keeps_the_mean_rates_and_has_its_name(name):
    instance = NAMED_INSTANCES[name]()
    assert instance.name == name
    steady = dataclasses.replace(
        instance,
        modulation=None,
        classes=tuple(dataclasses.replace(c, arrival_profile=None) for c in instance.classes),
    )
    assert lse.plan(instance).value == lse.plan(steady).value
    load = 1.0 / critical_scale(instance)
    assert load == pytest.approx({"phased": 2.09, "peaks": 1.17}.get(name, 1.0), abs=0.01)
    found = sample_requests(instance, 50, 1200.0, replication_seed(0, 0))
    counts = np.bincount(found.request_class, minlength=instance.n_classes) / (50 * 1200.0)
    # Bursts of one chain for all GPUs: some 16 cycles, few enough to differ by a fifth.
    bursty = instance.modulation is not None
    assert counts == pytest.approx(instance.arrival_rates, rel=0.5 if bursty else 0.05)


def test_halves_of_the_classes_are_busy_at_different_times():
    daily = CHANGING_PRESETS["daily-dolly"]()
    profiles = {c.name: c.arrival_profile for c in daily.classes}
    assert profiles["creative-writing"] == profiles["open-qa"]
    assert profiles["summarization"] == profiles["closed-qa"]
    hours = 1200.0 * np.array([10.0, 11.0, 21.0, 22.0, 2.0, 3.0]) / 24.0

    def rates(name):
        return profiles[name].mean_relative_rates(hours)[::2]

    day, evening, night = rates("summarization")
    assert day > 1.5
    assert evening < 0.5
    assert night < 0.5
    day, evening, night = rates("open-qa")
    assert evening > 1.5
    assert night < 0.6
    assert night < day < evening


# Plans from other data


def drawn_trace(rates, seed):
    """Ten minutes of two classes for one GPU."""
    instance = lse.presets.base()
    classes = tuple(
        dataclasses.replace(c, arrival_rate=rate)
        for c, rate in zip(instance.classes, rates, strict=True)
    )
    return requests_of_run(dataclasses.replace(instance, classes=classes), 1, 600.0, seed)


def test_planning_on_the_replayed_trace_itself_changes_nothing():
    trace = drawn_trace((1.0, 1.0), 0)
    same, usual = (
        lse.evaluate("trunk-reservation", None, 2, trace=trace, speed=2.0, seed=3, **more)
        for more in ({"planned_on": trace}, {})
    )
    assert same.scores == usual.scores
    assert same.bound == usual.bound


def test_what_is_planned_on_steers_the_policy_and_what_is_replayed_sets_the_bound():
    known, replayed = drawn_trace((1.5, 0.3), 1), drawn_trace((1.0, 1.0), 2)
    result = lse.evaluate(
        "token-bucket", None, 2, trace=replayed, planned_on=known, speed=2.0, replications=2
    )
    usual = lse.evaluate("token-bucket", None, 2, trace=replayed, speed=2.0, replications=2)
    assert result.bound == usual.bound
    steering = instance_from_trace(known.at_speed(2.0), 2, 0.1, QWEN_8B_A100, PAPER_PRICES)
    by_hand = lse.evaluate(
        "token-bucket",
        steering,
        2,
        trace=replayed,
        speed=2.0,
        replications=2,
        match_trace=False,
    )
    assert result.revenue_rate == by_hand.revenue_rate
    assert result.revenue_rate != usual.revenue_rate
    assert result.score.mean == pytest.approx(by_hand.revenue_rate.mean / usual.bound)


@pytest.mark.parametrize(
    "more", [{"trace": None}, {"match_trace": False}, {"billing": "class-means"}], ids=str
)
def test_what_cannot_be_planned_on_other_data_is_refused(more):
    trace = drawn_trace((1.0, 1.0), 0)
    arguments = {"trace": trace, "planned_on": trace} | more
    with pytest.raises(ConfigurationError, match="planned_on"):
        lse.evaluate("trunk-reservation", "base", 2, **arguments)


@pytest.mark.skipif(not find_azure_2023(), reason="needs the Azure traces")
def test_the_replay_knows_the_first_half_and_is_scored_on_the_second():
    replay = held_out_replay(5)
    whole = len(replay.known) + len(replay.replayed)
    assert whole == 19_366 + 8_819
    recorded = instance_from_trace(
        replay.replayed.at_speed(replay.speed), 5, 0.1, QWEN_8B_A100, PAPER_PRICES
    )
    assert 1.0 / critical_scale(recorded) == pytest.approx(REPLAY_LOAD)
    assert replay.known.duration <= replay.replayed.duration * 1.01
    bounds = scenario_bounds({"scenario": REPLAY, "n_gpus": 20, "replications": 3})
    assert len(set(bounds)) == 1
    assert 0.5 < bounds[0] < 1.0


@pytest.mark.skipif(not find_azure_2023(), reason="needs the Azure traces")
def test_a_window_to_plan_for_is_given_on_the_command_line(run):
    files = [str(path) for path in find_azure_2023()]
    common = ("replay", *files, "--gpus", 2, "--window", "1800,1900", "--json")
    plain, planned = run(*common), run(*common, "--plan-window", "0,1800")
    assert plain[0] == planned[0] == 0
    assert "15,461 requests in 1,800.000 s" in planned[2]
    first, second = (json.loads(out) for _, out, _ in (plain, planned))
    assert first["bound"] == second["bound"]
    assert first["occupancy"] != second["occupancy"]
    code, _, error = run(*common, "--plan-window", "0,1800", "--rate", 9)
    assert code == 2
    assert "--plan-window" in error


# The study


def test_the_study_has_every_registered_policy_and_the_bound_in_each_scenario():
    cells = TimeVaryingArrivals().cells(quick=False, seed=0)
    assert {cell["scenario"] for cell in cells} == set(scenario_names()) >= set(CHANGING_PRESETS)
    cases = {(cell["scenario"], cell["n_gpus"]) for cell in cells}
    foresight = "llm_sched_env.agents.learned_rule:FORESIGHT_ALONE"
    wanted = {*registered_policies(), "hindsight bound", foresight}
    found = {(cell["scenario"], cell["n_gpus"], cell["policy"]) for cell in cells}
    trained = {(*case, policy) for case, policy in SPECIALISTS.items()}
    assert found == {(*case, policy) for case in cases for policy in wanted} | {
        one for one in trained if one[:2] in cases
    }
    assert len(found) == len(cells)


def test_the_rule_without_its_network_has_a_name_of_its_own():
    cell = {
        "scenario": "phased", "n_gpus": 2, "seed": 1, "horizon": 60.0, "warmup": 10.0,
        "replications": 1, "policy": "llm_sched_env.agents.learned_rule:FORESIGHT_ALONE",
    }  # fmt: skip
    (row,) = TimeVaryingArrivals().compute(cell)
    assert row["policy"] == "look-ahead alone"
    plain = TimeVaryingArrivals().compute(cell | {"policy": "trunk-reservation"})[0]
    assert row["share"] != plain["share"] > 0.3


def rows_of(shares):
    """Rows of two runs of one scenario and size."""
    return [
        {"scenario": "daily", "n_gpus": 5, "policy": policy, "run": k, "share": share}
        for policy, own in shares.items()
        for k, share in enumerate(own)
    ]


STEADY = {
    "hindsight bound": (0.90, 0.92),
    "fcfs-immediate": (0.5, 0.5),
    "trunk-reservation": (0.80, 0.83),
    "fluid-mpc": (0.82, 0.851),
    "fluid-mpc-estimated": (0.81, 0.84),
}


def test_claims_about_learning_appear_with_a_learned_policy():
    study = TimeVaryingArrivals()
    without = study.findings(rows_of(STEADY))
    assert [claim.statement.split()[0] for claim in without.claims] == ["fluid-mpc"]
    assert without.claims[0].outcome == "agrees"
    assert without.claims[0].estimate.mean == pytest.approx(0.0205)
    learned = study.findings(rows_of(STEADY | {"learned": (0.81, 0.841)}))
    above_rules, above_replanned = (c for c in learned.claims if c.statement[:7] == "learned")
    assert above_rules.outcome == "agrees"
    assert above_rules.estimate.mean == pytest.approx(0.0105)
    assert above_replanned.outcome == "differs"
    overall = [c for c in learned.claims if "all 1 presets" in c.quantity]
    assert [c.estimate.mean for c in overall] == pytest.approx([0.0105, -0.01, 0.0005])
    trained = study.findings(
        rows_of(STEADY | {"learned": (0.81, 0.841), "specialist": (0.83, 0.86)})
    )
    overall = [c for c in trained.claims if "all 1 presets" in c.quantity]
    assert [c.estimate.mean for c in overall] == pytest.approx([0.03, 0.0095, 0.02])
    assert learned.table[0]["best rule"] == "trunk-reservation"
    assert "learned" in learned.table[0]
    assert "trunk-reservation 89.6 to 89.6%" in learned.remarks[0]
