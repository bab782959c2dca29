"""The outgoing link of a GPU, over which the KV cache of a prefilled request moves to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_sched_env.model.plain_tables import check_number, checked_table


@dataclass(frozen=True)
class Link:
    """Each GPU has one: it serves moves first come, first served, one at a time.

    Args:
        tokens_per_second: prompt tokens whose KV cache crosses it in a second.
        seconds: that a move takes besides.

    Raises:
        ConfigurationError: for a speed that is not finite and > 0, or seconds that are not
            finite and >= 0.

    Example:
        >>> Link(tokens_per_second=200_000, seconds=0.001).move_seconds(1000)
        0.006
    """

    tokens_per_second: float
    seconds: float = 0.0

    def __post_init__(self) -> None:
        check_number(
            self,
            "tokens_per_second",
            "link tokens_per_second",
            positive=True,
            remedy="leave the link out where moves are free, or give no role prefill or decode",
        )
        check_number(self, "seconds", "link seconds")

    def move_seconds(self, prompt_tokens: float) -> float:
        """Seconds that the move of a request takes once it has the link."""
        return prompt_tokens / self.tokens_per_second + self.seconds

    @classmethod
    def from_dict(cls, data: Any, where: str) -> Link:
        """Build a link from the table of an instance file.

        Args:
            data: the table.
            where: what it is, for messages.
        """
        return cls(**checked_table(data, Link, where))
