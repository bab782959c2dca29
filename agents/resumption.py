"""Go on with a training exactly: the same episodes, and the same random numbers from there on.

At a checkpoint at which every environment begins an episode, nothing of the environments has to be
saved: which episode begins follows from the seed and the number of steps. So a training of PPO that
was killed ends with the weights of one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.errors import CheckpointError

Arrays = Mapping[str, np.ndarray]

_EXACT = ("ppo", "recurrent-ppo")
_NUMPY, _TORCH = "random:numpy", "random:torch"
_MERSENNE_TWISTER = "MT19937"
_WORDS = 624


def random_states() -> dict[str, np.ndarray]:
    """The states of the generators that PPO draws from, as arrays of a checkpoint."""
    state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - stable-baselines3 draws from it
    words, position = state["state"]["key"], state["state"]["pos"]
    return {_NUMPY: np.append(words, np.uint32(position)), _TORCH: torch.get_rng_state().numpy()}


def episodes_begun(
    configuration: TrainingConfiguration, arrays: Arrays | None, steps: int
) -> int | None:
    """How many episodes every environment has begun if the last has just begun, else None.

    Args:
        configuration: of the training.
        arrays: of the learner that was saved; without random states there is no exact way.
        steps: environment steps so far.
    """
    length = configuration.horizon / configuration.interval
    if (
        arrays is None
        or not {_NUMPY, _TORCH} <= arrays.keys()
        or configuration.algorithm not in _EXACT
        or configuration.control != "interval"
        or not length.is_integer()
    ):
        return None
    episodes, rest = divmod(steps, int(length) * configuration.n_envs)
    return None if rest else episodes + 1


def begin_episode(
    model: BaseAlgorithm, venv: VecEnv, normaliser: VecNormalize, seed: int, episodes: int
) -> None:
    """Put a model where the last of so many episodes begins; its moments have seen that already."""
    venv.seed(seed)
    normaliser.training = False
    for _ in range(episodes):
        observations = venv.reset()
    normaliser.training = True
    placed: Any = model
    placed._last_obs = observations  # noqa: SLF001 - else learning begins with another episode
    placed._last_episode_starts = np.ones(venv.num_envs, np.bool_)  # noqa: SLF001


def restore_random_states(arrays: Arrays) -> None:
    """Draw on where a checkpoint stopped; raises CheckpointError for what is no state.

    Checkpoints of earlier versions have none, and change nothing.
    """
    if not {_NUMPY, _TORCH} <= arrays.keys():
        return
    words, state = arrays[_NUMPY], arrays[_TORCH]
    if words.shape != (_WORDS + 1,) or words.dtype != np.uint32 or words[-1] > _WORDS:
        raise CheckpointError("checkpoint: got random numbers of another generator; train it anew")
    kept = {"key": words[:-1], "pos": int(words[-1])}
    np.random.set_state(  # noqa: NPY002
        {"bit_generator": _MERSENNE_TWISTER, "state": kept, "has_gauss": 0, "gauss": 0.0}
    )
    try:
        torch.set_rng_state(torch.as_tensor(state))
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint: got random numbers of another generator ({error}); train it anew"
        ) from None
