"""Priorities and reserves by which trunk reservation gives out free slots."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SlotRanks(NamedTuple):
    """Who takes the next free slot, by class; arrays of shape (I,).

    Attributes:
        priority: of an admission; the greatest first.
        reserve: free slots of the cluster without which the class is not admitted.
        decode_priority: of a prefilled request's decode.
        decode_reserve: free slots without which it does not start.
        precedes_decodes: 1 where an admission goes before every waiting decode, else 0.
    """

    priority: np.ndarray
    reserve: np.ndarray
    decode_priority: np.ndarray
    decode_reserve: np.ndarray
    precedes_decodes: np.ndarray
