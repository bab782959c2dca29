"""Build the training environment: the native vector environment and its wrappers."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    unwrap_vec_normalize,
)

from llm_sched_env.agents.class_network import ClassPooledMoments
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.control_variates import BeyondGroup, BeyondReference
from llm_sched_env.agents.lagrangian import LagrangianRewards, Multipliers
from llm_sched_env.agents.residual_actions import ResidualActions, action_center
from llm_sched_env.envs.sb3 import (
    LLMSchedEventSB3VecEnv,
    LLMSchedRoutingSB3VecEnv,
    LLMSchedSB3VecEnv,
    SB3VecEnv,
)
from llm_sched_env.tasks.environments import make_vector_task


def make_environment(configuration: TrainingConfiguration) -> VecEnv:
    """Raw returns recorded, then actions, reward, normaliser and frames as configured."""
    if configuration.control != "interval":
        return VecNormalize(VecMonitor(_decisions(configuration)), gamma=configuration.discount)
    native = _intervals(configuration)
    center = action_center(configuration, native.vector_env.control.plan_action)
    venv: VecEnv = VecMonitor(native)
    if configuration.reward_reference == "center":
        venv = BeyondReference(venv, _intervals(configuration), center)
    elif configuration.reward_reference == "group":
        venv = BeyondGroup(venv, configuration.group_size)
    if configuration.constraint == "lagrangian":
        control = native.vector_env.control
        costs, gains = control.configuration.costs, configuration
        multipliers = Multipliers.of(
            costs, control.cluster, gains.multiplier_gain, gains.multiplier_rate
        )
        venv = LagrangianRewards(venv, multipliers, control.configuration.steps)
    venv = ResidualActions(venv, center, configuration.residual_scale)
    venv = VecNormalize(venv, gamma=configuration.discount)
    if configuration.network == "per-class":
        pooled: Any = ClassPooledMoments(len(configuration.instance["classes"]))
        venv.obs_rms = pooled
    if configuration.frame_stack > 1:
        return VecFrameStack(venv, configuration.frame_stack)
    return venv


def normaliser_of(venv: VecEnv) -> VecNormalize:
    """The normaliser among the wrappers."""
    found = unwrap_vec_normalize(venv)
    assert found is not None
    return found


def _intervals(configuration: TrainingConfiguration) -> SB3VecEnv:
    if configuration.task:
        return SB3VecEnv(
            make_vector_task(configuration.task, configuration.n_envs, AutoresetMode.SAME_STEP)
        )
    grouped = configuration.reward_reference == "group"
    return LLMSchedSB3VecEnv(
        configuration.n_envs,
        same_requests=configuration.group_size if grouped else 1,
        n_gpus=configuration.n_gpus,
        instance=configuration.instance,
        pricing=configuration.pricing,
        horizon=configuration.horizon,
        start=configuration.start,
        budgets=configuration.budgets,
        **configuration.environment,
    )


def _decisions(configuration: TrainingConfiguration) -> VecEnv:
    at_events = configuration.control == "event"
    form = LLMSchedEventSB3VecEnv if at_events else LLMSchedRoutingSB3VecEnv
    return form(
        configuration.n_envs,
        n_gpus=configuration.n_gpus,
        instance=configuration.instance,
        pricing=configuration.pricing,
        horizon=configuration.horizon,
        start=configuration.start,
        **configuration.environment,
    )
