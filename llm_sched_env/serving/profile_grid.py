"""A grid of iterations of an engine: numbers of decodes by contexts, with and without a prefill."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

from llm_sched_env.serving.clocks import Clock
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.real_machine import Iteration, iterated
from llm_sched_env.simulation.machine import Sent
from llm_sched_env.simulation.state.layout import RequestStream

_CONTEXTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the longest request
_STEPS = 8  # iterations of a cell without a prefill


class Grid:
    """Runs an engine without a scheduler, cell by cell, and notes every iteration.

    Args:
        engine: to run.
        batch_slots: B.
        chunk_tokens: C.
        tokens: longest request, prompt and output.
        clock: that measures.
        tell: called after each cell.

    Attributes:
        iterations: so far.
    """

    def __init__(
        self,
        engine: Engine,
        batch_slots: int,
        chunk_tokens: int,
        tokens: int,
        clock: Clock,
        tell: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._engine, self._batch_slots, self._tokens = engine, batch_slots, tokens
        self._tell = tell
        # Three chunks and a half.
        self._prompt = min(3 * chunk_tokens + chunk_tokens // 2, tokens - 1)
        self.iterations: list[Iteration] = []
        counts = sorted({1, *(max(1, k * batch_slots // 8) for k in range(1, 9))})
        cells = list(itertools.product(counts, _CONTEXTS))
        np.random.default_rng(0).shuffle(cells)
        self._cells = itertools.cycle(cells)

    def run(self, seconds: float) -> None:
        """Go on with the next cells for so long."""
        end = time.perf_counter() + seconds
        for decodes, share in self._cells:
            self._cell(int(decodes), max(2, int(share * self._tokens)))
            self._tell()
            if time.perf_counter() >= end:
                return

    def _cell(self, decodes: int, context: int) -> None:
        """Some iterations of so many decodes of one context, then beside a prefill."""
        left = self._tokens - context
        prompts = [context] * decodes
        beside = decodes < self._batch_slots
        if beside:
            prompts.append(self._prompt)
        lengths = (prompts, [left] * decodes + [1] * beside)
        arrays = (np.array(values, float) for values in lengths)
        count = len(prompts)
        self._engine.begin(RequestStream(np.zeros(count), np.zeros(count, np.int32), *arrays))
        # Contexts are what matters, not what is in them: no prefill is run to fill the cache.
        parked = {r: self._engine.blank(context) for r in range(decodes)}
        self._engine.join([Sent(r, is_prefill=False) for r in range(decodes)], parked)
        for _ in range(min(_STEPS, left)):
            self._iterate(())
        if beside:
            self._iterate((Sent(decodes, is_prefill=True),))
            while self._engine.load.prefill is not None:
                self._iterate(())

    def _iterate(self, sent: tuple[Sent, ...]) -> None:
        self.iterations.append(iterated(self._engine, self._clock, sent, {}))
