"""Policies in Python as a task shows them: with its action space, its news, its knowledge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.policies.registry import PythonPolicy


class WrappedPolicy:
    """A policy that acts as another one does.

    Args:
        policy: which.
        environment: what its actions mean; default: what it says itself.
    """

    def __init__(self, policy: PythonPolicy, environment: Mapping[str, Any] | None = None) -> None:
        self.policy = policy
        own: Mapping[str, Any] = getattr(policy, "environment", {})
        self.environment = dict(own if environment is None else environment)
        self.name = str(getattr(policy, "name", None) or type(policy).__name__)

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        self.policy.reset(instance, plan, n_gpus, rng)

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The action of the next interval, or of this decision."""
        return self.policy.act(observation, info)
