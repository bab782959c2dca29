"""Cases of a test of which ``make test`` runs some, and ``make test-all`` all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def lightly(cases: Mapping[str, Any], *kept: str) -> list[Any]:
    """Parameters by name, all but the ``kept`` ones extended; a tuple is several arguments."""
    assert set(kept) <= set(cases)
    return [
        pytest.param(
            *(value if type(value) is tuple else (value,)),
            id=name,
            marks=() if name in kept else pytest.mark.extended,
        )
        for name, value in cases.items()
    ]
