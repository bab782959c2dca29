"""Actions: shares in [0, 1] that become the engine's controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.fluid import POOL_ROUNDING
from llm_sched_env.simulation.compiled import entry_point

# Actions this far outside [0, 1] are rounding of a float32 computation, beyond it an error.
_ROUNDING = 1e-6


@entry_point
def apply_actions(
    actions: np.ndarray, controlled: np.ndarray, n_gpus: int, controls: np.ndarray
) -> bool:
    """Write the actions of N clusters into their controls.

    Args:
        actions: shape (N, A).
        controlled: the place of each part in the full action (2I + 1), shape (A,).
        n_gpus: n; the last control is the mixed pool in GPUs, its action a share of n.
        controls: shape (N, 2I + 1); parts that are not controlled stay.

    Returns:
        False if an action is not a number in [0, 1].
    """
    pool = controls.shape[1] - 1
    for k in range(len(actions)):
        for j in range(len(controlled)):
            share = actions[k, j]
            # Written so that NaN fails.
            if not (-_ROUNDING <= share <= 1.0 + _ROUNDING):
                return False
            share = min(1.0, max(0.0, share))
            place = controlled[j]
            if place == pool:
                share = min(float(n_gpus), np.ceil(n_gpus * share * POOL_ROUNDING))
            controls[k, place] = share
    return True


def as_actions(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Actions as floats of the given shape; raises ConfigurationError."""
    try:
        array = np.asarray(actions, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigurationError("action", actions, f"numbers of shape {shape}") from None
    if array.shape != shape:
        raise ConfigurationError("action of shape", array.shape, f"shape {shape}")
    return np.ascontiguousarray(array)


def bad_action(actions: np.ndarray) -> ConfigurationError:
    """The error for actions that are not all in [0, 1]."""
    return ConfigurationError(
        "action", actions.tolist(), "finite numbers in [0, 1]", "clip or rescale them"
    )
