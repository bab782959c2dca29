"""Parse the values of a trace column, one column at a time.

A wrong value raises ValueError with a message that says what was expected.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from llm_sched_env.model.block_lists import BlockLists

_MAX_TOKENS = 10**9
_COUNT_DIGITS = 9
_DIGITS = re.compile(r"[0-9]*")
# With these characters float() takes plain decimal numbers only: no nan, no 1_000.
_NUMBER = re.compile(r"[0-9.eE+-]*")
# Years that fit into 64-bit nanoseconds.
_DATE = re.compile(r"(?:19|20|21)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?", re.ASCII)
_ZONED = re.compile(rf"({_DATE.pattern})(Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)", re.ASCII)
_UTC = "+00:00"
_BLOCKS = re.compile(r"[0-9 ]*")
_BLOCK_DIGITS = 18  # what fits into 64-bit integers
_EXPECTED_NUMBER = "a finite decimal number >= 0"
_EXPECTED_DATE = "a time like 2023-11-16 18:15:46.6805900, with or without a zone"


def counts(texts: Sequence[str]) -> np.ndarray:
    """Whole numbers >= 0 of at most nine digits."""
    if (
        not all(texts)
        or max(map(len, texts)) > _COUNT_DIGITS
        or not _DIGITS.fullmatch("".join(texts))
    ):
        raise ValueError(f"a whole number of at most {_COUNT_DIGITS} digits")
    return np.array(list(map(float, texts)))


def numbers(texts: Sequence[str]) -> np.ndarray:
    """Finite decimal numbers >= 0."""
    if not _NUMBER.fullmatch("".join(texts)):
        raise ValueError(_EXPECTED_NUMBER)
    try:
        values = np.array(list(map(float, texts)))
    except ValueError:
        raise ValueError(_EXPECTED_NUMBER) from None
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(_EXPECTED_NUMBER)
    return values


def token_numbers(texts: Sequence[str]) -> np.ndarray:
    """Numbers >= 0 of tokens that may be fractions."""
    values = numbers(texts)
    if values.max() >= _MAX_TOKENS:
        raise ValueError("a number below 10^9")
    return values


def dates(texts: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Calendar times, with or without a fraction, and whether they name their zone.

    Returns:
        Nanoseconds (int64), in UTC if a zone is named; True if all name one, False if none does.
    """
    if all(text.endswith(_UTC) for text in texts):  # the usual zone, without groups per row
        texts = [text[: -len(_UTC)] for text in texts]
        if not all(map(_DATE.fullmatch, texts)):
            raise ValueError(_EXPECTED_DATE)
        return _nanoseconds(texts), True
    if all(map(_DATE.fullmatch, texts)):
        return _nanoseconds(texts), False
    matches = list(map(_ZONED.fullmatch, texts))
    parts = [match.groups() for match in matches if match]
    if len(parts) < len(texts):
        raise ValueError(_EXPECTED_DATE)
    local, zones = zip(*parts, strict=True)
    offsets = {zone: _offset(zone) for zone in set(zones)}
    return _nanoseconds(local) - np.array([offsets[zone] for zone in zones], np.int64), True


def _nanoseconds(texts: Sequence[str]) -> np.ndarray:
    """Matched texts as times: NumPy alone would also take "now" and "2023"."""
    try:
        return np.array(texts, "datetime64[ns]").astype(np.int64)
    except ValueError:  # no such day or hour
        raise ValueError(_EXPECTED_DATE) from None


def _offset(zone: str) -> int:
    """Nanoseconds by which a zone is ahead of UTC."""
    if zone == "Z":
        return 0
    minutes = 60 * int(zone[1:3]) + int(zone[-2:])
    return (-1 if zone[0] == "-" else 1) * minutes * 60 * 10**9


def labels(texts: Sequence[str], known: dict[str, int]) -> np.ndarray:
    """Index of each class name; names not met before are appended to ``known``."""
    for text in dict.fromkeys(texts):
        if not text or not text.isprintable():
            raise ValueError("the name of a class, printable text")
        known.setdefault(text, len(known))
    return np.array([known[text] for text in texts], np.int32)


def block_texts(texts: Sequence[str]) -> np.ndarray:
    """Lists of blocks, whole numbers of at most 18 digits with spaces between; as they are."""
    longest = max(map(len, " ".join(texts).split()), default=0)
    if not _BLOCKS.fullmatch("".join(texts)) or longest > _BLOCK_DIGITS:
        raise ValueError(f"a list of whole numbers of at most {_BLOCK_DIGITS} digits")
    return np.array(texts, dtype=object)


def block_lists(texts: np.ndarray) -> BlockLists:
    """The blocks that checked texts list."""
    counts = [len(text.split()) for text in texts]
    ids = np.array(" ".join(texts).split(), np.int64)
    return BlockLists(ids, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def session_numbers(names: np.ndarray) -> np.ndarray:
    """Sessions as numbers: their own if all are numbers, else in order of appearance.

    A request without a name is alone in a session.
    """
    texts = names.tolist()
    given = [text for text in dict.fromkeys(texts) if text]
    if all(text.isdecimal() and text.isascii() and len(text) <= _COUNT_DIGITS for text in given):
        known = {name: int(name) for name in given}
    else:
        known = {name: k for k, name in enumerate(given)}
    free = itertools.count(max(known.values(), default=-1) + 1)
    return np.array([known[text] if text else next(free) for text in texts], np.int64)


def session_names(texts: Sequence[str]) -> np.ndarray:
    """Names or numbers of sessions, as they are; "" for none."""
    if not all(text.isprintable() for text in texts):
        raise ValueError("the name or number of a session")
    return np.array(texts, dtype=object)
