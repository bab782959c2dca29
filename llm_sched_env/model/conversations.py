"""Requests that share prefixes: conversations of several turns, and prompts that begin alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.plain_tables import check_integer, check_number


@dataclass(frozen=True)
class Sessions:
    """A class whose requests are turns of conversations.

    The prompt of a later turn is the whole conversation: the prompt and the answer before, and
    what the user adds. A turn comes ``think_seconds`` after the one before, whenever that is
    answered, so that what arrives depends on no policy. The arrival rate of the class counts
    turns; its lengths are those of the first prompt and of each answer.

    Args:
        turns: mean turns of a conversation, >= 1; their number is geometric.
        think_seconds: mean seconds from a turn to the next, exponential.
        added_tokens: mean tokens that the user adds a turn, exponential.

    Example:
        >>> Sessions(turns=4.0, think_seconds=60.0, added_tokens=100.0).turns
        4.0
    """

    turns: float
    think_seconds: float
    added_tokens: float

    def __post_init__(self) -> None:
        for name in ("turns", "think_seconds", "added_tokens"):
            check_number(self, name, f"sessions {name}", positive=True)
        if self.turns < 1.0:
            raise ConfigurationError("sessions turns", self.turns, "a finite number >= 1")


@dataclass(frozen=True)
class SharedPrefix:
    """The first tokens of each prompt of a class are one of a few texts, such as system prompts.

    Args:
        tokens: of each text; a shorter prompt is the beginning of one.
        variants: how many texts there are.
        exponent: text k is used in proportion to k^-exponent (Zipf); 0: all alike.

    Example:
        >>> SharedPrefix(tokens=2048, variants=2, exponent=1.0).shares.round(2).tolist()
        [0.67, 0.33]
    """

    tokens: int
    variants: int = 1
    exponent: float = 0.0

    def __post_init__(self) -> None:
        check_integer(self, "tokens", "shared_prefix tokens", 1)
        check_integer(self, "variants", "shared_prefix variants", 1)
        check_number(self, "exponent", "shared_prefix exponent")

    @property
    def shares(self) -> np.ndarray:
        """Of the texts among the conversations, shape (variants,)."""
        weights = np.arange(1.0, self.variants + 1.0) ** -self.exponent
        shares: np.ndarray = weights / weights.sum()
        return shares
