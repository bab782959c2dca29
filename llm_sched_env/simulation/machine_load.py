"""What is on a GPU of a machine, counted iteration by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llm_sched_env.simulation.machine import Sent
from llm_sched_env.simulation.state.layout import RequestStream


class Content(NamedTuple):
    """What an iteration does: c, h, b and K of docs/model.md."""

    prefill_tokens: int
    prefill_context: int
    decodes: int
    kv_tokens: int


class GpuLoad:
    """The prefill and the decodes of one GPU.

    Args:
        stream: lengths of all requests.
        chunk_tokens: C.

    Attributes:
        prefill: its request, or None.
        cached: prompt tokens of the prefill that are done.
        made: output tokens so far of each request that decodes.

    Example:
        >>> import numpy as np
        >>> one = np.ones(1)
        >>> load = GpuLoad(RequestStream(0 * one, np.zeros(1, int), 5 * one, 2 * one), 4)
        >>> load.join([Sent(0, is_prefill=True)])
        >>> load.content()
        Content(prefill_tokens=4, prefill_context=0, decodes=0, kv_tokens=0)
        >>> load.iterate(), load.iterate()
        (((), ()), ((0,), ()))
    """

    def __init__(self, stream: RequestStream, chunk_tokens: int) -> None:
        self._prompts = stream.prompt_tokens.astype(int).tolist()
        self._outputs = stream.output_tokens.astype(int).tolist()
        self._chunk_tokens = chunk_tokens
        self.prefill: int | None = None
        self.cached = 0
        self.made: dict[int, int] = {}

    def join(self, sent: Sequence[Sent]) -> None:
        """Requests start at this boundary."""
        for request, is_prefill in sent:
            if not is_prefill:
                self.made[request] = 0
            elif self.prefill is None:
                self.prefill, self.cached = request, 0
            else:
                raise RuntimeError(f"request {request} is sent beside the prefill {self.prefill}")

    def content(self) -> Content:
        """Of the iteration that begins now."""
        chunk = 0
        if self.prefill is not None:
            chunk = min(self._chunk_tokens, self._prompts[self.prefill] - self.cached)
        kv_tokens = sum(self._prompts[r] + made + 1 for r, made in self.made.items())
        return Content(chunk, self.cached if chunk else 0, len(self.made), kv_tokens)

    def iterate(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """An iteration has ended; whose prefill is done, and who has all its tokens."""
        chunk = self.content().prefill_tokens
        completed = []
        for request in list(self.made):
            self.made[request] += 1
            if self.made[request] == self._outputs[request]:
                completed.append(request)
                del self.made[request]
        prefilled: tuple[int, ...] = ()
        if self.prefill is not None:
            self.cached += chunk
            if self.cached == self._prompts[self.prefill]:
                prefilled = (self.prefill,)
                self.prefill, self.cached = None, 0
        return prefilled, tuple(completed)
