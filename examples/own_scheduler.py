"""A scheduler of your own, compared with two registered ones on the same requests.

It shows the interface (``reset`` and ``act``), how to read an observation by name, and how to
evaluate. Run it with ``python examples/own_scheduler.py``; it takes some seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import llm_sched_env as lse
from llm_sched_env.envs.observation import feature_names


class ThrottleWhenFull:
    """The plan's admission rates, but half of them while few decode slots are free."""

    # The settings of the environment that it acts in: see the docstring of LLMSched-v0.
    environment = {"gate": "token-bucket", "router": "solo-first", "pools": "dynamic"}  # noqa: RUF012

    def reset(
        self, instance: lse.Instance, plan: lse.FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Called at the start of each run."""
        del n_gpus, rng
        self.plan, self.n_classes = plan.action, instance.n_classes
        self.free_slots = feature_names(instance).index("free slots")

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Called once per simulated second: admission rates, solo probabilities, mixed pool."""
        del info
        action = self.plan.copy()
        if observation[self.free_slots] < 0.02:  # a share of all slots
            action[: self.n_classes] *= 0.5
        return action


def main(horizon: float = 300.0, warmup: float = 100.0) -> None:
    """Print the score of each policy on 20 GPUs, as a share of the fluid bound R*."""
    for policy in (ThrottleWhenFull(), "gate-and-route", "trunk-reservation"):
        result = lse.evaluate(
            policy, "overload", n_gpus=20, horizon=horizon, warmup=warmup, replications=2
        )
        name = policy if isinstance(policy, str) else type(policy).__name__
        print(f"{name:20s} {result.score.mean:.3f} of R*")


if __name__ == "__main__":
    main()
