"""A training that was stopped goes on to the agent of one that was not."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

from folder_content import folder_content
from small_training import small

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.resumption import episodes_begun, random_states, restore_random_states
from llm_sched_env.errors import CheckpointError

# Two updates, and two checkpoints, an episode.
STEPS, EPISODE = 600, 200
WAYS = {
    "ppo": {},
    "recurrent-ppo": {"algorithm": "recurrent-ppo"},
    "center": {"reward_reference": "center"},
    "group": {"reward_reference": "group", "group_size": 2},
    "frames": {"frame_stack": 3},
    "per-class": {"network": "per-class"},
}
OTHERS = [pytest.param(way, marks=pytest.mark.extended) for way in WAYS if way != "ppo"]


class StoppedError(Exception):
    """In place of a kill."""


def stopped(configuration, folder, update):
    """Train until this update has ended."""
    seen = []

    def stop(_row):
        seen.append(1)
        if len(seen) == update:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(configuration, folder, on_update=stop)


@pytest.mark.parametrize("way", ["ppo", *OTHERS])
def test_the_same_agent_as_without_a_stop(way, tmp_path):
    configuration = small(STEPS, checkpoint_every=2, **WAYS[way])
    train(configuration, tmp_path / "whole")
    stopped(configuration, tmp_path / "stopped", 5)
    saved = Checkpoint.load(tmp_path / "stopped" / "agent.zip")
    assert saved.steps == 2 * EPISODE
    train(configuration, tmp_path / "stopped", resume=True)
    assert folder_content(tmp_path / "stopped") == folder_content(tmp_path / "whole")


@pytest.mark.extended
def test_within_an_episode_new_ones_begin(tmp_path):
    configuration = small(STEPS, checkpoint_every=1)
    stopped(configuration, tmp_path, 4)
    saved = Checkpoint.load(tmp_path / "agent.zip")
    assert saved.steps == 1.5 * EPISODE
    assert episodes_begun(configuration, saved.learner, saved.steps) is None
    train(configuration, tmp_path, resume=True)
    assert Checkpoint.load(tmp_path / "agent.zip").steps == STEPS


def test_when_an_episode_begins():
    states = random_states()
    assert episodes_begun(small(), states, 0) == 1
    assert episodes_begun(small(), states, 3 * EPISODE) == 4
    assert episodes_begun(small(), states, EPISODE + 100) is None
    assert episodes_begun(small(), {}, EPISODE) is None
    assert episodes_begun(small(), None, EPISODE) is None
    assert episodes_begun(small(algorithm="sac"), states, EPISODE) is None
    assert episodes_begun(small(interval=0.3), states, EPISODE) is None


def test_random_numbers_go_on_and_others_are_refused():
    states = random_states()
    drawn = np.random.permutation(99)  # noqa: NPY002 - what stable-baselines3 draws from
    restore_random_states(states)
    assert (np.random.permutation(99) == drawn).all()  # noqa: NPY002
    restore_random_states({})
    for name, array in states.items():
        for wrong in (array[:-1], array.astype(np.float64), np.zeros((2, 2), array.dtype)):
            with pytest.raises(CheckpointError, match="another generator"):
                restore_random_states({**states, name: wrong})
