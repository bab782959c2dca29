"""A checkpoint as a policy for :func:`llm_sched_env.evaluate`: greedy, without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from llm_sched_env.agents.algorithms import acting_policy, interval_configuration
from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.class_network import class_parameters, moments_for
from llm_sched_env.agents.controller import Controller
from llm_sched_env.agents.kept_weights import kept_weights
from llm_sched_env.agents.residual_actions import action_center
from llm_sched_env.envs.decision_space import action_count
from llm_sched_env.envs.observation import event_observation_space, observation_space
from llm_sched_env.envs.routing_space import routing_action_count, routing_observation_space
from llm_sched_env.errors import CheckpointError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan


class TrainedPolicy:
    """The weights of a checkpoint.

    Args:
        checkpoint: of a training, whole or exported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        configuration = checkpoint.configuration
        self.environment = configuration.environment
        if configuration.control != "interval":
            self.environment["control"] = configuration.control
        self._controller: Controller | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # In another process it is made anew; the checkpoint is all that decides what it does.
        return TrainedPolicy, (self.checkpoint,)

    @property
    def name(self) -> str:
        """The algorithm, with ``-residual`` where it learned corrections of a rule or plan."""
        configuration = self.checkpoint.configuration
        around = configuration.control == "interval" and configuration.center == "plan"
        return configuration.algorithm + ("-residual" if around else "")

    @property
    def description(self) -> str:
        """How it was trained and which weights were kept, in a line."""
        told = (self.checkpoint.description, kept_weights(self.checkpoint))
        return "; ".join(filter(None, told))

    def require_classes(self, n_classes: int) -> None:
        """Raise CheckpointError if the agent serves only another number of classes."""
        configuration = self.checkpoint.configuration
        trained = len(configuration.instance["classes"])
        if n_classes != trained and configuration.network != "per-class":
            raise CheckpointError(
                f"checkpoint: got an instance of {n_classes} classes, expected "
                f"{trained}, as in training on {configuration.instance['name']!r}; "
                "train an agent for it, or one with --variant per-class"
            )

    def reset(
        self,
        instance: Instance,
        plan: FluidPlan,
        n_gpus: int,
        rng: np.random.Generator,  # noqa: ARG002 - the policy is deterministic
    ) -> None:
        """Build the network for this instance and centre its actions on this plan."""
        self.require_classes(instance.n_classes)
        self._controller = self.controller(instance, plan, n_gpus)

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The controls of the next interval, or the action of this decision."""
        assert self._controller is not None
        masks = None
        if self.checkpoint.configuration.control != "interval":
            masks = info["action_mask"][None].astype(np.bool_)
        return self._controller.act(observation[None], masks)[0]

    def _require_features(self, found: int) -> None:
        """Raise CheckpointError unless the moments are of the observations trained on."""
        configuration = self.checkpoint.configuration
        trained = Instance.from_dict(configuration.instance)
        if configuration.control == "routing":
            space = routing_observation_space(trained, configuration.candidates)
        else:
            at_events = configuration.control == "event"
            space = (event_observation_space if at_events else observation_space)(trained)
        if (found,) != space.shape:
            raise CheckpointError(
                f"checkpoint: got moments of {found} features, expected {space.shape[0]}, as its "
                "configuration has; use a file that `llmsched train` wrote"
            )

    def controller(self, instance: Instance, plan: FluidPlan, n_gpus: int) -> Controller:
        """The network for this instance, which can act in many clusters at a time."""
        configuration, weights = self.checkpoint.configuration, self.checkpoint.weights
        moments = [np.asarray(self.checkpoint.observation[name]) for name in ("mean", "var")]
        self._require_features(len(moments[0]))
        center, table = None, None
        count = action_count(instance)
        if configuration.control == "routing":
            count = routing_action_count(instance, configuration.candidates)
        actions: spaces.Space[Any] = spaces.Discrete(count)
        if configuration.control == "interval":
            run = interval_configuration(configuration, instance, n_gpus)
            center = action_center(configuration, run.plan_action(plan))
            actions = spaces.Box(-1.0, 1.0, center.shape, np.float32)
        if configuration.network == "per-class":
            table = class_parameters(run, plan)
            moments = [moments_for(m, instance.n_classes) for m in moments]
        size = configuration.frame_stack * len(moments[0])
        observations = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        try:
            policy = acting_policy(configuration, weights, observations, actions, table)
        except ValueError as error:
            raise CheckpointError(
                f"checkpoint: got weights of another network ({' '.join(str(error).split())}), "
                "expected a file that `llmsched train` wrote"
            ) from None
        return Controller(
            policy,
            *moments,
            frames=configuration.frame_stack,
            center=center,
            scale=configuration.residual_scale,
        )
