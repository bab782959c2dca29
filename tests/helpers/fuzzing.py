"""What the tests of tests/fuzz share: how many cases, spoilt data, and what may come of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from llm_sched_env.errors import LLMSchedError

USUAL_CASES, MANY_CASES = 300, 10_000
CASES = int(os.environ.get("LLM_SCHED_FUZZ_CASES", USUAL_CASES))
"""Of each property: 300 in ``make test``, the same each time; 10,000 others in ``make fuzz``."""

fuzzed = settings(
    max_examples=CASES,
    deadline=timedelta(seconds=30),  # longer is a hang
    derandomize=CASES == USUAL_CASES,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e300, 10**400, -(10**30), 2**63, 1e9]),
    st.integers(-3, 40),
    st.floats(),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=6),
    st.sampled_from(
        ["", " ", "nan", "inf", "1", "0x10", "\u0661", "a\nb", "\x00", "../x", "é" * 40]
    ),
    st.just([]),
    st.just({}),
    st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2),
)
"""Plain data that stands where it should not, or might just."""


@st.composite
def spoilt(draw: st.DrawFn, sound: Any) -> Any:
    """Plain data with up to three of its parts replaced, removed, renamed or added to."""
    data = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        data = _spoil(draw, data)
    return data


def _spoil(draw: st.DrawFn, data: Any) -> Any:
    if not isinstance(data, (dict, list)) or not data or draw(st.integers(0, 5)) == 0:
        return draw(ODD)
    keys = list(data) if isinstance(data, dict) else list(range(len(data)))
    key = draw(st.sampled_from(keys))
    how = draw(st.integers(0, 9))
    if how == 0:
        del data[key]
    elif how == 1 and isinstance(data, dict):
        data[draw(st.text(max_size=4))] = draw(ODD)
    elif how == 2 and isinstance(data, list):
        data.append(copy.deepcopy(data[key]))
    else:
        data[key] = _spoil(draw, data[key])
    return data


@st.composite
def spoilt_text(draw: st.DrawFn, sound: str) -> str:
    """A text with up to three of its parts cut out, doubled, or replaced."""
    text = sound
    pieces = st.one_of(
        st.text(max_size=3),
        st.sampled_from(
            [",", "\n", "\r\n", '"', "[", "}", "=", "-", "nan", "1e999", "\x00", "\ufeff", ";", "#"]
        ),
    )
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(text)))
        last = draw(st.integers(first, min(len(text), first + 12)))
        middle = draw(st.one_of(pieces, st.just(text[first:last] * 2), st.just("")))
        text = text[:first] + middle + text[last:]
    return text


@st.composite
def spoilt_bytes(draw: st.DrawFn, sound: bytes) -> bytes:
    """Content with a few bytes changed, cut out or put in."""
    content = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(content)))
        last = draw(
            st.integers(first, min(len(content), first + draw(st.sampled_from([1, 8, 4096]))))
        )
        content[first:last] = draw(st.binary(max_size=4))
    return bytes(content)


REFUSED = object()


def accepted(call: Callable[[], Any]) -> Any:
    """What a call gives; ``REFUSED`` if it says in one line why it does not.

    Any other exception is one that nobody meant, and goes on.
    """
    try:
        return call()
    except LLMSchedError as error:
        message = str(error)
        assert message.strip()
        assert "\n" not in message, message
        return REFUSED


def same_data(given: Any, kept: Any) -> bool:
    """Whether plain data are what was given: numbers of equal value, keys and texts the same."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return given.keys() == kept.keys() and all(same_data(given[k], kept[k]) for k in given)
    if isinstance(given, (list, tuple)) and isinstance(kept, (list, tuple)):
        return len(given) == len(kept) and all(map(same_data, given, kept))
    return type(given) in (int, float, type(kept)) and bool(given == kept)
