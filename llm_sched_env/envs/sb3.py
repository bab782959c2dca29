"""The stable-baselines3 forms of the vector environments (extra ``agents``)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from llm_sched_env.envs.cluster_vector import ClusterVectorEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.envs.routing_vector_env import LLMSchedRoutingVectorEnv
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError, checked_integer

# Attributes of one environment, by the names that the vector environment has for them.
_ATTRIBUTES = {
    "action_space": "single_action_space",
    "observation_space": "single_observation_space",
}
# Methods of one environment, and those of the vector environment that answer for each.
_METHODS = {"action_masks": "action_masks", "render": "render", "save_state": "save_states"}


class SB3VecEnv(VecEnv):
    """A native vector environment, that of a registered task too, as a ``VecEnv``.

    It is to ``DummyVecEnv`` what the vector environment is to ``SyncVectorEnv``: the same
    observations, rewards and infos. Finished episodes start anew at once: ``infos[k]`` then has
    ``terminal_observation``, ``TimeLimit.truncated`` is True, so that time limits are
    bootstrapped, and ``reset_infos[k]`` is of the new episode.

    Args:
        vector_env: in the autoreset mode SAME_STEP.

    Example:
        >>> import gymnasium as gym
        >>> import llm_sched_env
        >>> mode = gym.vector.AutoresetMode.SAME_STEP
        >>> envs = gym.make_vec("LLMSched/Bursts-v0", num_envs=4, autoreset_mode=mode)
        >>> SB3VecEnv(envs).reset().shape
        (4, 16)
    """

    def __init__(self, vector_env: ClusterVectorEnv[Any, Any]) -> None:
        self.vector_env = vector_env
        super().__init__(
            vector_env.num_envs,
            vector_env.single_observation_space,
            vector_env.single_action_space,
        )
        self.metadata["render_fps"] = vector_env.metadata["render_fps"]
        self._actions = np.zeros((self.num_envs, *(self.action_space.shape or ())))

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere, with what ``seed`` and ``set_options`` were given.

        Raises:
            ConfigurationError: for options that no single environment takes.
        """
        observations, infos = self.vector_env.reset_each(self._seeds, self._options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = _infos_by_environment(infos, self.num_envs)
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the actions."""
        observations, rewards, _, truncated, infos = self.vector_env.step(self._actions)
        told = _infos_by_environment(infos.get("final_info", infos), self.num_envs)
        for k, info in enumerate(told):
            info["TimeLimit.truncated"] = bool(truncated[k])
        if truncated.any():
            begun = _infos_by_environment(infos, self.num_envs)
            for k in np.flatnonzero(truncated).tolist():
                told[k]["terminal_observation"] = infos["final_obs"][k]
                self.reset_infos[k] = begun[k]
        return observations, rewards.astype(np.float32), truncated.copy(), told

    def close(self) -> None:
        """Release the environments."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of each environment, which they share unless it is a method."""
        if attr_name in _METHODS:
            getattr(self.vector_env, _METHODS[attr_name])  # an AttributeError where there is none
            return [partial(self._answer, attr_name, k) for k in self._get_indices(indices)]
        value = getattr(self.vector_env, _ATTRIBUTES.get(attr_name, attr_name))
        return [value for _ in self._get_indices(indices)]

    def _answer(self, method_name: str, k: int) -> Any:
        """What a method of environment k returns."""
        return self.env_method(method_name, indices=k)[0]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sub-environments share one object: attributes cannot be set."""
        raise NotImplementedError(f"{attr_name}: set it in the constructor")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment: ``action_masks``, ``render`` or ``save_state``.

        Raises:
            NotImplementedError: for methods that only all environments have together, as ``reset``.
        """
        if method_name not in _METHODS:
            alone = ", ".join(_METHODS)
            raise NotImplementedError(
                f"{method_name}: environments share one object, alone they have {alone}"
            )
        answers = getattr(self.vector_env, _METHODS[method_name])(*args, **kwargs)
        return [None if answers is None else answers[k] for k in self._get_indices(indices)]

    def env_is_wrapped(
        self,
        wrapper_class: type,  # noqa: ARG002 - part of the interface
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        """No sub-environment is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """A picture of each cluster with ``render_mode="rgb_array"``; else None, with a warning."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"no images: render_mode is {self.render_mode!r}, not 'rgb_array'", stacklevel=2
            )
            return [None] * self.num_envs
        return list(self.vector_env.render() or ())


def _infos_by_environment(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Infos of a vector environment as single environments tell them, fresh."""
    told: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for name, values in infos.items():
        if f"_{name}" not in infos or name in ("final_obs", "final_info"):
            continue
        if isinstance(values, dict):
            rows: Sequence[Any] = _infos_by_environment(values, num_envs)
        else:
            rows = values.tolist() if values.ndim == 1 else list(values)
        for info, row in zip(told, rows, strict=True):
            info[name] = row
    return told


class LLMSchedSB3VecEnv(SB3VecEnv):
    """N ``LLMSched-v0`` as a ``VecEnv``.

    Args:
        num_envs: N.
        same_requests: so many consecutive environments share their seed, and so the requests of
            every episode (common random numbers); a divisor of N.
        **kwargs: as for :class:`llm_sched_env.envs.vector_env.LLMSchedVectorEnv`.
    """

    def __init__(self, num_envs: int, same_requests: int = 1, **kwargs: Any) -> None:
        self._same_requests = checked_integer("same_requests", same_requests)
        if checked_integer("num_envs", num_envs) % self._same_requests:
            raise ConfigurationError(
                "same_requests", same_requests, f"a divisor of num_envs, {num_envs}"
            )
        super().__init__(LLMSchedVectorEnv(num_envs, autoreset_mode="SAME_STEP", **kwargs))
        if self._same_requests > 1:
            # Groups share their requests also where seed is not called.
            self.seed(int(np.random.default_rng().integers(2**32)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds of the next :meth:`reset`: group k of environments gets ``seed`` + k."""
        drawn = super().seed(seed)
        self._seeds = [drawn[k // self._same_requests] for k in range(self.num_envs)]
        return self._seeds


class LLMSchedEventSB3VecEnv(SB3VecEnv):
    """N ``LLMSchedEvent-v0`` as a ``VecEnv`` with action masks, for ``MaskablePPO``.

    Args:
        num_envs: N.
        **kwargs: as for :class:`llm_sched_env.envs.event_vector_env.LLMSchedEventVectorEnv`.
    """

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(LLMSchedEventVectorEnv(num_envs, autoreset_mode="SAME_STEP", **kwargs))


class LLMSchedRoutingSB3VecEnv(SB3VecEnv):
    """N ``LLMSchedRouting-v0`` as a ``VecEnv`` with action masks, for ``MaskablePPO``.

    Args:
        num_envs: N.
        **kwargs: as for :class:`llm_sched_env.envs.routing_vector_env.LLMSchedRoutingVectorEnv`.
    """

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        super().__init__(LLMSchedRoutingVectorEnv(num_envs, autoreset_mode="SAME_STEP", **kwargs))
