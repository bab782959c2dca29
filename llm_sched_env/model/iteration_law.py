"""The KV-aware iteration law: how long an iteration of a GPU takes, by what is in it.

With b decodes that attend to K tokens in all, and c prompt tokens of one request of which h are
cached, an iteration lasts

    solo   (c = 0)   s0 + s1 b + s2 K
    mixed  (c > 0)   m0 + m1 c + m2 b + m3 K + m4 c (h + c/2)

seconds. The two-speed law is s0 = 1/gamma, m0 = alpha, m1 = beta and the rest 0.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number


@dataclass(frozen=True)
class SoloIteration:
    """Seconds of an iteration without a prefill.

    Args:
        seconds: s0, of any iteration; > 0.
        per_decode: s1, per decode in the batch.
        per_kv_token: s2, per token that the decodes attend to.

    Example:
        >>> SoloIteration(seconds=0.02, per_decode=1e-5, per_kv_token=1e-8).per_decode
        1e-05
    """

    seconds: float
    per_decode: float = 0.0
    per_kv_token: float = 0.0

    def __post_init__(self) -> None:
        _check_coefficients(self, "solo")

    def time(self, decodes: float, kv_tokens: float) -> float:
        """Seconds of an iteration; also elementwise for arrays."""
        return self.seconds + self.per_decode * decodes + self.per_kv_token * kv_tokens


@dataclass(frozen=True)
class MixedIteration:
    """Seconds of an iteration with a chunk of a prefill.

    Args:
        seconds: m0, of any iteration; > 0.
        per_prompt_token: m1, per prompt token of the chunk.
        per_decode: m2, per decode in the batch.
        per_kv_token: m3, per token that the decodes attend to.
        per_prompt_token_context: m4, per prompt token and token that it attends to.

    Example:
        >>> MixedIteration(0.02, 6e-5, 1e-5, 1e-8, 1e-10).per_prompt_token
        6e-05
    """

    seconds: float
    per_prompt_token: float = 0.0
    per_decode: float = 0.0
    per_kv_token: float = 0.0
    per_prompt_token_context: float = 0.0

    def __post_init__(self) -> None:
        _check_coefficients(self, "mixed")

    def time(
        self, prompt_tokens: float, cached_tokens: float, decodes: float, kv_tokens: float
    ) -> float:
        """Seconds of an iteration; also elementwise for arrays."""
        attended = prompt_tokens * (cached_tokens + prompt_tokens / 2.0)
        return (
            self.seconds
            + self.per_prompt_token * prompt_tokens
            + self.per_decode * decodes
            + self.per_kv_token * kv_tokens
            + self.per_prompt_token_context * attended
        )


def _check_coefficients(owner: Any, mode: str) -> None:
    """Finite coefficients >= 0, and an iteration that takes time."""
    for field in dataclasses.fields(owner):
        got = getattr(owner, field.name)
        if isinstance(got, np.generic):
            got = got.item()
            object.__setattr__(owner, field.name, got)
        positive = field.name == "seconds"
        if not is_finite_number(got, positive=positive):
            raise ConfigurationError(
                f"hardware {mode} {field.name}",
                got,
                "a finite number > 0" if positive else "a finite number >= 0",
            )
