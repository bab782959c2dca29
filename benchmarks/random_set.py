"""A set of GPUs with a uniformly random member in O(1)."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class RandomSet(Generic[T]):
    """Members with O(1) insertion, removal and random choice."""

    def __init__(self) -> None:
        self.members: list[T] = []
        self._places: dict[T, int] = {}

    def set_member(self, item: T, member: bool) -> None:
        """Put the item into the set or take it out."""
        place = self._places.get(item)
        if member and place is None:
            self._places[item] = len(self.members)
            self.members.append(item)
        elif not member and place is not None:
            last = self.members[place] = self.members[-1]
            self._places[last] = place
            del self.members[-1], self._places[item]

    def choose(self, rng: random.Random) -> T:
        """A uniformly random member."""
        return self.members[int(rng.random() * len(self.members))]
