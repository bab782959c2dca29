"""Groups of GPUs as the accounting program has them: how long iterations take, and what is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.hardware import Hardware

ROLES = ("mixed", "prefill", "decode")


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


@dataclass(frozen=True)
class GpuGroup:
    """GPUs of one kind.

    Args:
        name: of the group.
        hardware: of each of its GPUs.
        share: of the cluster's GPUs.
        role: ``mixed``, ``prefill`` (no decodes) or ``decode`` (no prefills).
        link_tokens: tokens per second over a GPU's outgoing link; infinite: moves are free.

    Raises:
        ConfigurationError: for a share, role or link that cannot be.
    """

    name: str
    hardware: Hardware
    share: float = 1.0
    role: str = "mixed"
    link_tokens: float = math.inf

    def __post_init__(self) -> None:
        at = f"group {self.name!r} "
        if not is_finite_number(self.share, positive=True) or self.share > 1.0:
            raise ConfigurationError(at + "share", self.share, "a number in (0, 1]")
        if self.role not in ROLES:
            raise ConfigurationError(at + "role", self.role, ", ".join(ROLES))
        if not self.link_tokens >= 0.0:
            raise ConfigurationError(at + "link", self.link_tokens, "tokens per second >= 0")
