"""Every task as an environment: registered, checked, the same in single and vector form."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import registry
from gymnasium.utils.env_checker import check_env

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.tasks import TASKS, task
from llm_sched_env.tasks import replays as replays_module
from llm_sched_env.tasks.replays import Replay

SHORT: dict[str, Any] = {"horizon": 5.0}
# 200 GPUs take as much of a short test as all others.
SMALL = {"Overload200": {"n_gpus": 20}}


def arguments(name: str) -> dict[str, Any]:
    return {**SHORT, **SMALL.get(name, {})}


@pytest.fixture(autouse=True)
def _small_traces(small_traces: None) -> None:
    """Traces of a few requests in the place of those that are never shipped."""


def played(name: str, seed: int, steps: int = 12) -> list[tuple[bytes, float, bool]]:
    """What a single environment shows under actions that the seed decides."""
    env = gym.make(task(name).id, **arguments(name))
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    shown = [(observation.tobytes(), 0.0, False)]
    for _ in range(steps):
        observation, reward, _, truncated, _ = env.step(env.action_space.sample())
        shown.append((observation.tobytes(), float(reward), truncated))
        if truncated:
            break
    env.close()
    return shown


def test_the_registered_names_are_those_of_the_suite() -> None:
    found = {id_ for id_ in registry if id_.startswith("LLMSched/")}
    assert found == {one.id for one in TASKS.values()}
    assert task("LLMSched/Deadlines-v0") is task("Deadlines")


@pytest.mark.parametrize("name", TASKS)
def test_gymnasium_finds_no_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = gym.make(task(name).id, **arguments(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if isinstance(env.action_space, gym.spaces.Discrete):
            # It steps before it knows a mask: the least loaded GPU is always possible.
            monkeypatch.setattr(type(env.unwrapped.action_space), "sample", _least_loaded)
        check_env(env.unwrapped, skip_render_check=True)


def _least_loaded(space: gym.spaces.Discrete, *_: Any) -> np.int64:
    """The first of the actions by load, of one group of GPUs."""
    return np.int64(space.n // 2)


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(name: str) -> None:
    assert played(name, 3) == played(name, 3)
    assert played(name, 3) != played(name, 4)


@pytest.mark.parametrize("name", TASKS)
def test_vector_environments_equal_single_ones_over_episodes(name: str) -> None:
    """Actions are the same in all; after its end an episode is followed by the next."""
    count, steps = 2, 14
    given = arguments(name)
    envs = gym.make_vec(task(name).id, num_envs=count, **given)
    singles = [gym.make(task(name).id, **given) for _ in range(count)]
    observations, _ = envs.reset(seed=7)
    rng = np.random.default_rng(0)
    for k, env in enumerate(singles):
        assert env.reset(seed=7 + k)[0].tobytes() == observations[k].tobytes()
    ended = [False] * count
    for _ in range(steps):
        actions = chosen_actions(envs, rng)
        observations, rewards, _, truncated, infos = envs.step(actions)
        for k, env in enumerate(singles):
            if ended[k]:
                own, reward, ended[k] = env.reset()[0], 0.0, False
            else:
                own, reward, _, ended[k], info = env.step(actions[k])
                if "counts" in info:
                    assert info["counts"].tolist() == infos["counts"][k].tolist()
            assert own.tobytes() == observations[k].tobytes()
            assert reward == rewards[k]
            assert ended[k] == truncated[k]


def chosen_actions(envs: Any, rng: np.random.Generator) -> np.ndarray:
    """Actions that are possible in each environment."""
    if isinstance(envs.single_action_space, gym.spaces.Discrete):
        masks = envs.unwrapped.action_masks()
        return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
    shape = envs.action_space.shape
    return rng.uniform(size=shape).astype(np.float32)


def test_arguments_of_a_task_can_be_changed() -> None:
    env = gym.make("LLMSched/Bursts-v0", n_gpus=3, horizon=2.0)
    assert env.unwrapped.control.cluster.n_gpus == 3
    with pytest.raises(ConfigurationError, match="gate"):
        gym.make("LLMSched/Bursts-v0", gate="nothing")


def test_an_unknown_task_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ConfigurationError, match="task: got 'Nothing', expected one of Overload5"):
        task("Nothing")


def test_a_trace_that_is_not_there_is_an_error_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(replays_module, "data_folders", lambda: [tmp_path])
    absent = Replay("absent", ("absent.csv",), task("AzureReplay").form.cluster, 5, 1.0)
    with pytest.raises(
        ConfigurationError, match=r"trace absent: got 'no file', expected absent.csv"
    ):
        _ = absent.halves
