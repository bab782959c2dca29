"""Recorded request streams, validated once before the engine uses them."""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.simulation.state.layout import RequestStream


def checked_stream(stream: RequestStream, n_classes: int) -> RequestStream:
    """The stream with the engine's types; raises ConfigurationError if it cannot be replayed."""
    required, patience = stream[:4], stream.patience_seconds
    sizes = [np.shape(array) for array in required]
    if len(set(sizes)) != 1 or len(sizes[0]) != 1 or sizes[0][0] == 0:
        raise ConfigurationError("stream arrays of shape", sizes, "equal shapes (K,), K >= 1")
    times, classes, prompts, outputs, patience = (np.asarray(array) for array in stream[:5])
    if (
        not np.issubdtype(classes.dtype, np.integer)
        or not ((classes >= 0) & (classes < n_classes)).all()
    ):
        raise ConfigurationError(
            "stream request_class", classes, f"integers from 0 to {n_classes - 1}"
        )
    times = times.astype(np.float64)
    if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) < 0).any():
        raise ConfigurationError(
            "stream arrival_time", times, "finite, non-decreasing seconds >= 0", "sort it"
        )
    for field, tokens in (("prompt_tokens", prompts), ("output_tokens", outputs)):
        if not (np.isfinite(tokens) & (tokens >= 0)).all():
            raise ConfigurationError(f"stream {field}", tokens, "finite numbers >= 0")
    if (
        patience.shape not in (sizes[0], (0,))
        or not (np.isfinite(patience) & (patience >= 0)).all()
    ):
        raise ConfigurationError(
            "stream patience_seconds", patience, "finite seconds >= 0 for each request, or none"
        )
    session, blocks = np.asarray(stream.session), _checked_blocks(stream)
    if session.shape not in (sizes[0], (0,)) or not np.issubdtype(session.dtype, np.integer):
        raise ConfigurationError("stream session", session, "a whole number for each request")
    # Arrays of another layout, or read-only ones, would make Numba compile the engine anew.
    arrays = (times, classes, prompts, outputs, patience, session, *blocks)
    kinds = zip(arrays, ("f8", "i4", "f8", "f8", "f8", "i8", "i8", "i8"), strict=True)
    return RequestStream(*(np.require(array, kind, ["C", "A", "W"]) for array, kind in kinds))


def _checked_blocks(stream: RequestStream) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of the requests: empty arrays, or lists of whole numbers >= 0 for each."""
    if len(stream.block_starts) == 0 and len(stream.block_ids) == 0:
        return stream.block_ids, stream.block_starts
    blocks = BlockLists(stream.block_ids, stream.block_starts)
    if len(blocks) != len(stream.arrival_time):
        raise ConfigurationError(
            "stream block_starts", len(blocks), f"a list for each of {len(stream.arrival_time)}"
        )
    return blocks.arrays
