"""Start of an episode, and the errors of stepping after its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from llm_sched_env.envs.cluster_control import SavedState
from llm_sched_env.envs.configuration import STARTS
from llm_sched_env.errors import ConfigurationError, LLMSchedError, checked_integer, one_of

# What ``gym.make`` takes for "no limit".
_NO_LIMIT = -1


class EpisodeError(LLMSchedError, ResetNeeded):
    """A step without a running episode: before the first reset, or after the end.

    Also Gymnasium's ``ResetNeeded``, which its wrapper ``OrderEnforcing`` raises.
    """


def no_episode(why: str, remedy: str = "`reset()`") -> EpisodeError:
    """The error of a step where no episode runs, and what to call first."""
    return EpisodeError(f"Call {remedy} before `step()`: {why}.")


def episode_seed(generator: np.random.Generator) -> np.random.SeedSequence:
    """The seed of the next episode of an environment with this generator."""
    return np.random.SeedSequence(generator.integers(0, 2**63, size=2).tolist())


def chosen_start(options: Mapping[str, Any] | None) -> str | SavedState | None:
    """The start asked for by reset options, or None for the environment's own.

    Raises:
        ConfigurationError: for options other than one of ``start`` and ``state``.
    """
    options = checked_options(options)
    if not options:
        return None
    if len(options) != 1 or next(iter(options)) not in ("start", "state"):
        got = sorted(map(str, options))
        raise ConfigurationError("reset options", got, 'either "start" or "state"')
    if "state" in options:
        state = options["state"]
        if not isinstance(state, SavedState):
            raise ConfigurationError(
                "reset option state", type(state).__name__, "a return value of save_state()"
            )
        return state
    if options["start"] not in STARTS:
        raise ConfigurationError("reset option start", options["start"], one_of(STARTS))
    start: str = options["start"]
    return start


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Reset options as a dict of one's own; raises ConfigurationError."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigurationError("reset options", options, "None or a dict")
    return dict(options or {})


def checked_step_limit(max_episode_steps: int | None) -> int | None:
    """The greatest number of steps of an episode, None without; raises ConfigurationError."""
    if max_episode_steps is None or max_episode_steps == _NO_LIMIT:
        return None
    return checked_integer("max_episode_steps", max_episode_steps)
