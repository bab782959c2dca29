"""How a decoder is called: as it is on a CPU, through captured graphs on CUDA.

On CUDA the work of the host for each of a thousand kernels would take longer than the kernels.
Iterations are therefore padded to one of a few shapes, each captured once before anything is
served: the chunk to C, decode rows and context to the next prepared number.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor

from llm_sched_env.serving.decoder import Batch, Decoder, KvCache

_LEAST_CONTEXT = 512
_WARM_UPS = 2


class Runner(Protocol):
    """Computes iterations."""

    pads_chunks: bool
    """Whether a chunk is padded to C."""

    def rows(self, rows: int) -> int:
        """Decode rows of an iteration that needs so many."""

    def __call__(self, batch: Batch, context: int) -> Tensor:
        """The next tokens, as of :meth:`Decoder.forward`; on the host."""


class EagerRunner:
    """Calls a decoder with what there is.

    Args:
        decoder: to call.
        cache: of it.
    """

    pads_chunks = False

    def __init__(self, decoder: Decoder, cache: KvCache) -> None:
        self._decoder, self._cache = decoder, cache

    def rows(self, rows: int) -> int:
        """As many as are needed."""
        return rows

    @torch.inference_mode()
    def __call__(self, batch: Batch, context: int) -> Tensor:
        """The next tokens."""
        positions = batch.decode_positions.tolist()
        contexts = [1 if p == self._cache.spare else p + 1 for p in positions]
        found: Tensor = self._decoder(batch, self._cache, context, contexts)
        return found.cpu()


class GraphRunner:
    """Replays captured CUDA graphs of a decoder.

    Args:
        decoder: on CUDA.
        cache: of it.
        chunk_tokens: C.
    """

    pads_chunks = True

    @torch.inference_mode()
    def __init__(self, decoder: Decoder, cache: KvCache, chunk_tokens: int) -> None:
        self._decoder, self._cache = decoder, cache
        slots = len(cache.keys[0])
        self._row_counts = prepared_rows(slots)
        self._contexts = prepared_contexts(cache.spare)
        sizes = (chunk_tokens, 1, chunk_tokens, 1, slots, slots)
        fill = Batch(*(torch.zeros(n, dtype=torch.long, device=decoder.place) for n in sizes))
        self._inputs = fill._replace(
            chunk_positions=torch.full_like(fill.chunk_positions, cache.spare),
            decode_positions=torch.full_like(fill.decode_positions, cache.spare),
        )
        self._graphs: dict[tuple[bool, int, int], tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool: Any = None
        # The largest first: the others find their memory in its pool.
        shapes = product((True, False), (*reversed(self._row_counts), 0), reversed(self._contexts))
        for has_chunk, rows, context in shapes:
            if has_chunk or rows:
                pool = self._capture(has_chunk, rows, context, pool)

    def rows(self, rows: int) -> int:
        """The next prepared number."""
        return next(n for n in (0, *self._row_counts) if n >= rows)

    @torch.inference_mode()
    def __call__(self, batch: Batch, context: int) -> Tensor:
        """The next tokens."""
        has_chunk, rows = len(batch.chunk_tokens) > 0, len(batch.decode_tokens)
        for static, given in zip(self._inputs, batch, strict=True):
            static[: len(given)].copy_(given, non_blocking=True)
        long_enough = next(n for n in self._contexts if n >= context)
        graph, found = self._graphs[has_chunk, rows, long_enough]
        graph.replay()
        return found.cpu()

    def _view(self, rows: int, *, has_chunk: bool) -> Batch:
        """The static inputs at a shape."""
        chunk = len(self._inputs.chunk_tokens) if has_chunk else 0
        tokens, slot, positions, last, decode_tokens, decode_positions = self._inputs
        return Batch(
            tokens[:chunk],
            slot,
            positions[:chunk],
            last,
            decode_tokens[:rows],
            decode_positions[:rows],
        )

    def _capture(self, has_chunk: bool, rows: int, context: int, pool: Any) -> Any:
        view = self._view(rows, has_chunk=has_chunk)
        # A first run outside of the graph, on a stream of its own, lets libraries allocate.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._decoder(view, self._cache, context)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            found = self._decoder(view, self._cache, context)
        self._graphs[has_chunk, rows, context] = graph, found
        return graph.pool()


def prepared_rows(slots: int) -> list[int]:
    """Numbers of decode rows that are captured: powers of two to 8, then each eighth."""
    counts = {n for n in (1, 2, 4, 8) if n < slots}
    return sorted(counts | set(range(16, slots, 8)) | {slots})


def prepared_contexts(tokens: int) -> list[int]:
    """Contexts that are captured: doubling from 512 to the whole cache."""
    contexts = [_LEAST_CONTEXT]
    while contexts[-1] < tokens:
        contexts.append(2 * contexts[-1])
    return [*contexts[:-1], tokens]
