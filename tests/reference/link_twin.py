"""A twin of the engine for groups of GPUs whose KV caches move over links, in plain Python.

What differs from :class:`FleetTwin`: a decode on another GPU than the one of its prefill takes its
slot there at once and starts when its KV cache has crossed the outgoing link of that GPU, which
serves one move at a time. Until then the cache stays on that GPU, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from fleet_twin import FleetTwin, GroupGpu
from reference_simulator import Event, Gpu, Request, _tokens

from llm_sched_env.simulation.state.layout import MOVE_END, MOVE_START

# After completions (0), before abandonments (1).
MOVE = 0.5


@dataclass(eq=False)
class LinkedGpu(GroupGpu):
    """A GPU with decodes that have a slot and are on their way, and when its link is free."""

    incoming: list[Request] = field(default_factory=list)
    free_time: float = 0.0

    @property
    def in_service(self) -> list[Request]:
        """Who has a slot."""
        return super().in_service + self.incoming


class LinkTwin(FleetTwin):
    """One cluster whose groups have links; arguments as of :class:`FleetTwin`."""

    def __init__(self, *args, **kwargs) -> None:
        self.moves: list[tuple[float, Request, LinkedGpu]] = []
        self.sources: dict[Request, LinkedGpu] = {}
        super().__init__(*args, **kwargs)
        old, self.gpus = self.gpus, []
        for gpu in old:
            self.gpus.append(LinkedGpu(gpu.index, g=gpu.g, group=gpu.group))
        every = range(len(self.groups))
        self.solo, self.mixed, self.prefilling = ([[] for _ in every] for _ in range(3))
        for gpu in self.gpus:
            self._update_slots(gpu)

    def _possible_events(self) -> Iterator[Event]:
        yield from super()._possible_events()
        for move in self.moves:
            yield move[0], MOVE, move[1].index, 0, partial(self._end_move, move)

    def _start_prefill(self, gpu: LinkedGpu, request: Request) -> None:
        super()._start_prefill(gpu, request)
        self.sources[request] = gpu

    def _start_decode(self, gpu: LinkedGpu, request: Request) -> None:
        source = self.sources[request]
        if gpu is source:
            del self.sources[request]
            super()._start_decode(gpu, request)
            return
        link = source.group.link
        seconds = link.move_seconds(request.prompt_tokens) if link else 0.0
        source.free_time = max(self.time, source.free_time) + seconds
        gpu.incoming.append(request)
        self.moves.append((source.free_time, request, gpu))
        self._update_slots(gpu)
        self._log(MOVE_START, request, gpu)

    def _end_move(self, move: tuple[float, Request, LinkedGpu]) -> None:
        _, request, gpu = move
        self.moves.remove(move)
        gpu.incoming.remove(request)
        source = self.sources.pop(request)
        self._log(MOVE_END, request, gpu)
        super()._start_decode(gpu, request)
        if self.on_arrival:
            self._serve_at(source)
        else:
            self._dispatch()

    def _source(self, request: Request) -> LinkedGpu | None:
        return self.sources.pop(request)

    def _abandon(self, queue: list[Request], request: Request, kind: int) -> None:
        if not self.on_arrival:
            self.sources.pop(request, None)
        super()._abandon(queue, request, kind)

    def _y(self, i: int, g: int) -> int:
        on_their_way = sum(r.i == i for gpu in self.gpus if gpu.g == g for r in gpu.incoming)
        return super()._y(i, g) + on_their_way

    def _decoder(self, members: list[Gpu], request: Request) -> Gpu | None:
        own = self.sources[request]
        return own if own in members else super()._decoder(members, request)

    def _leaving_room(self, g: int, request: Request) -> Gpu | None:
        own = self.sources[request]
        if own in self.solo[g] + self.mixed[g]:
            return own
        return super()._leaving_room(g, request)

    def _reserved(self, gpu: LinkedGpu) -> float:
        """Also room that is kept, and KV caches of finished prefills that have not left."""
        held = sum(
            self._prefill_tokens(request, gpu)
            for request, source in self.sources.items()
            if source is gpu and request is not gpu.prefill
        )
        return super()._reserved(gpu) + sum(map(_tokens, gpu.incoming)) + held
