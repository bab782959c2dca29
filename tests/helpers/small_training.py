"""The configuration of a training that takes a second."""

from __future__ import annotations

import llm_sched_env as lse
from llm_sched_env.agents.configuration import TrainingConfiguration

SMALL = {
    "n_gpus": 5,
    "n_envs": 4,
    "rollout_steps": 25,
    "batch_size": 50,
    "horizon": 50.0,
    "evaluation_every": 2,
    "evaluation_warmup": 10.0,
    "evaluation_horizon": 40.0,
}


def small(steps=300, **more):
    return TrainingConfiguration(
        lse.presets.overload().to_dict(), total_steps=steps, **{**SMALL, **more}
    )
