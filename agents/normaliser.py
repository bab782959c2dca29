"""The running moments of a training as plain data, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
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
    """Put saved moments back."""
    for name, place in _PLACES.items():
        saved, moments = statistics[name], getattr(venv, place)
        moments.mean, moments.var = np.asarray(saved["mean"]), np.asarray(saved["var"])
        moments.count = saved["count"]


def _plain(moments: Any) -> dict[str, Any]:
    return {
        "mean": np.asarray(moments.mean).tolist(),
        "var": np.asarray(moments.var).tolist(),
        "count": float(moments.count),
    }
