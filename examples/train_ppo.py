"""Train a small PPO agent from scratch, and compare it with rules on the same requests.

It needs the extra ``agents``: ``pip install -e ".[agents]"``. The agent starts in the middle of
each control's range, far from any good rule, and comes within some percent of trunk reservation in
less than a minute on a free processor (the variant ``ppo`` of docs/training.md). ``llmsched train``
starts at trunk reservation instead. The scores printed on the way are those of finished episodes.
Run it with ``python examples/train_ppo.py [STEPS]``.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.ppo import train


def report(row: dict[str, Any]) -> None:
    """Print the mean score of the episodes that have ended lately."""
    if not math.isnan(row["score"]):  # the first episode lasts longer than the first update
        print(f"{row['steps']:7.0f} steps: {row['score']:.3f} of R*")


def main(steps: int = 128_000) -> None:
    """Train on clusters of 5 GPUs, and compare the agent with two rules."""
    # The instance is plain data, so that the checkpoint carries it.
    instance = presets.resolve_instance("overload").to_dict()
    configuration = TrainingConfiguration(instance, n_gpus=5, total_steps=steps, center="middle")
    with tempfile.TemporaryDirectory() as folder:
        agent = train(configuration, Path(folder), on_update=report)

        # The path of a checkpoint is a policy. All three see the same requests, so that
        # differences between them are not luck.
        for policy in (str(agent), "fcfs-immediate", "trunk-reservation"):
            result = lse.evaluate(policy, "overload", n_gpus=5, replications=4)
            print(f"{Path(policy).name:18s} {result.score.mean:.3f} of R*")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
