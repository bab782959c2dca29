"""Datasets of ``llmsched dataset`` load with Minari, replay, and repeat to the byte."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap

import gymnasium as gym
import numpy as np
import pytest

import llm_sched_env  # noqa: F401 - registers the environments
from llm_sched_env.errors import ConfigurationError, FileError
from llm_sched_env.files.atomic import whole_folder
from llm_sched_env.offline.behaviour import behaviour
from llm_sched_env.offline.datasets import record_dataset

minari = pytest.importorskip("minari")

SHORT = {"instance": "overload", "n_gpus": 2, "horizon": 4.0}
CASES = [
    ("LLMSched-v0", "random", 0.0),
    ("LLMSched-v0", "trunk-reservation", 0.2),
    ("LLMSchedEvent-v0", "gate-and-route", 0.1),
    ("LLMSchedRouting-v0", "earliest-finish", 0.1),
]


def record(root, policy="random", task="LLMSched-v0", count=2, name="a/b/data-v0", **more):
    return record_dataset(
        name, task, policy, count, **{"seed": 3, "arguments": SHORT, "root": root, **more}
    )


def loaded(monkeypatch, root, name="a/b/data-v0"):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return minari.load_dataset(name)


def flat(infos, above=""):
    for name, value in infos.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def arrays(dataset):
    """Every array of a dataset by episode and name."""
    names = ("observations", "actions", "rewards", "terminations", "truncations")
    return {
        (episode.id, name): np.asarray(value)
        for episode in dataset.iterate_episodes()
        for name, value in [*((n, getattr(episode, n)) for n in names), *flat(episode.infos)]
    }


@pytest.mark.parametrize(("task", "policy", "epsilon"), CASES)
def test_episodes_replay_in_the_environment_of_the_dataset(
    tmp_path, monkeypatch, task, policy, epsilon
):
    written = record(tmp_path, policy, task, epsilon=epsilon)
    dataset = loaded(monkeypatch, tmp_path)
    env = dataset.recover_environment()
    assert dataset.total_episodes == 2
    assert dataset.total_steps == written.steps
    seeds = [meta["seed"] for meta in dataset.storage.get_episode_metadata([0, 1])]
    assert len(set(seeds)) == 2
    for episode, seed, total in zip(
        dataset.iterate_episodes(), seeds, written.episode_returns, strict=True
    ):
        observation, info = env.reset(seed=seed)
        for t, action in enumerate(episode.actions):
            np.testing.assert_array_equal(observation, episode.observations[t])
            if "action_mask" in info:
                np.testing.assert_array_equal(info["action_mask"], episode.infos["action_mask"][t])
                assert info["action_mask"][action]
            observation, reward, _, truncated, info = env.step(action)
            assert reward == episode.rewards[t]
            assert truncated == episode.truncations[t]
        np.testing.assert_array_equal(observation, episode.observations[-1])
        assert truncated
        assert len(episode.infos["time"]) == len(episode.observations)
        assert episode.rewards.sum() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("task", "policy", "epsilon"), CASES[1:3])
def test_the_same_seed_writes_the_same_bytes(tmp_path, monkeypatch, task, policy, epsilon):
    record(tmp_path / "one", policy, task, epsilon=epsilon)
    record(tmp_path / "two", policy, task, epsilon=epsilon, count=3)
    record(tmp_path / "other", policy, task, epsilon=epsilon, seed=4)
    one, two, other = (
        arrays(loaded(monkeypatch, tmp_path / name)) for name in ("one", "two", "other")
    )
    assert {key for key in two if key[0] < 2} == set(one)
    for key, array in one.items():
        assert array.dtype == two[key].dtype
        assert array.tobytes() == two[key].tobytes(), key
    assert one[0, "actions"].tobytes() != other[0, "actions"].tobytes()


def test_the_metadata_says_how_the_data_were_made(tmp_path, monkeypatch, run):
    arguments = ["--policy", "trunk-reservation", "--episodes", "2", "--instance", "overload"]
    arguments += ["--gpus", "2", "--argument", "horizon=3", "--seed", "7", "--epsilon", "0.5"]
    where = ["--root", str(tmp_path), "--out", "llmsched/small/trunk-v1", "--json"]
    code, out, _ = run("dataset", *arguments, *where)
    result = json.loads(out)
    assert code == 0
    assert result["steps"] == 6
    metadata = loaded(monkeypatch, tmp_path, "llmsched/small/trunk-v1").storage.metadata
    assert metadata["algorithm_name"] == "trunk-reservation"
    assert metadata["seed"] == 7
    assert metadata["epsilon"] == 0.5
    assert metadata["instance"]["name"] == "overload"
    assert metadata["command"].startswith("llmsched dataset --policy trunk-reservation")
    assert set(metadata["versions"]) >= {"llm-sched-env", "numpy", "gymnasium", "minari"}
    spec = json.loads(metadata["env_spec"])
    assert spec["kwargs"]["gate"] == "net-value"
    assert minari.list_local_datasets().keys() == {"llmsched/small/trunk-v1"}


def test_the_plan_as_an_action_is_the_rule(tmp_path):
    meaning = {"gate": "net-value", "router": "net-value", "pools": "dynamic"}
    rule = record(tmp_path, "trunk-reservation")
    plan = record(tmp_path, "plan", name="plan-v0", arguments={**SHORT, **meaning})
    part = {**SHORT, "controls": ["priority", "reserve"]}
    some = record(tmp_path, "trunk-reservation", name="part-v0", arguments=part)
    assert rule.episode_returns == plan.episode_returns == some.episode_returns
    wait = record(tmp_path, "wait", "LLMSchedEvent-v0", name="wait-v0")
    assert wait.episode_returns == (0.0, 0.0)


def test_a_policy_that_cannot_act_in_a_task_is_an_error(tmp_path):
    for task, policy, said in [
        ("LLMSched-v0", "token-bucket", "a constant action"),
        ("LLMSched-v0", "fcfs-immediate", "a constant action"),
        ("LLMSched-v0", "wait", "under interval control"),
        ("LLMSchedRouting-v0", "trunk-reservation", "earliest-finish"),
        ("LLMSched-v0", "no-such-rule", "one of"),
        ("NoTask-v0", "random", "LLMSchedEvent-v0"),
        ("CartPole-v1", "random", "an environment of llm_sched_env|its own"),
    ]:
        with pytest.raises(ConfigurationError, match=said):
            record(tmp_path, policy, task)
    other = {**SHORT, "gate": "occupancy", "router": "solo-first"}
    with pytest.raises(ConfigurationError, match="rule of the task"):
        record(tmp_path, "trunk-reservation", arguments=other)
    with pytest.raises(ConfigurationError, match="epsilon"):
        record(tmp_path, epsilon=1.5)
    with pytest.raises(ConfigurationError, match="dataset id"):
        record(tmp_path, name="../up-v0")
    assert list(tmp_path.iterdir()) == []


def test_a_registered_task_keeps_its_own_arguments(tmp_path, monkeypatch):
    gym.register(
        id="LLMSched/TestTrunk-v0",
        entry_point="llm_sched_env.envs.interval_env:LLMSchedEnv",
        kwargs={**SHORT, "gate": "net-value", "router": "net-value", "pools": "dynamic"},
    )
    monkeypatch.setattr("gymnasium.envs.registration.registry", dict(gym.registry))
    try:
        record(tmp_path, "trunk-reservation", "LLMSched/TestTrunk-v0", arguments={})
        with pytest.raises(ConfigurationError, match="as the policy gate-and-route needs"):
            record(tmp_path, "gate-and-route", "LLMSched/TestTrunk-v0", arguments={}, name="b-v0")
        deadlines = {"instance": "deadlines", **{n: SHORT[n] for n in ("n_gpus", "horizon")}}
        other = "LLMSched/TestTrunk-v0"
        record(tmp_path, "trunk-reservation", other, arguments=deadlines, name="c-v0")
        assert loaded(monkeypatch, tmp_path).env_spec.id == "LLMSched/TestTrunk-v0"
    finally:
        gym.registry.pop("LLMSched/TestTrunk-v0")


def test_an_existing_dataset_stays(tmp_path):
    record(tmp_path)
    with pytest.raises(FileError, match="exists"):
        record(tmp_path)


def test_a_failure_on_the_way_leaves_nothing(tmp_path):
    def fail(episode):
        raise KeyError(episode.seed)

    with pytest.raises(KeyError):
        record(tmp_path, on_episode=fail)
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["namespace_metadata.json"]


def test_a_killed_process_leaves_no_dataset(tmp_path, monkeypatch):
    code = """
        import os, signal, sys
        from pathlib import Path
        from llm_sched_env.files.atomic import whole_folder
        with whole_folder(Path(sys.argv[1])) as part:
            (part / "data").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    target = tmp_path / "data-v0"
    command = [sys.executable, "-c", textwrap.dedent(code), str(target)]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert minari.list_local_datasets() == {}
    with whole_folder(target) as part:
        (part / "data").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["data-v0"]


def test_a_random_policy_needs_no_policy():
    acting = behaviour("random", "interval")
    assert (acting.name, acting.environment) == ("random", {})
