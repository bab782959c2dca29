"""Measure decisions per second of event-driven control, native and through Gymnasium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
from gymnasium.vector import SyncVectorEnv

from llm_sched_env.benchmarks.rounds import Spread, Work, pinned, ratio_spread, speeds
from llm_sched_env.benchmarks.vector_speed import N_GPUS, NUM_ENVS, AnyVectorEnv, VectorRow
from llm_sched_env.envs.event_env import LLMSchedEventEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.model.instance import Instance

_BASELINE = "SyncVectorEnv"
_FIRST_STEPS = 1.0
# The empty start is over.
_WARMUP_STEPS = 500


def measure_decisions(
    instance: Instance,
    runs: int = 5,
    seed: int = 0,
    seconds: float = 0.5,
    num_envs: int = NUM_ENVS,
    n_gpus: int = N_GPUS,
    on_run: Callable[[str], None] | None = None,
) -> list[VectorRow]:
    """Decisions per second on one CPU, all environments together.

    The agent takes the first possible action other than waiting; choosing it is timed, too.
    """

    def single() -> LLMSchedEventEnv:
        return LLMSchedEventEnv(n_gpus=n_gpus, instance=instance)

    works: dict[str, Work] = {
        "native": _stepping(
            LLMSchedEventVectorEnv(num_envs, n_gpus=n_gpus, instance=instance, threads=1), seed
        ),
        _BASELINE: _stepping(SyncVectorEnv([single] * num_envs), seed),
    }
    measured = speeds(works, runs, seconds, _FIRST_STEPS, on_run)
    rows = []
    for name in works:
        speed = Spread.of(measured[name])
        ratio = ratio_spread(measured[name], measured[_BASELINE])
        rows.append(VectorRow(name, num_envs, n_gpus, runs, *astuple(speed), *astuple(ratio)))
    return rows


def _stepping(envs: AnyVectorEnv, seed: int) -> Work:
    """Vector steps on one CPU; counts the decisions."""
    mask = envs.reset(seed=seed)[1]["action_mask"]

    def step(amount: float) -> float:
        nonlocal mask
        steps = max(1, round(amount))
        with pinned():
            for _ in range(steps):
                mask = envs.step(_first_possible(mask))[4]["action_mask"]
        return float(steps * envs.num_envs)

    step(_WARMUP_STEPS)
    return step


def _first_possible(masks: np.ndarray) -> np.ndarray:
    """The lowest possible action but 0, or 0 if there is none; masks of shape (N, A)."""
    return np.where(masks[:, 1:].any(axis=1), 1 + masks[:, 1:].argmax(axis=1), 0)
