"""Convert actions, which are shares in [0, 1], to the engine's controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.fluid_plan import POOL_ROUNDING
from llm_sched_env.simulation.runtime.compiled import entry_point

# Actions this far outside [0, 1] are rounding of a float32 computation, beyond it an error.
_ROUNDING = 1e-6
# Rounding noise of a reserve, also of a float32 share, that does not keep one more slot free.
_RESERVE_ROUNDING = 1.0 - 1e-5


@entry_point
def apply_actions(
    actions: np.ndarray,
    controlled: np.ndarray,
    n_pairs: int,
    group_sizes: np.ndarray,
    controls: np.ndarray,
) -> bool:
    """Write the actions of N clusters into their controls.

    Args:
        actions: shape (N, A).
        controlled: the place of each part among the controls, shape (A,).
        n_pairs: P, pairs of a class and a group of GPUs.
        group_sizes: GPUs of each group, shape (G,); a mixed pool is in GPUs, its action a share.
        controls: shape (N, 2P + G) or (N, 4P + G); parts that are not controlled stay. A reserve
            of r slots has the action r / (1 + r): 1 keeps the class out.

    Returns:
        False if an action is not a number in [0, 1].
    """
    first_pool = 2 * n_pairs
    first_rank = first_pool + len(group_sizes)
    first_reserve = first_rank + n_pairs
    for k in range(len(actions)):
        for j in range(len(controlled)):
            share = actions[k, j]
            # Written so that NaN fails.
            if not (-_ROUNDING <= share <= 1.0 + _ROUNDING):
                return False
            share = min(1.0, max(0.0, share))
            place = controlled[j]
            if first_pool <= place < first_rank:
                size = float(group_sizes[place - first_pool])
                share = min(size, np.ceil(size * share * POOL_ROUNDING))
            elif place >= first_reserve:
                share = share / (1.0 - share) * _RESERVE_ROUNDING if share < 1.0 else np.inf
            controls[k, place] = share
    return True


def rank_shares(ranks: np.ndarray) -> np.ndarray:
    """Priorities and reserves as actions in [0, 1].

    Args:
        ranks: rows priority, in any unit, and reserve, slots, shape (2, P).

    Returns:
        Shape (2P,). Only the order of priorities matters: they are places in it, evenly spaced in
        [0, 1], ties kept. A reserve of r slots is r / (1 + r). Free slots are whole numbers, so r
        is put half way to the slot that it needs: also as float32 it then keeps as many free, in
        clusters of up to 4000 slots.
    """
    priority, reserve = np.asarray(ranks, float)
    places = np.unique(priority, return_inverse=True)[1]
    halfway = np.maximum(0.0, np.ceil(reserve) - 0.5)
    with np.errstate(invalid="ignore"):
        kept = np.where(np.isinf(reserve), 1.0, halfway / (1.0 + halfway))
    return np.concatenate([places / max(1, places.max()), kept])


def as_actions(actions: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Actions as floats of the given shape; raises ConfigurationError."""
    try:
        array = np.asarray(actions)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    # Texts and complex numbers would be converted, too: to something else than was given.
    if array.dtype.kind not in "biuf":
        raise ConfigurationError("action", actions, f"numbers of shape {shape}")
    if array.shape != shape:
        raise ConfigurationError("action", array.shape, f"shape {shape}")
    return np.ascontiguousarray(array, dtype=np.float64)


def bad_action(actions: np.ndarray) -> ConfigurationError:
    """The error for actions that are not all in [0, 1]."""
    return ConfigurationError(
        "action", actions.tolist(), "finite numbers in [0, 1]", "clip or rescale them"
    )
