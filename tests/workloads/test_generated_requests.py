"""A run's requests are a trace that replays the run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import llm_sched_env as lse
from llm_sched_env.cli import app
from llm_sched_env.simulation.simulation import Simulation

BURSTS = lse.ArrivalModulation((0.2, 3.0), ((0.0, 0.05), (0.2, 0.0)))
TIDES = lse.ArrivalProfile((0.0, 40.0, 60.0), (0.1, 2.0, 0.1))


def instances():
    overload = lse.presets.overload()
    classes = (
        replace(overload.classes[0], arrival_profile=TIDES),
        replace(overload.classes[1], output_lengths=lse.LengthDistribution("gamma", 0.4)),
    )
    return {
        "overload": overload,
        "changing": replace(overload, name="changing", classes=classes, modulation=BURSTS),
        "limited": replace(overload, hardware=replace(overload.hardware, kv_tokens=9000)),
    }


INSTANCES = instances()


@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.parametrize("policy", ["gate-and-route", "token-bucket", "fcfs-immediate"])
def test_the_trace_of_a_run_replays_to_the_same_result(policy, name, tmp_path):
    instance = INSTANCES[name]
    path = tmp_path / "run.csv.gz"
    lse.requests_of_run(instance, 6, 120.0, seed=3).save(path)
    settings = {"horizon": 120.0, "warmup": 40.0, "replications": 1, "seed": 3}
    result = lse.evaluate(policy, instance, 6, **settings)
    assert result.requests["arrived"] > 300
    run = result.to_dict()
    billing = "own-tokens" if name == "changing" else "class-means"
    replayed = lse.evaluate(
        policy, instance, 6, trace=path, match_trace=False, billing=billing, **settings
    ).to_dict()
    for record in (run, replayed):
        for measured_in_time in ("wall_seconds", "events_per_second"):
            del record[measured_in_time]
    assert replayed.pop("interval_of") == "patience and routing; the requests are given"
    assert run.pop("interval_of") == "requests, patience and routing"
    covers = replayed.pop("bound_of")
    assert covers.startswith(f"{instance.name} as given, {run.pop('bound_of')}; the ")
    assert replayed == run


def test_drawn_requests_are_those_of_the_event_log():
    instance = INSTANCES["changing"]
    seed = np.random.SeedSequence(entropy=5, spawn_key=(2,))
    controls = lse.plan(instance).controls(4)
    simulation = Simulation(instance, lse.DispatchRule(), controls, 4, seed, log_events=20_000)
    simulation.run(100.0)
    events = simulation.events()
    arrivals = events[events["kind"] == 0]
    trace = lse.requests_of_run(instance, 4, 100.0, seed=5, replication=2)
    assert arrivals["time"].tolist() == trace.arrival_time.tolist()
    assert arrivals["index"].tolist() == list(range(len(trace)))
    assert len(trace) > 300


def test_the_command_line_saves_and_replays(tmp_path):
    path = tmp_path / "run.csv"
    common = ["evaluate", "--policy", "token-bucket", "--instance", "overload", "--gpus", "3"]
    common += ["--horizon", "60", "--warmup", "20", "--replications", "1", "--seed", "8", "--json"]
    saved = CliRunner().invoke(app, [*common, "--save-requests", str(path)])
    replay = ["--trace", str(path), "--keep-instance", "--billing", "class-means"]
    replayed = CliRunner().invoke(app, [*common, *replay])
    scores = [json.loads(r.stdout)["score"]["mean"] for r in (saved, replayed)]
    assert scores[0] == scores[1] > 0.5
    both = CliRunner().invoke(app, [*common, *replay, "--save-requests", str(path)])
    assert both.exit_code != 0


def test_a_wrong_billing_is_named():
    with pytest.raises(lse.LLMSchedError, match="billing: got 'free'"):
        lse.evaluate("token-bucket", "base", 2, horizon=10.0, warmup=0.0, billing="free")
