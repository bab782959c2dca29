"""Convert the running moments of the observations to plain data and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llm_sched_env.errors import CheckpointError, is_finite_number
from llm_sched_env.files.records import from_plain

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecNormalize

_PLACES = {"observation": "obs_rms", "return": "ret_rms"}


def normaliser_statistics(venv: VecNormalize) -> dict[str, Any]:
    """Running moments of observations and returns."""
    return {name: _plain(getattr(venv, place)) for name, place in _PLACES.items()}


def observation_moments(venv: VecNormalize) -> dict[str, Any]:
    """Mean and var of the observations."""
    moments = _plain(venv.obs_rms)
    return {"mean": moments["mean"], "var": moments["var"]}


def restore_normaliser(venv: VecNormalize, statistics: dict[str, Any]) -> None:
    """Put saved moments back; raises CheckpointError for those of other observations."""
    for name, place in _PLACES.items():
        saved, moments = statistics[name], getattr(venv, place)
        mean, var = np.asarray(saved["mean"]), np.asarray(saved["var"])
        if mean.shape != np.shape(moments.mean):
            raise CheckpointError(
                f"checkpoint: got moments of {name}s of shape {mean.shape}, "
                f"expected {np.shape(moments.mean)}, as its configuration has them"
            )
        moments.mean, moments.var, moments.count = mean, var, saved["count"]


def checked_moments(data: Any, where: str) -> dict[str, Any]:
    """What :func:`normaliser_statistics` says of observations or of returns, as it was read.

    Raises:
        ValueError: for other data, one line.
    """
    if not isinstance(data, dict) or data.keys() != {"mean", "var", "count"}:
        raise ValueError(f"{where} is not mean, var and count")
    kind: Any = list[float] if isinstance(data["mean"], list) else float
    read = {name: from_plain(kind, data[name], f"{where} {name}") for name in ("mean", "var")}
    read["count"] = from_plain(float, data["count"], f"{where} count")
    check_moments(read["mean"], read["var"], where)
    if not is_finite_number(read["count"]):
        raise ValueError(f"{where} count is {read['count']}, expected a finite number >= 0")
    return read


def check_moments(mean: Any, var: Any, where: str) -> None:
    """Raise ValueError unless both are finite, of one shape, and the variance is none below 0."""
    if np.shape(mean) != np.shape(var):
        raise ValueError(f"{where} has {np.size(mean)} means and {np.size(var)} variances")
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and np.min(var, initial=0.0) >= 0):
        raise ValueError(f"{where} has a mean or variance that is none")


def _plain(moments: Any) -> dict[str, Any]:
    return {
        "mean": np.asarray(moments.mean).tolist(),
        "var": np.asarray(moments.var).tolist(),
        "count": float(moments.count),
    }
