"""Warm start: clone the actions of a rule, and fit the critic to the returns of the rule."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch.nn.functional import mse_loss

from llm_sched_env.agents.algorithms import (
    decision_control,
    interval_configuration,
    routing_configuration,
)
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.residual_actions import action_center, centered_action
from llm_sched_env.baselines.event_rules import EventRule
from llm_sched_env.baselines.routing_rules import RoutingRule
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.policies.registry import PythonPolicy, resolve_policy
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule

_TEACHING_SEED = 2_000_003
_MEASURED_STEPS = 6_400
_EPOCHS, _BATCH, _LEARNING_RATE = 30, 400, 1e-3


@dataclass(frozen=True)
class Demonstrations:
    """What a policy saw, did and earned in K clusters over T decisions.

    Attributes:
        observations: shape (T, K, F).
        actions: targets of the network, in [-1, 1], shape (T, K, A), or integers, shape (T, K).
        rewards: shape (T, K).
        masks: of possible actions where there are such, bool, shape (T, K, A); else None.
        seconds: mean time between decisions.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    masks: np.ndarray | None
    seconds: float


class ConstantControls:
    """The plan as a fixed-step policy: what a compiled rule does there."""

    def __init__(self, controls: np.ndarray) -> None:
        self._controls = controls

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Nothing changes from run to run."""

    def act(
        self,
        observation: np.ndarray,  # noqa: ARG002 - part of the protocol
        info: dict[str, Any],  # noqa: ARG002
    ) -> np.ndarray:
        """The same controls in every interval."""
        return self._controls


def demonstrate(configuration: TrainingConfiguration) -> Demonstrations:
    """Let ``configuration.imitate`` act, in as many clusters as the training has."""
    n = configuration.n_envs
    control: Any  # the two kinds have the same methods, each for its own reports
    control, teachers = _classroom(configuration)
    for k in range(n):
        control.start(k, replication_seed(_TEACHING_SEED, k), configuration.start)
        rng = np.random.default_rng([_TEACHING_SEED, k])
        teachers[k].reset(control.plan.given, control.plan, configuration.n_gpus, rng)
    seen, done, earned, masks = [], [], [], []
    report = control.report()
    for _ in range(-(-configuration.imitation_steps // n)):
        seen.append(report.observations)
        infos = [control.info(k, report) for k in range(n)]
        actions = np.stack([teachers[k].act(seen[-1][k], infos[k]) for k in range(n)])
        if not isinstance(control, IntervalControl):
            masks.append(control.action_masks())
        report = control.empty_report()
        control.step(actions, report)
        done.append(actions)
        earned.append(report.rewards)
    targets = np.stack(done)
    if isinstance(control, IntervalControl):
        center = action_center(configuration, control.plan_action)
        targets = centered_action(targets, center, configuration.residual_scale)
    return Demonstrations(
        np.stack(seen),
        targets,
        np.stack(earned),
        np.stack(masks) if masks else None,
        float(control.times().mean()) / len(done),
    )


def with_measured_interval(configuration: TrainingConfiguration) -> TrainingConfiguration:
    """A training whose ``interval``, where it is not fixed, is the mean time between decisions."""
    if configuration.control == "interval":
        return configuration
    short = dataclasses.replace(configuration, imitation_steps=_MEASURED_STEPS)
    return dataclasses.replace(configuration, interval=demonstrate(short).seconds)


def _classroom(
    configuration: TrainingConfiguration,
) -> tuple[IntervalControl | EventControl | RoutingControl, list[PythonPolicy]]:
    """Clusters without an end, and who acts in each."""
    name, n = configuration.imitate, configuration.n_envs
    _, rule = resolve_policy(name)
    endless = 1e9
    if configuration.control != "interval":
        teachers = [_teacher(configuration, name, rule) for _ in range(n)]
        _require_same_actions(configuration, name, teachers[0])
        # Requests that share prefixes are drawn in advance.
        long = endless if configuration.control == "event" else _taught_seconds(configuration)
        return decision_control(configuration, n, long), teachers
    control = IntervalControl(interval_configuration(configuration, horizon=endless), n)
    if isinstance(rule, DispatchRule):
        if rule != control.configuration.rule:
            raise ConfigurationError(
                "imitate", name, "the rule that the environment runs with these settings"
            )
        return control, [ConstantControls(control.plan_action) for _ in range(n)]
    _require_same_actions(configuration, name, rule)
    # Each cluster has a policy of its own, since policies remember.
    return control, [_python(resolve_policy(name)[1]) for _ in range(n)]


def _taught_seconds(configuration: TrainingConfiguration) -> float:
    """Until enough requests have come to each cluster, with room to spare."""
    instance = routing_configuration(configuration).cluster.instance
    rate = configuration.n_gpus * float(instance.arrival_rates.sum())
    steps = max(configuration.imitation_steps, _MEASURED_STEPS) / configuration.n_envs
    return (2.0 * steps + 100.0) / rate


def _teacher(configuration: TrainingConfiguration, name: str, rule: object) -> PythonPolicy:
    """A compiled rule as a policy that decides request by request."""
    if not isinstance(rule, DispatchRule):
        raise ConfigurationError("imitate", name, "a compiled rule, for decisions at events")
    if configuration.control == "event":
        return EventRule(rule)
    return RoutingRule(rule.router, configuration.candidates, configuration.refresh_seconds)


def _python(policy: DispatchRule | PythonPolicy) -> PythonPolicy:
    assert not isinstance(policy, DispatchRule)
    return policy


def _require_same_actions(
    configuration: TrainingConfiguration, name: str, teacher: PythonPolicy
) -> None:
    own = dict(configuration.environment)
    own.pop("scheduler", None)  # of the GPUs, under whatever routes
    meant = getattr(teacher, "environment", {})
    if any(meant.get(key, value) != value for key, value in own.items()):
        raise ConfigurationError("imitate", name, f"a policy for the environment {own}")


def clone(model: BaseAlgorithm, venv: VecNormalize, configuration: TrainingConfiguration) -> float:
    """Fit actor and critic of a fresh model, and its normaliser, to demonstrations.

    Returns:
        Mean loss of the actor in the last epoch: squared error of the mean action, or the
        negative log-likelihood of the chosen actions.
    """
    shown = demonstrate(configuration)
    gamma = configuration.discount
    flat = shown.observations.reshape(-1, shown.observations.shape[2])
    venv.obs_rms.update(flat)
    venv.ret_rms.update(_earned_so_far(shown.rewards, gamma).ravel())
    scaled = torch.as_tensor(venv.normalize_obs(flat))
    worth = _earned_from_now(shown.rewards, gamma).ravel() / np.sqrt(venv.ret_rms.var)
    return _fit(
        model.policy,
        scaled,
        torch.as_tensor(shown.actions.reshape(len(flat), *shown.actions.shape[2:])),
        torch.as_tensor(worth, dtype=torch.float32),
        None if shown.masks is None else shown.masks.reshape(len(flat), -1),
    )


def _earned_so_far(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """What VecNormalize scales rewards by: discounted sums of the past, shape (T, K)."""
    sums = np.zeros_like(rewards)
    running = np.zeros(rewards.shape[1])
    for t, reward in enumerate(rewards):
        running = gamma * running + reward
        sums[t] = running
    return sums


def _earned_from_now(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """Discounted sums of the future, shape (T, K); beyond the end the mean goes on."""
    sums = np.zeros_like(rewards)
    running = np.full(rewards.shape[1], rewards.mean() / (1.0 - gamma))
    for t in range(len(rewards) - 1, -1, -1):
        running = rewards[t] + gamma * running
        sums[t] = running
    return sums


def _fit(
    policy: Any,
    observations: torch.Tensor,
    actions: torch.Tensor,
    worth: torch.Tensor,
    masks: np.ndarray | None,
) -> float:
    optimizer = torch.optim.Adam(policy.parameters(), lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(_TEACHING_SEED)
    policy.set_training_mode(True)
    for _ in range(_EPOCHS):
        losses = []
        shuffled: Any = torch.randperm(len(worth), generator=generator)
        for batch in shuffled.split(_BATCH):
            if masks is None:
                mean = policy.get_distribution(observations[batch]).mode()
                actor = mse_loss(mean, actions[batch].float())
                values = policy.predict_values(observations[batch])
            else:
                values, likelihood, _ = policy.evaluate_actions(
                    observations[batch], actions[batch], masks[batch.numpy()]
                )
                actor = -likelihood.mean()
            loss: Any = actor + mse_loss(values.flatten(), worth[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(actor.detach()))
    return float(np.mean(losses))
