"""One GPU as a loop over its iterations: first come, first served, written from docs/model.md.

An iteration carries one chunk of one prefill, if somebody is to be prefilled, beside every decode.
A request takes one of B slots when its prefill starts and frees it after its last token. Requests
start at the boundary between two iterations; an idle GPU starts at once. A prompt of P tokens
takes ceil(P / C) iterations and its first token comes with the end of the last of them; D output
tokens take D iterations more, of which the first attends to P + 1 tokens. Whoever waits longer
than its patience is gone.

It shares no code with the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Content(NamedTuple):
    """In an iteration: chunk c, cached tokens h, decodes b, tokens K that these attend to."""

    chunk: int
    cached: int
    decodes: int
    kv_tokens: int


@dataclass
class Served:
    """Times of each request, NaN for what did not happen, and what was in each iteration."""

    prefill_start: np.ndarray
    first_token: np.ndarray
    completed: np.ndarray
    abandoned: np.ndarray
    iterations: list[Content] = field(default_factory=list)


@dataclass
class Decode:
    """A request that makes tokens."""

    request: int
    left: int
    context: int


class IterationLoop:
    """The loop over some requests, in order of arrival.

    Args:
        arrivals: seconds.
        prompts: tokens.
        outputs: tokens.
        patience: seconds in the queue.
        slots: B.
        chunk: C.
        seconds: how long iteration k with a content takes.
        start: when iteration k starts that could start at a time: an engine may be late.
    """

    def __init__(
        self,
        arrivals: np.ndarray,
        prompts: np.ndarray,
        outputs: np.ndarray,
        patience: np.ndarray,
        slots: int,
        chunk: int,
        seconds: Callable[[int, Content], float],
        start: Callable[[int, float], float] = lambda _, ready: ready,
    ) -> None:
        self.arrivals = arrivals.tolist()
        self.prompts = list(map(int, prompts))
        self.outputs = list(map(int, outputs))
        self.deadlines = (arrivals + patience).tolist()
        self.slots, self.chunk = slots, chunk
        self.seconds, self.start = seconds, start
        self.queue: deque[int] = deque()
        self.arrived = 0
        self.prefill: int | None = None
        self.cached = 0
        self.decodes: list[Decode] = []
        nothing = np.full(len(arrivals), np.nan)
        self.served = Served(*(nothing.copy() for _ in range(4)))

    def run(self, until: float = np.inf, iterations: float = np.inf) -> Served:
        """Serve until a time, or for so many iterations."""
        ready = 0.0
        while ready < until and len(self.served.iterations) < iterations:
            if self.prefill is None and not self.decodes and not self.queue:
                if self.arrived == len(self.arrivals):
                    break
                ready = max(ready, self.arrivals[self.arrived])
            k = len(self.served.iterations)
            now = self.start(k, ready)
            self._let_in(now)
            if self.prefill is None and not self.decodes:
                continue  # everybody in the queue had left
            content = self._content()
            self.served.iterations.append(content)
            ready = now + self.seconds(k, content)
            self._finish(content, ready)
        self._let_in(min(ready, until), admit=False)
        return self._until(until)

    def _let_in(self, now: float, *, admit: bool = True) -> None:
        """Who has come joins the queue, who is out of patience leaves, the first starts."""
        while self.arrived < len(self.arrivals) and self.arrivals[self.arrived] <= now:
            self.queue.append(self.arrived)
            self.arrived += 1
        for request in [r for r in self.queue if self.deadlines[r] <= now]:
            self.queue.remove(request)
            self.served.abandoned[request] = self.deadlines[request]
        if admit and self.queue and self.prefill is None and len(self.decodes) < self.slots:
            self.prefill, self.cached = self.queue.popleft(), 0
            self.served.prefill_start[self.prefill] = now

    def _content(self) -> Content:
        chunk = 0
        if self.prefill is not None:
            chunk = min(self.chunk, self.prompts[self.prefill] - self.cached)
        context = sum(decode.context for decode in self.decodes)
        return Content(chunk, self.cached if chunk else 0, len(self.decodes), context)

    def _finish(self, content: Content, now: float) -> None:
        """Every decode has made a token, the prefill its chunk."""
        for decode in self.decodes:
            decode.left -= 1
            decode.context += 1
            if decode.left == 0:
                self.served.completed[decode.request] = now
        self.decodes = [decode for decode in self.decodes if decode.left]
        if self.prefill is None:
            return
        self.cached += content.chunk
        if self.cached == self.prompts[self.prefill]:
            self.served.first_token[self.prefill] = now
            context = self.prompts[self.prefill] + 1
            self.decodes.append(Decode(self.prefill, self.outputs[self.prefill], context))
            self.prefill = None

    def _until(self, until: float) -> Served:
        """What has happened by then."""
        served = self.served
        for times in (
            served.prefill_start,
            served.first_token,
            served.completed,
            served.abandoned,
        ):
            times[times > until] = np.nan
        return served
