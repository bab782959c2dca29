"""The twin as a plain loop over iterations: every iteration of every GPU is an event.

Written from the KV-aware law: an iteration with b decodes that attend to K tokens lasts
s0 + s1 b + s2 K alone, and m0 + m1 c + m2 b + m3 K + m4 c (h + c/2) with c prompt tokens of a
prefill of which h are cached. A request that is sent to a busy GPU takes its slot at once and
starts with the GPU's next iteration. The k-th iteration of a decode attends to its prompt and k
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from reference_simulator import Event, Gpu, ReferenceSimulator, Request

# A boundary comes before what else happens at its time: completions follow from it.
BOUNDARY = -1


@dataclass
class Iteration:
    """What runs on a GPU until ``end``."""

    end: float
    requests: list[Request] = field(default_factory=list)


class LoopTwin(ReferenceSimulator):
    """The twin for whole iterations, which starts of requests wait for."""

    def run(self, until: float, controls=None) -> None:  # type: ignore[no-untyped-def]
        self.running: dict[int, Iteration] = getattr(self, "running", {})
        super().run(until, controls)

    def _possible_events(self) -> Iterator[Event]:
        for event in super()._possible_events():
            if event[1] != 0:
                yield event
        for gpu in self.gpus:
            yield from self._completions(gpu)
            if gpu.index in self.running:
                end = self.running[gpu.index].end
                yield end, BOUNDARY, gpu.index, 0, lambda gpu=gpu: self._end_iteration(gpu)
            elif gpu.in_service and not any(True for _ in self._completions(gpu)):
                end = self.time + self._seconds_of_next(gpu)
                yield end, BOUNDARY, gpu.index, 0, lambda gpu=gpu: self._end_iteration(gpu)

    def _completions(self, gpu: Gpu) -> Iterator[Event]:
        """Requests whose last iteration has ended: decodes in order of arrival, then a prefill."""
        if gpu.index in self.running:
            return
        done = [r for r in gpu.decodes if r.remaining <= 0]
        if done:
            first = min(done, key=lambda r: r.index)
            yield self.time, 0, gpu.index, 0, lambda: self._end_decode(gpu, first)
        elif gpu.prefill and gpu.prefill.remaining <= 0:
            yield self.time, 0, gpu.index, 1, lambda: self._end_prefill(gpu)

    def _seconds_of_next(self, gpu: Gpu) -> float:
        """Of an iteration of all that is in service now, by the law of the hardware."""
        hardware = self.hardware
        if hardware.iteration_law != "kv-aware":
            return self._iteration_seconds(gpu)
        made = [math.ceil(r.output_tokens) - r.remaining for r in gpu.decodes]
        kv = sum(r.prompt_tokens + m + 1 for r, m in zip(gpu.decodes, made, strict=True))
        b = len(gpu.decodes)
        if gpu.prefill is None:
            solo = hardware.solo
            return solo.seconds + solo.per_decode * b + solo.per_kv_token * kv
        prompt, size = gpu.prefill.prompt_tokens, hardware.chunk_tokens
        cached = (math.ceil(prompt / size) - gpu.prefill.remaining) * size
        chunk = size if hardware.padded_chunks else min(size, prompt - cached)
        mixed = hardware.mixed
        return (
            mixed.seconds
            + mixed.per_prompt_token * chunk
            + mixed.per_decode * b
            + mixed.per_kv_token * kv
            + mixed.per_prompt_token_context * chunk * (cached + chunk / 2)
        )

    def _pass_time(self, time: float) -> None:
        """GPUs that have something to do begin an iteration before time goes on."""
        if time > self.time:
            for gpu in self.gpus:
                if gpu.in_service and gpu.index not in self.running:
                    end = self.time + self._seconds_of_next(gpu)
                    self.running[gpu.index] = Iteration(end, gpu.in_service)
        before = [(r, r.remaining) for gpu in self.gpus for r in gpu.in_service]
        super()._pass_time(time)
        for request, remaining in before:
            request.remaining = remaining

    def _end_iteration(self, gpu: Gpu) -> None:
        for request in self.running.pop(gpu.index).requests:
            request.remaining -= 1

    def _start_prefill(self, gpu: Gpu, request: Request) -> None:
        super()._start_prefill(gpu, request)
        request.remaining = math.ceil(request.prompt_tokens / self.hardware.chunk_tokens)

    def _start_decode(self, gpu: Gpu, request: Request) -> None:
        super()._start_decode(gpu, request)
        request.remaining = math.ceil(request.output_tokens)
