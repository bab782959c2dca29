"""Coefficients of iteration times, as the accounting program has them."""

from __future__ import annotations

from typing import NamedTuple

from llm_sched_env.model.hardware import Hardware


class IterationTimes(NamedTuple):
    """Coefficients of an iteration's seconds; those that a law does not have are 0.

    Attributes:
        solo: of an iteration without a prefill; per decode; per token of context.
        mixed: of one with a chunk; per prompt token; per decode; per token of context; per prompt
            token and token that it attends to.
    """

    solo: tuple[float, float, float]
    mixed: tuple[float, float, float, float, float]


def iteration_times(hardware: Hardware) -> IterationTimes:
    """What no iteration beats: the KV-aware law itself, else the two speeds."""
    solo, mixed = hardware.solo, hardware.mixed
    if solo is None or mixed is None:
        return IterationTimes(
            (hardware.tau_solo, 0.0, 0.0), (hardware.tau_mixed, 0.0, 0.0, 0.0, 0.0)
        )
    return IterationTimes(
        (solo.seconds, solo.per_decode, solo.per_kv_token),
        (
            mixed.seconds,
            mixed.per_prompt_token,
            mixed.per_decode,
            mixed.per_kv_token,
            mixed.per_prompt_token_context,
        ),
    )
