"""A first look: step an environment, compare two rules with a random agent, save a picture.

Run it with ``python examples/first_look.py [PICTURE.png]``; after the engine has been compiled
once it takes some seconds. The parts between the comments can be pasted into a notebook.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

import llm_sched_env as lse


def main(picture: str = "first_look.png", seconds: float = 200.0) -> None:
    """Print what each earns as a share of the fluid bound R*, and write a picture."""
    # A cluster of 20 GPUs that gets more requests than it can serve. A step is a second.
    env = gym.make(
        "LLMSched-v0", n_gpus=20, instance="overload", horizon=seconds, render_mode="rgb_array"
    )
    observation, _ = env.reset(seed=0)
    print(f"observations {observation.shape}, actions {env.action_space.shape}")

    # An agent that knows nothing: per class an admission rate and a routing, and a pool size.
    env.action_space.seed(0)
    rewards: list[float] = []
    done = False
    while not done:
        _, reward, _, done, info = env.step(env.action_space.sample())
        rewards.append(float(reward))
    print(f"{'random actions':18s} {np.mean(rewards):.3f} of R*")

    # What became of its requests: rows are waiting, prefilling, waiting to decode, decoding.
    print("at the end, by class:\n", info["counts"])

    # Rules see the same kind of cluster. The reward's mean is their score.
    for policy in ("fcfs-immediate", "trunk-reservation"):
        result = lse.evaluate(
            policy, "overload", n_gpus=20, horizon=seconds, warmup=seconds / 4, replications=2
        )
        print(
            f"{policy:18s} {result.score.mean:.3f} of R*, "
            f"median wait for the first token {result.ttft.p50:.1f} s"
        )

    # The cluster as the random agent left it: a tile is a GPU, a square a slot.
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    Image.fromarray(frame).save(picture)
    print(f"wrote {Path(picture).resolve().name}")
    env.close()


if __name__ == "__main__":
    main(*sys.argv[1:2])
