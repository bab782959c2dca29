"""Native vector environments of tasks keep at least half of the speed of their base environment."""

from __future__ import annotations

import time
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from llm_sched_env.tasks import task

ENVS, STEPS = 32, 320


def seconds_per_event(envs: Any) -> float:
    """Of a vector environment over several episodes, the best of three."""
    envs.reset(seed=0)
    found = []
    for _ in range(3):
        started = time.perf_counter()
        total = 0.0
        for _ in range(STEPS):
            actions = np.full(envs.action_space.shape, 0.5, np.float32)
            if isinstance(envs.single_action_space, gym.spaces.Discrete):
                actions = envs.unwrapped.action_masks().argmax(axis=1)
            running = done_events(envs)
            envs.step(actions)
            # An episode that begins anew counts from nothing.
            total += np.maximum(done_events(envs) - running, 0).sum()
        found.append((time.perf_counter() - started) / total)
    return min(found)


def done_events(envs: Any) -> np.ndarray:
    events: np.ndarray = envs.unwrapped.control.batch.states.clock["events"][:, 0].copy()
    return events


@pytest.mark.extended
@pytest.mark.parametrize("name", ["HiddenHardware", "DelayedObservations", "AzureReplay"])
def test_a_task_keeps_half_of_the_speed(name: str, small_traces: None) -> None:
    settings = {k: v for k, v in task(name).settings.items() if k != "instance"}
    given = {**settings, "horizon": 100.0, "instance": task(name).arguments()["instance"]}
    own = gym.make_vec(task(name).id, num_envs=ENVS, horizon=100.0, threads=1)
    base = gym.make_vec(task(name).environment, num_envs=ENVS, threads=1, **given)
    seconds_per_event(base)  # compiled before it is timed
    assert seconds_per_event(own) < 2.0 * seconds_per_event(base)
