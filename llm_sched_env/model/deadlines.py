"""When an answer is too late: the deadlines of a class, and which requests are paid for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.plain_tables import check_number

REVENUES = ("all", "goodput")
"""Which completed requests are paid for: all, or those that met the deadlines of their class."""


@dataclass(frozen=True)
class Deadlines:
    """What a completed request of a class must keep to be good: either bound, or both.

    Args:
        ttft_seconds: most seconds from arrival to the first token; None: no bound.
        tpot_seconds: most seconds per output token after the first one; None: no bound.

    Raises:
        ConfigurationError: for numbers that are not finite and > 0, or no bound at all.

    Example:
        >>> Deadlines(ttft_seconds=2.0, tpot_seconds=0.05).limits
        (2.0, 0.05)
        >>> Deadlines(ttft_seconds=2.0).limits
        (2.0, inf)
    """

    ttft_seconds: float | None = None
    tpot_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_seconds", "tpot_seconds"):
            if getattr(self, name) is not None:
                check_number(self, name, f"deadlines {name}", positive=True)
        if self.ttft_seconds is None and self.tpot_seconds is None:
            raise ConfigurationError(
                "deadlines",
                "neither of them",
                "ttft_seconds, tpot_seconds or both",
                "leave `deadlines` out for a class without any",
            )

    @property
    def limits(self) -> tuple[float, float]:
        """The greatest good TTFT, seconds, and TPOT, seconds per token; inf without a bound."""
        given = (self.ttft_seconds, self.tpot_seconds)
        ttft, tpot = (math.inf if bound is None else float(bound) for bound in given)
        return ttft, tpot
