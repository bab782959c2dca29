"""The training state as plain arrays: networks, optimisers, counts, recent episodes.

Everything else about a model follows from its configuration, so the model is built anew and filled
with these arrays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm

from llm_sched_env.agents.archives import UNREADABLE, arrays_content, read_arrays
from llm_sched_env.agents.resumption import random_states
from llm_sched_env.errors import CheckpointError
from llm_sched_env.files.atomic import write_whole

Arrays = Mapping[str, np.ndarray]

# What Adam, the optimiser of every algorithm here, remembers of a parameter.
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_COUNTS = {"updates": "_n_updates", "episodes": "_episode_num"}
_TRANSITIONS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_MOST_REPLAY_BYTES = 8 * 2**30


def learner_arrays(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """The state of a model that learns.

    Names are ``NETWORK:PARAMETER``, ``OPTIMISER:K:MOMENT`` for its parameter k,
    ``variable:NAME``, ``count:NAME``, ``recent:returns`` and ``recent:lengths`` of the
    episodes that the training score is a mean over, and ``random:GENERATOR``.
    """
    found: dict[str, np.ndarray] = {}
    for owner, state in model.get_parameters().items():
        if _is_optimizer(model, owner):
            for k, moments in state["state"].items():
                found |= {f"{owner}:{k}:{name}": _array(v) for name, v in moments.items()}
        else:
            found |= {f"{owner}:{name}": _array(value) for name, value in state.items()}
    for name in _variables(model):
        found[f"variable:{name}"] = _array(_attribute(model, name))
    for name, place in _COUNTS.items():
        found[f"count:{name}"] = np.array(getattr(model, place), np.int64)
    episodes = list(model.ep_info_buffer or ())
    found["recent:returns"] = np.array([episode["r"] for episode in episodes])
    found["recent:lengths"] = np.array([episode["l"] for episode in episodes])
    return found | random_states()


def restore_learner(model: BaseAlgorithm, arrays: Arrays, steps: int) -> None:
    """Fill a fresh model.

    Args:
        model: of the configuration that the arrays were trained with.
        arrays: see :func:`learner_arrays`.
        steps: environment steps so far.

    Raises:
        CheckpointError: for arrays of another model.
    """
    rest = {name: array for name, array in arrays.items() if not name.startswith("random:")}
    filled: Any = {
        owner: _optimizer_state(owner, state, _attribute(model, owner), rest)
        if _is_optimizer(model, owner)
        else {name: _taken(rest, f"{owner}:{name}", value) for name, value in state.items()}
        for owner, state in model.get_parameters().items()
    }
    for name in _variables(model):
        variable = _attribute(model, name)
        variable.data = _taken(rest, f"variable:{name}", variable)
    counts = {place: _count(rest, f"count:{name}") for name, place in _COUNTS.items()}
    recent = [_vector(rest, f"recent:{name}") for name in ("returns", "lengths")]
    if rest or len(recent[0]) != len(recent[1]):
        raise _other_model(f"arrays {', '.join(sorted(rest)[:3])} too many")
    model.set_parameters(filled, exact_match=True, device="cpu")
    for place, count in counts.items():
        setattr(model, place, count)
    model.num_timesteps = steps
    episodes = [{"r": r, "l": length} for r, length in zip(*recent, strict=True)]
    window = model._stats_window_size  # noqa: SLF001
    model.ep_info_buffer = deque(episodes, maxlen=window)
    model.ep_success_buffer = deque(maxlen=window)
    if isinstance(model, ARS):
        # It moves a vector of its own and writes that to the network.
        moved: Any = model
        moved.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


def save_replay(model: Any, path: Path) -> None:
    """Write the transitions that a model of an off-policy algorithm learns from."""
    replay = model.replay_buffer
    count = replay.buffer_size if replay.full else replay.pos
    arrays = {name: getattr(replay, name)[:count] for name in _TRANSITIONS}
    write_whole(path, arrays_content(arrays | {"position": np.array(replay.pos)}))


def restore_replay(model: Any, path: Path) -> None:
    """Put saved transitions back; raises CheckpointError in one line."""
    replay = model.replay_buffer
    try:
        arrays = read_arrays(path, _MOST_REPLAY_BYTES)
        position, count = _count(arrays, "position"), len(arrays["rewards"])
        full = count == replay.buffer_size
        # A full buffer is written round and round, another one at its end.
        if count > replay.buffer_size or (position >= count if full else position != count):
            raise ValueError(f"position {position} in {count} transitions")
        for name in _TRANSITIONS:
            place = getattr(replay, name)
            saved = arrays.pop(name)
            if saved.dtype != place.dtype or saved.shape != (count, *place.shape[1:]):
                raise ValueError(f"{name} of shape {saved.shape} and type {saved.dtype}")
            place[:count] = saved
        if arrays:
            raise ValueError(f"unknown arrays {', '.join(sorted(arrays)[:3])}")
    except UNREADABLE as error:
        raise CheckpointError(
            f"transitions {path}: got no transitions of this training "
            f"({' '.join(str(error).split())}); remove the file to go on without them"
        ) from None
    replay.pos, replay.full = position, full


def _optimizer_state(
    owner: str, fresh: dict[str, Any], optimizer: Any, rest: dict[str, np.ndarray]
) -> dict[str, Any]:
    """The state of an optimiser that has begun, or of one that has not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {}
    for k, parameter in enumerate(parameters):
        # Parameters that no gradient has reached have no moments.
        if any(f"{owner}:{k}:{name}" in rest for name in _ADAM):
            likes = {name: torch.tensor(0.0) if name == "step" else parameter for name in _ADAM}
            state[k] = {n: _taken(rest, f"{owner}:{k}:{n}", like) for n, like in likes.items()}
    return {**fresh, "state": state}


def _taken(rest: dict[str, np.ndarray], name: str, like: torch.Tensor) -> torch.Tensor:
    """Take an array out, as a tensor of the shape and type that the model has there."""
    array = rest.pop(name, None)
    wanted = _array(like)
    if array is None or array.shape != wanted.shape or array.dtype != wanted.dtype:
        found = "nothing" if array is None else f"shape {array.shape} of {array.dtype}"
        raise _other_model(f"{name} is {found}, not shape {wanted.shape} of {wanted.dtype}")
    return torch.as_tensor(array)


def _count(rest: dict[str, np.ndarray], name: str) -> int:
    array = rest.pop(name, None)
    if array is None or array.shape != () or array.dtype.kind not in "iu" or array < 0:
        raise _other_model(f"{name} is no count")
    return int(array)


def _vector(rest: dict[str, np.ndarray], name: str) -> np.ndarray:
    array = rest.pop(name, None)
    if array is None or array.ndim != 1:
        raise _other_model(f"{name} is no row of numbers")
    return array


def _other_model(reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint: got the state of another learner ({reason}), "
        "expected that of its configuration; train it anew"
    )


def _variables(model: Any) -> list[str]:
    """Tensors that are learned and belong to no network, such as the weight of entropy."""
    _, names = model._get_torch_save_params()  # noqa: SLF001 - SB3 has no public name for it
    return [name for name in names if _attribute(model, name) is not None]


def _is_optimizer(model: BaseAlgorithm, owner: str) -> bool:
    return isinstance(_attribute(model, owner), torch.optim.Optimizer)


def _attribute(model: Any, path: str) -> Any:
    """An attribute of the model's own, such as ``policy.optimizer``."""
    for name in path.split("."):
        model = getattr(model, name)
    return model


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
