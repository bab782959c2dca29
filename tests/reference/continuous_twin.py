"""The twin under the KV-aware law with immediate starts: contexts that grow continuously.

On a GPU with b decodes that attend to K tokens, and a prefill of which h tokens are cached and that
takes c of them an iteration, iterations pass at the rate 1 / (s0 + s1 b + s2 K) alone and
1 / (m0 + m1 c + m2 b + m3 K + m4 c h) with the prefill, where K and h grow by b and c an iteration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from reference_simulator import Event, Gpu, ReferenceSimulator, Request


class ContinuousTwin(ReferenceSimulator):
    """Iterations of a GPU are found anew from its requests whenever time passes."""

    def _possible_events(self) -> Iterator[Event]:
        for event in super()._possible_events():
            if event[1] != 0:
                yield event
        for gpu in self.gpus:
            if gpu.decodes:
                first = min(gpu.decodes, key=lambda r: (r.remaining, r.index))
                end = self.time + self._seconds_of(gpu, first.remaining)
                yield end, 0, gpu.index, 0, lambda g=gpu, r=first: self._end_decode(g, r)
            if gpu.prefill:
                end = self.time + self._seconds_of(gpu, gpu.prefill.remaining)
                yield end, 0, gpu.index, 1, lambda g=gpu: self._end_prefill(g)
                before = self._before_last_chunk(gpu.prefill)
                if before > 0:
                    change = self.time + self._seconds_of(gpu, before)
                    yield change, -1, gpu.index, 0, lambda g=gpu: self._begin_last_chunk(g)

    def _begin_last_chunk(self, gpu: Gpu) -> None:
        gpu.prefill.remaining = 1.0

    def _before_last_chunk(self, request: Request) -> float:
        """Iterations until only a shorter chunk is left; 0 where there is none, or it runs."""
        whole = request.prompt_tokens / self.hardware.chunk_tokens
        if self.hardware.chunking == "exact" or whole == math.floor(whole):
            return 0.0
        return max(0.0, request.remaining - 1.0)

    def _speed(self, gpu: Gpu) -> tuple[float, float]:
        """Seconds of an iteration now, and by how much longer the next one is."""
        b = len(gpu.decodes)
        kv = sum(r.prompt_tokens + r.output_tokens - r.remaining for r in gpu.decodes)
        if gpu.prefill is None:
            law = self.hardware.solo
            return law.seconds + law.per_decode * b + law.per_kv_token * kv, law.per_kv_token * b
        law, size, request = self.hardware.mixed, self.hardware.chunk_tokens, gpu.prefill
        iterations = request.prompt_tokens / size
        if self.hardware.chunking == "ceil":
            iterations = math.ceil(iterations)
        done = iterations - request.remaining
        chunk = size
        if self._before_last_chunk(request) == 0 and self.hardware.chunking == "ceil":
            chunk = request.prompt_tokens - (iterations - 1) * size
            done_tokens = (iterations - 1) * size + (1 - request.remaining) * chunk
        else:
            done_tokens = done * size
        now = (
            law.seconds
            + law.per_prompt_token * chunk
            + law.per_decode * b
            + law.per_kv_token * kv
            + law.per_prompt_token_context * chunk * done_tokens
        )
        return now, law.per_kv_token * b + law.per_prompt_token_context * chunk**2

    def _seconds_of(self, gpu: Gpu, iterations: float) -> float:
        now, growth = self._speed(gpu)
        iterations = max(0.0, iterations)
        return now * iterations + growth * iterations**2 / 2

    def _pass_time(self, time: float) -> None:
        seconds = max(0.0, time - self.time)
        after = []
        for gpu in self.gpus:
            now, growth = self._speed(gpu)
            # The root of growth/2 v^2 + now v = seconds.
            done = seconds / now
            if growth > 0:
                done = (math.sqrt(now**2 + 2 * growth * seconds) - now) / growth
            after += [(r, r.remaining - done) for r in gpu.in_service]
        super()._pass_time(time)
        for request, remaining in after:
            request.remaining = remaining
