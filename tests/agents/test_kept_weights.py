"""The notes of a comparison say when an agent's weights are those of the untrained one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from small_training import small

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.kept_weights import kept_weights, starting_rule
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.trained_policy import TrainedPolicy
from llm_sched_env.commands.compare import _competitors


def row(steps, score, difference, half=0.0):
    ends = {"": difference, " low": difference - half, " high": difference + half}
    own = {f"minus trunk-reservation{end}": value for end, value in ends.items()}
    return {"steps": float(steps), "score": score} | own


def checkpoint(evaluations, weights_steps):
    return Checkpoint(
        weights={"w": np.zeros(1)},
        observation={},
        weights_steps=weights_steps,
        configuration=small(references=("trunk-reservation",)),
        steps=300,
        seconds=4.0,
        curve=[],
        evaluations=evaluations,
        held_out={},
        versions={},
    )


def test_weights_of_step_0_that_equal_a_rule_are_said_to_be_it():
    saved = checkpoint([row(0, 0.9, 0.0), row(200, 0.8, -0.1, 0.01)], 0)
    assert starting_rule(saved) == "trunk-reservation"
    assert kept_weights(saved) == (
        "starts as trunk-reservation; no update scored better in training, so its weights are "
        "those of step 0 and its row is that rule's"
    )


def test_weights_of_step_0_that_equal_no_rule_are_not_said_to_be_one():
    for first in (row(0, 0.7, -0.2), row(0, 0.7, 0.0, 0.01), row(100, 0.9, 0.0)):
        saved = checkpoint([first, row(200, 0.6, -0.3)], 0)
        assert starting_rule(saved) is None
        assert kept_weights(saved) == (
            "no update scored better in training, so its weights are those of step 0"
        )


def test_later_weights_are_told_by_their_step():
    saved = checkpoint([row(0, 0.9, 0.0), row(12_800, 0.95, 0.05)], 12_800)
    assert kept_weights(saved) == (
        "its weights are those of step 12,800, which scored best in training"
    )
    assert kept_weights(dataclasses.replace(saved, evaluations=[])) == ""


def test_the_notes_of_a_comparison_follow_from_a_real_training(tmp_path):
    path = train(small(200), tmp_path / "overload")
    saved = Checkpoint.load(path)
    first = saved.evaluations[0]
    worse = {name: value - 1.0 for name, value in first.items()} | {"steps": 200.0}
    kept = dataclasses.replace(saved, weights_steps=0, evaluations=[first, worse])
    kept.save(path)
    _, notes = _competitors("token-bucket", f"overload={path}", {"overload"})
    rule, note = notes
    assert rule.startswith("token-bucket: ")
    assert note.startswith("ppo-residual on overload: PPO trained for 200 steps")
    assert note.endswith(f"; {kept_weights(kept)}.")
    assert "starts as trunk-reservation" in note
    assert TrainedPolicy(kept).description in note
