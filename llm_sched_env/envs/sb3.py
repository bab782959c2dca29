"""The stable-baselines3 forms of the vector environments (extra ``agents``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from llm_sched_env.envs.cluster_vector import ClusterVectorEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv


class _SB3VecEnv(VecEnv):
    """N environments in one compiled call, as a stable-baselines3 ``VecEnv``.

    Finished episodes start anew at once: ``infos[k]`` then has ``terminal_observation`` and
    ``TimeLimit.truncated``, so that time limits are bootstrapped.

    Args:
        vector_env: in the autoreset mode SAME_STEP.
    """

    scalar_infos: tuple[str, ...] = ("time",)
    """What ``infos[k]`` tells beside the revenue."""

    def __init__(self, vector_env: ClusterVectorEnv[Any, Any]) -> None:
        self.vector_env = vector_env
        super().__init__(
            vector_env.num_envs,
            vector_env.single_observation_space,
            vector_env.single_action_space,
        )
        self._actions = np.zeros((self.num_envs, *(self.action_space.shape or ())))

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere, with the seeds given to ``seed`` if any."""
        seeds = None if self._seeds[0] is None else self._seeds
        observations, _ = self.vector_env.reset(seed=seeds)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [{} for _ in range(self.num_envs)]
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the actions."""
        observations, rewards, _, truncated, infos = self.vector_env.step(self._actions)
        final: Any = infos.get("final_obs")
        ended = infos.get("final_info", infos)
        plain: list[dict[str, Any]] = []
        for k in range(self.num_envs):
            source = ended if truncated[k] else infos
            revenue = {name: float(source["revenue"][name][k]) for name in ("prompt", "output")}
            info: dict[str, Any] = {name: float(source[name][k]) for name in self.scalar_infos}
            info["revenue"] = revenue
            for name in ("slis", "penalties"):
                if name in source:
                    own = source[name]
                    info[name] = {n: float(own[n][k]) for n in own if f"_{n}" in own}
            if truncated[k]:
                info["terminal_observation"] = final[k]
                info["TimeLimit.truncated"] = True
            plain.append(info)
        return observations, rewards.astype(np.float32), truncated.copy(), plain

    def close(self) -> None:
        """Release the environments."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the vector environment, once per index."""
        return [getattr(self.vector_env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sub-environments share one object: attributes cannot be set."""
        raise NotImplementedError(f"{attr_name}: set it in the constructor")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Call a method of the vector environment, once per index."""
        method = getattr(self.vector_env, method_name)
        return [method(*args, **kwargs) for _ in self._get_indices(indices)]

    def env_is_wrapped(
        self,
        wrapper_class: type,  # noqa: ARG002 - part of the interface
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        """No sub-environment is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """There are no images."""
        return [None] * self.num_envs


class LLMSchedSB3VecEnv(_SB3VecEnv):
    """N ``LLMSched-v0`` as a ``VecEnv``.

    Args:
        num_envs: N.
        same_requests: so many consecutive environments share their seed, and so the requests of
            every episode (common random numbers).
        **kwargs: as for :class:`llm_sched_env.envs.vector_env.LLMSchedVectorEnv`.
    """

    def __init__(self, num_envs: int, same_requests: int = 1, **kwargs: Any) -> None:
        super().__init__(LLMSchedVectorEnv(num_envs, autoreset_mode="SAME_STEP", **kwargs))
        self._same_requests = same_requests

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds of the next :meth:`reset`: group k of environments gets ``seed`` + k."""
        drawn = super().seed(seed)
        self._seeds = [drawn[k // self._same_requests] for k in range(self.num_envs)]
        return self._seeds


class LLMSchedEventSB3VecEnv(_SB3VecEnv):
    """N ``LLMSchedEvent-v0`` as a ``VecEnv`` with action masks, for ``MaskablePPO``.

    Args:
        num_envs: N.
        **kwargs: as for :class:`llm_sched_env.envs.event_vector_env.LLMSchedEventVectorEnv`.
    """

    scalar_infos = ("time", "elapsed_seconds")

    def __init__(self, num_envs: int, **kwargs: Any) -> None:
        self._events = LLMSchedEventVectorEnv(num_envs, autoreset_mode="SAME_STEP", **kwargs)
        super().__init__(self._events)

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """As the other form has it, but ``action_masks`` gives each environment its own."""
        if method_name != "action_masks":
            return super().env_method(method_name, *args, indices=indices, **kwargs)
        masks = self._events.action_masks()
        return [masks[k] for k in self._get_indices(indices)]
