"""Operating points, and the bandits that choose them: closed forms and the command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.adaptation import simulated_hours as hours_module
from llm_sched_env.adaptation.adapt import LEARNERS, METHODS, ONLINE, POOLED, DayOfRuns
from llm_sched_env.adaptation.cases import DAY, LOADS, default_cluster, simulator_of
from llm_sched_env.adaptation.experiment import Adaptation, default_points
from llm_sched_env.adaptation.operating_points import FixedPoint, OperatingPoint, features, grid
from llm_sched_env.adaptation.simulated_hours import HourRuns, simulated_hours
from llm_sched_env.bandits import Assumptions
from llm_sched_env.commands import adapt as command
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.planning.slot_ranks import slot_ranks

POINTS = tuple(grid((0.0, 1.0), (0.25, 0.5, 0.75), (512, 1024), (96, 128)))
ASSUMED = Assumptions(noise=0.05, parameter_norm=1.0)


@pytest.fixture(scope="module")
def truth():
    random = np.random.default_rng(3)
    theta = random.standard_normal(features(POINTS, 1.0).shape[1])
    return theta / np.linalg.norm(theta)


def runs_of(theta, seed, count=6):
    """Revenue that is linear in the features, shape (L, K, R)."""
    means = np.stack([features(POINTS, load) @ theta for load in LOADS])
    noise = np.random.default_rng(seed).standard_normal((*means.shape, count))
    return means[..., None] + 0.05 * noise


def day(real, simulated):
    return DayOfRuns(POINTS, LOADS, DAY, real, simulated, ASSUMED)


def test_features_tell_points_and_loads_apart():
    rows = np.concatenate([features(POINTS, load) for load in LOADS])
    assert rows.shape == (len(LOADS) * len(POINTS), 20)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert (rows[:, 0] == 1.0).all()


def test_a_point_sets_pool_and_reserves_of_the_plan():
    instance = lse.presets.overload()
    plan = lse.plan(instance)
    reserve = slot_ranks(plan, 8).reserve
    assert reserve.max() > 1
    for scale in (0.0, 1.0, 2.0):
        policy = FixedPoint(scale, 0.25, 30.0)
        policy.reset(instance, plan, 8, np.random.default_rng())
        action = policy.act(np.zeros(0), {})
        assert action[0] == 0.25
        slots = action[1:] / (1 - action[1:])
        # Free slots are whole: a reserve lies half a slot below the number that it needs.
        assert np.allclose(slots, np.maximum(0, np.ceil(scale * reserve) - 0.5))


def test_a_point_changes_what_a_cluster_earns():
    times = {"horizon": 60.0, "warmup": 20.0, "replications": 2}
    instance = default_cluster()
    few, many = (
        lse.evaluate(
            FixedPoint(1.0, 0.75, 20.0),
            OperatingPoint(1.0, 0.75, 512, slots).applied_to(instance),
            4,
            **times,
        )
        for slots in (16, 128)
    )
    assert few.revenue_rate.mean < 0.7 * many.revenue_rate.mean


def test_two_speeds_are_those_of_the_full_batch():
    real = default_cluster()
    found = simulator_of(real, "two-speed").hardware
    solo, mixed = real.full_batch_seconds
    assert (found.tau_solo, found.tau_mixed) == pytest.approx((solo, mixed))
    # Another batch does not change them, another chunk does.
    other = OperatingPoint(1.0, 0.5, 512, 64).applied_to(simulator_of(real, "two-speed")).hardware
    assert other.tau_solo == found.tau_solo
    assert other.tau_mixed < found.tau_mixed
    assert simulator_of(real, "right") is real


def test_regret_is_what_is_lost_to_the_best_fixed_point(truth):
    runs = day(runs_of(truth, 0), runs_of(-truth, 1))
    daily = np.mean([runs.means[load] for load in DAY], axis=0)
    assert runs.best_point == int(np.argmax(daily))
    assert runs.simulated_best_point == int(np.argmin(daily)) != runs.best_point
    lost = runs.regret("simulator's best point", 2, 0)
    assert lost.shape == (48,)
    assert lost[-1] == pytest.approx(48 * (daily.max() - daily[runs.simulated_best_point]))
    best_each = np.mean([runs.means[load].max() for load in DAY])
    assert runs.gain_of_hourly_choice == pytest.approx(best_each / daily.max() - 1)


def test_a_right_simulator_helps_and_a_reversed_one_harms_who_pools(truth):
    real = runs_of(truth, 0)
    right, reversed_ = day(real, runs_of(truth, 1)), day(real, runs_of(-truth, 1))
    assert right.misfit < 0.05
    online = right.regret(ONLINE, 10, 0)[-1]
    assert reversed_.regret(ONLINE, 10, 0)[-1] == online
    assert right.regret(POOLED, 10, 0)[-1] < online < reversed_.regret(POOLED, 10, 0)[-1]
    # A valid certificate keeps what pooling loses.
    for name in LEARNERS:
        if "learned" in name or "known" in name:
            assert reversed_.regret(name, 10, 0)[-1] < reversed_.regret(POOLED, 10, 0)[-1]


def test_hours_are_simulated_once(tmp_path, monkeypatch):
    runs = HourRuns(1, 20.0, 10.0, 2, "all", 0)
    arguments = (lse.presets.base(), (0.5, 1.0), POINTS[:2], runs)
    executor = Executor(jobs=1)
    first = simulated_hours(*arguments, executor=executor, cache=tmp_path)
    assert first.shape == (2, 2, 2)

    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(hours_module, "evaluate", fail)
    again = simulated_hours(*arguments, executor=executor, cache=tmp_path)
    assert np.array_equal(first, again)


@pytest.mark.extended
def test_the_command_writes_what_it_says(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "default_points", lambda: POINTS[-4:])
    words = ("adapt", "--gpus", 2, "--days", 1, "--repetitions", 2, "--jobs", 1, "--json")
    words += ("--simulators", "right,a100-llama3-8b", "--out")
    code, out, _ = run(*words, tmp_path / "first")
    assert code == 0
    found = json.loads(out)
    assert found == json.loads((tmp_path / "first" / "adapt.json").read_text())
    assert (tmp_path / "first" / "adapt.png").stat().st_size > 0
    assert found["cases"][0]["kind"] == "right"
    for case in found["cases"]:
        assert list(case["lost"]) == list(METHODS)
        shares = [case["lost"][name]["end"]["mean"] for name in METHODS]
        assert shares[0] == pytest.approx(case["loss_of_simulated_best"])
    # Same seed, same bytes; from the cache, too.
    for folder in ("first", "second"):
        assert run(*words, tmp_path / folder)[:2] == (0, out)
        assert (tmp_path / folder / "adapt.png").read_bytes() == (
            tmp_path / "first" / "adapt.png"
        ).read_bytes()
    code, out, _ = run(*words[:-3], "--simulators", "right", "--out", tmp_path / "first")
    assert code == 0
    assert "right" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--simulators", "h999"), "hardware: got 'h999'"),
        (("--instance", "base"), "revenue: got 'goodput', expected all, for classes without"),
        (("--days", "0"), "days: got 0, expected an integer >= 1"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, options, message):
    code, _, err = run("adapt", "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in err


def test_settings_are_checked():
    with pytest.raises(ConfigurationError, match="hour_seconds: got"):
        Adaptation(default_cluster(), ("right",), default_points(), hour_seconds=100.0)
    with pytest.raises(ConfigurationError, match="prefill_share: got"):
        OperatingPoint(1.0, 0.0, 512, 64)
    with pytest.raises(ConfigurationError, match="reserve_scale: got"):
        dataclasses.replace(POINTS[0], reserve_scale=-1.0)
