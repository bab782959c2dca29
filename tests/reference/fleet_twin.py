"""A twin of the engine for groups of GPUs and for queues at GPUs, in plain Python.

Like :class:`ReferenceSimulator`, whose clock, arrivals and patience it shares: naive, and fed the
same draws. What differs: every choice is of a class and a group, GPUs have hardware of their
own, and under routers on arrival a request waits at the GPU that it was sent to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from reference_simulator import (
    ABANDONMENT,
    CREDIT_TIMER,
    Event,
    Gpu,
    ReferenceSimulator,
    Request,
    _set_member,
    _tokens,
)

from llm_sched_env.model.fleet import GpuGroup
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    LEAVE_PREFILL,
    PREFILL_END,
    REJECT,
)

ON_ARRIVAL = (
    "random", "round-robin", "least-loaded", "join-shortest-queue", "power-of-two-choices",
)  # fmt: skip
# Those of reuse_twin.py.
WITH_REUSE = ("weighted", "session-affinity", "earliest-finish", "reuse-bid")
ROUNDING = 1e-9


@dataclass(eq=False)
class GroupGpu(Gpu):
    """A GPU that knows its group, and its own queue."""

    g: int = 0
    group: GpuGroup | None = None
    queue: list[Request] = field(default_factory=list)


class FleetTwin(ReferenceSimulator):
    """One cluster; arguments as of :class:`ReferenceSimulator`, controls and ranks by pair."""

    def __init__(self, instance, rule, controls, n_gpus, seed, ranks=None) -> None:
        self.groups = instance.groups
        self.sizes = instance.group_sizes(n_gpus)
        self.ready = False
        self.on_arrival = rule.router in (*ON_ARRIVAL, *WITH_REUSE)
        self.next_round = 0
        owner = [g for g, size in enumerate(self.sizes) for _ in range(size)]
        one_kind = instance.on_group(self.groups[0])
        super().__init__(
            one_kind, rule, np.zeros(2 * instance.n_classes + 1), n_gpus, seed, ranks=ranks
        )
        self.gpus = [GroupGpu(k, g=g, group=self.groups[g]) for k, g in enumerate(owner)]
        every = range(len(self.groups))
        self.solo = [[] for _ in every]
        self.mixed = [[] for _ in every]
        self.prefilling = [[] for _ in every]
        self.pairs = [(i, g) for i in self.classes for g in every]
        self.rates = {
            (i, g): float(instance.on_group(group).prefill_rates[i])
            for g, group in enumerate(self.groups)
            for i in self.classes
        }
        self.credit = dict.fromkeys(self.pairs, 0.0)
        self.fraction = dict.fromkeys(self.pairs, 0.0)
        self.ready = True
        self._set_controls(controls)
        self.credit = {p: rule.credit_cap if f > 0 else 0.0 for p, f in self.fraction.items()}

    # Time.

    def _iteration_seconds(self, gpu: GroupGpu) -> float:
        self.hardware = gpu.group.hardware
        return super()._iteration_seconds(gpu)

    def _pass_time(self, time: float) -> None:
        seconds = max(0.0, time - self.time)
        for gpu in self.gpus:
            iterations = seconds / self._iteration_seconds(gpu)
            for request in gpu.in_service:
                request.remaining -= iterations
        for i, g in self.pairs:
            earned = self.fraction[i, g] * self.served_rates[i] * seconds
            self.credit[i, g] = min(self.rule.credit_cap, self._credit((i, g)) + earned)
        self.time = max(self.time, time)

    def _possible_events(self) -> Iterator[Event]:
        queues, self.queues = self.queues, []
        gate = self.rule.gate
        self.prefill_slots = []  # credit timers are of pairs: below
        yield from super()._possible_events()
        self.queues = queues
        waiting = [queue for queue in queues if queue]
        waiting += [gpu.queue for gpu in self.gpus if gpu.queue]
        for queue in waiting:
            first = min(queue, key=lambda r: (r.deadline, r.index))
            leave = partial(self._abandon, queue, first, LEAVE_PREFILL)
            yield first.deadline, ABANDONMENT, first.index, 0, leave
        if gate in {"credit", "largest-credit"}:
            for place, (i, g) in enumerate(self.pairs):
                rate = self.fraction[i, g] * self.served_rates[i]
                has = self._has_credit((i, g))
                if self.queues[i] and not has and rate > 0 and self.prefilling[g]:
                    ready = self.time + (1.0 - self.credit[i, g]) / rate
                    yield ready, CREDIT_TIMER, place, 0, partial(self._grant_credit, (i, g))

    def _grant_credit(self, pair) -> None:
        self.credit[pair] = max(1.0, self.credit[pair])
        self._dispatch()

    # Controls.

    def _set_controls(self, controls: np.ndarray) -> None:
        if not self.ready:
            return
        n, n_groups = len(self.classes), len(self.groups)
        p = n * n_groups
        self.credit = {pair: self._credit(pair) for pair in self.pairs}
        for place, (i, g) in enumerate(self.pairs):
            self.fraction[i, g] = float(controls[place])
        self.share = {pair: float(controls[p + k]) for k, pair in enumerate(self.pairs)}
        self.pools = [int(size) for size in controls[2 * p : 2 * p + n_groups]]
        self.whole = [
            sum(self.fraction[i, g] for g in range(n_groups)) >= 1 - ROUNDING for i in self.classes
        ]
        self.targets = {
            (i, g): self.fraction[i, g] * self.served_rates[i] / self.rates[i, g]
            for i, g in self.pairs
        }
        self.excess = []
        for i in self.classes:
            admitted = sum(self.fraction[i, g] * self.served_rates[i] for g in range(n_groups))
            left = self.served_rates[i] - admitted
            theta = self.instance.classes[i].patience_rate
            self.excess.append(0.0 if left <= 0 else left / theta if theta else math.inf)
        for gpu in self.gpus:
            self._update_slots(gpu)

    # Gates.

    def _credit(self, pair) -> float:
        if not self.ready:
            return 0.0
        full = self.whole[pair[0]] and self.fraction[pair] > 0 if hasattr(self, "whole") else False
        return self.rule.credit_cap if full else self.credit[pair]

    def _has_credit(self, pair) -> bool:
        return self._credit(pair) >= 1 - ROUNDING

    def _x(self, i: int, g: int) -> int:
        return sum(
            gpu.prefill is not None and gpu.prefill.i == i and gpu.g == g for gpu in self.gpus
        )

    def _y(self, i: int, g: int) -> int:
        return sum(r.i == i for gpu in self.gpus if gpu.g == g for r in gpu.decodes)

    def _free_slots(self) -> int:
        decoding = [gpu for gpu in self.gpus if gpu.group.role != "prefill"]
        free = sum(gpu.group.hardware.batch_slots for gpu in decoding)
        free -= sum(len(gpu.in_service) for gpu in self.gpus)
        only_prefill = any(group.role == "prefill" for group in self.groups)
        return max(0, free - only_prefill * len(self.solo_line))

    def _choose_pair(self, anywhere: bool = False):  # noqa: C901 - a branch for each gate
        """The class to admit and the group; None for any group."""
        gate, ranks = self.rule.gate, self.ranks
        n_groups = len(self.groups)
        heads = {i: queue[0] for i, queue in enumerate(self.queues) if queue}
        age = {i: (head.arrival_time, head.index) for i, head in heads.items()}
        if gate in {"fcfs", "earliest-deadline"}:

            def due(i):
                limits = self.instance.classes[i].deadlines
                bound = limits.ttft_seconds if limits is not None else None
                return math.inf if bound is None else age[i][0] + bound

            first = age.get if gate == "fcfs" else lambda i: (due(i), age[i])
            return (min(heads, key=first), None) if heads else None
        open_ = [
            g
            for g in range(n_groups)
            if (self.groups[g].role != "decode" if anywhere else self.prefilling[g])
        ]
        pairs = [(i, g) for i in heads for g in open_]
        if gate in {"occupancy", "strict-occupancy"}:
            if gate == "strict-occupancy":
                pairs = [p for p in pairs if self._x(*p) < self.targets[p] * (1 - ROUNDING)]

            def fill(pair):
                target = self.targets[pair]
                ratio = self._x(*pair) / target if target > 0 else math.inf
                i = pair[0]
                return round(ratio, 9), self.excess[i] - len(self.queues[i]), pair

            return min(pairs, key=fill, default=None)
        if gate in {"credit", "largest-credit"}:
            pairs = [p for p in pairs if self._has_credit(p)]
            if not pairs:
                return None
            best = {}
            for i, g in pairs:  # of one class the fullest bucket, the first of equal ones
                if i not in best or self._credit((i, g)) > self._credit((i, best[i])):
                    best[i] = g
            if gate == "credit":
                return min(best.items(), key=lambda p: age[p[0]])
            return min(best.items(), key=lambda p: (-self._credit(p), age[p[0]]))
        return self._by_rank(pairs, age, ranks)

    def _by_rank(self, pairs, age, ranks):
        n_groups, free = len(self.groups), self._free_slots()
        names = [c.name for c in self.instance.classes]

        def rank(i, g):
            if self.rule.gate == "static-priority":
                return -list(self.rule.priority or names).index(names[i])
            return float(ranks.priority[i * n_groups + g])

        def reserve(i, g):
            if self.rule.gate == "static-priority":
                return math.floor(dict(self.rule.reserves).get(names[i], 0.0)) + 1
            return float(ranks.reserve[i * n_groups + g])

        best = None
        for i, g in pairs:
            if free < reserve(i, g):
                continue
            if best is None or rank(i, g) > rank(*best):
                best = i, g
            elif rank(i, g) == rank(*best):
                if i == best[0]:
                    less = self._x(i, g) * self.targets[best] < self._x(*best) * self.targets[i, g]
                else:
                    less = age[i] < age[best[0]]
                best = (i, g) if less else best
        return best

    # Slots.

    def _update_slots(self, gpu: GroupGpu) -> None:
        if not self.ready:
            return
        slots, used = gpu.group.hardware.batch_slots, len(gpu.in_service)
        assert used <= slots
        first = int(self.sizes[: gpu.g].sum())
        if self.rule.pools == "dynamic":
            prefill = solo = used < slots and gpu.prefill is None
            mixed = used < slots and gpu.prefill is not None
        elif gpu.index - first < self.pools[gpu.g]:
            solo, mixed = False, used - (gpu.prefill is not None) < slots - 1
            prefill = used < slots and gpu.prefill is None
        else:
            solo, mixed, prefill = used < slots, False, False
        decodes, prefills = gpu.group.role != "prefill", gpu.group.role != "decode"
        _set_member(self.solo[gpu.g], gpu, solo and decodes)
        _set_member(self.mixed[gpu.g], gpu, mixed and decodes)
        _set_member(self.prefilling[gpu.g], gpu, prefill and prefills)

    def _pick(self, sets: list[list[Gpu]], g: int | None, tokens: float) -> Gpu | None:
        """A random GPU of a group's set; of any group: first one drawn by the sizes of the sets."""
        if g is not None:
            return self._random_gpu(sets[g], tokens)
        total = sum(map(len, sets))
        g = 0
        if total > 1:
            place = self.draws.below("routing", self.routing_draws, total)
            self.routing_draws += 1
            while place >= len(sets[g]):
                place -= len(sets[g])
                g += 1
        in_turn = sets[g:] + sets[:g]
        found = (self._random_gpu(members, tokens) for members in in_turn)
        return next((gpu for gpu in found if gpu), None)

    def _decoder(self, members: list[Gpu], request: Request) -> Gpu | None:
        """A GPU of a group's set for a decode."""
        return self._random_gpu(members, _tokens(request))

    # Routers.

    def _fewest(self, i: int, sets: list[list[Gpu]]) -> int | None:
        best = None
        for g, members in enumerate(sets):
            if members and (best is None or self._decodes_less(i, g, best)):
                best = g
        return best

    def _decodes_less(self, i: int, g: int, other: int) -> bool:
        return self._y(i, g) * self.share[i, other] < self._y(i, other) * self.share[i, g]

    def _leaving_room(self, g: int, request: Request) -> Gpu | None:
        hardware = self.groups[g].hardware
        kinds = [self.solo[g], self.mixed[g]]
        if hardware.tau_mixed <= hardware.tau_solo or self._choose_pair(anywhere=True):
            kinds.reverse()
        return self._decoder(kinds[0], request) or self._decoder(kinds[1], request)

    def _gpu_for_head(self, line: list[Request]) -> Gpu | None:
        i = line[0].i
        for sets in (self.solo, self.mixed):
            g = self._fewest(i, sets)
            if g is not None and self.rule.router == "prefill-aware":
                return self._leaving_room(g, line[0])
            if g is not None and (gpu := self._decoder(sets[g], line[0])):
                return gpu
        return None

    # Dispatch.

    def _admit(self) -> None:
        while any(self.prefilling):
            pair = self._choose_pair()
            if pair is None or not self._admit_pair(pair):
                return

    def _admit_pair(self, pair: tuple[int, int | None]) -> bool:
        i, g = pair
        gpu = self._pick(self.prefilling, g, self._prefill_tokens(self.queues[i][0]))
        if gpu is None:
            return False
        own = i, gpu.g
        self.credit[own] = max(0.0, self._credit(own) - 1.0)
        self._start_prefill(gpu, self.queues[i].pop(0))
        return True

    def _start_prefill(self, gpu: GroupGpu, request: Request) -> None:
        self.hardware = gpu.group.hardware
        super()._start_prefill(gpu, request)

    def _serve_by_rank(self) -> None:
        admits = places = True
        while True:
            pair = self._choose_pair() if admits and any(self.prefilling) else None
            decode = self._best_decode() if places else None
            flags = self.ranks.precedes_decodes
            first = pair and (decode is None or flags[pair[0] * len(self.groups) + pair[1]])
            if first:
                admits = self._admit_pair(pair)
            elif decode is not None:
                request, g = decode
                gpu = self._leaving_room(g, request)
                places = gpu is not None
                if gpu is not None:
                    self.solo_line.remove(request)
                    self._start_decode(gpu, request)
            else:
                return

    def _best_decode(self) -> tuple[Request, int] | None:
        n_groups, free = len(self.groups), self._free_slots()
        heads = {r.i: r for r in reversed(self.solo_line)}
        best: tuple[Request, int] | None = None

        def rank(request, g):
            return float(self.ranks.decode_priority[request.i * n_groups + g])

        for i in sorted(heads):
            for g in range(n_groups):
                low = free < self.ranks.decode_reserve[i * n_groups + g]
                if low or not (self.solo[g] or self.mixed[g]):
                    continue
                own = heads[i], g
                if best is None or rank(*own) > rank(*best):
                    best = own
                elif rank(*own) == rank(*best):
                    if own[0] is best[0]:
                        less = self._decodes_less(i, g, best[1])
                    else:
                        less = self.solo_line.index(own[0]) < self.solo_line.index(best[0])
                    best = own if less else best
        return best

    # Queues at GPUs.

    def _arrive(self) -> None:
        if not self.on_arrival:
            super()._arrive()
            return
        request = self._next_request()
        self._schedule_arrival()
        self._log(ARRIVE, request)
        if _tokens(request) > self.kv_tokens:
            self._log(REJECT, request)
            self._serve_at(None)
            return
        gpu = self._sent_to()
        gpu.queue.append(request)
        self._serve_at(gpu)
        if request in gpu.queue:
            self._start_patience(request, 2 * request.index)

    def _prefills_at(self, gpu: GroupGpu) -> float:
        """Seconds of prefills that wait or run."""
        hardware = gpu.group.hardware
        requests = gpu.queue + ([gpu.prefill] if gpu.prefill else [])
        return sum(r.prompt_tokens / hardware.chunk_tokens * hardware.tau_mixed for r in requests)

    def _sent_to(self) -> GroupGpu:
        n = len(self.gpus)

        def drawn() -> int:
            self.routing_draws += 1
            return self.draws.below("routing", self.routing_draws - 1, n)

        def prefiller() -> GroupGpu:
            gpu = self.gpus[drawn()]
            return gpu if gpu.group.role != "decode" else prefiller()

        def next_one(k: int) -> GroupGpu:
            in_turn = self.gpus[k:] + self.gpus[:k]
            return next(gpu for gpu in in_turn if gpu.group.role != "decode")

        def load(gpu: GroupGpu) -> float:
            inside = len(gpu.queue) + len(gpu.in_service)
            return inside / gpu.group.hardware.batch_slots

        router = self.rule.router
        if router == "round-robin":
            gpu = next_one(self.next_round)
            self.next_round = (gpu.index + 1) % n
            return gpu
        if router == "random":
            return prefiller()
        if router == "power-of-two-choices":
            one, other = prefiller(), prefiller()
            return one if load(one) <= load(other) else other
        first = drawn()
        in_turn = [
            gpu for gpu in self.gpus[first:] + self.gpus[:first] if gpu.group.role != "decode"
        ]
        measure: Callable = (
            load if router == "least-loaded" else lambda g: round(self._prefills_at(g), 9)
        )
        return min(in_turn, key=measure)

    def _serve_at(self, gpu: GroupGpu | None) -> None:
        while self.solo_line:
            decoding = [g for g, group in enumerate(self.groups) if group.role == "decode"]
            tokens = _tokens(self.solo_line[0])
            found = (self._random_gpu(self.solo[g], tokens) for g in decoding if self.solo[g])
            to = next((one for one in found if one), None)
            if to is None:
                break
            self._start_decode(to, self.solo_line.pop(0))
        if gpu is None or not gpu.queue or gpu not in self.prefilling[gpu.g]:
            return
        names = [c.name for c in self.instance.classes]
        order = list(self.rule.priority or names)
        keys = {
            "fcfs": lambda r: (r.index,),
            "static-priority": lambda r: (order.index(names[r.i]), r.index),
            "shortest-prompt": lambda r: (r.prompt_tokens, r.index),
        }
        request = min(gpu.queue, key=keys[self.rule.gate])
        if self._reserved(gpu) + self._prefill_tokens(request, gpu) > self.kv_tokens:
            return
        gpu.queue.remove(request)
        self._start_prefill(gpu, request)

    def _end_prefill(self, gpu: GroupGpu) -> None:
        if not self.on_arrival:
            super()._end_prefill(gpu)
            return
        request = gpu.prefill
        gpu.prefill = None
        self._log(PREFILL_END, request, gpu)
        self._update_slots(gpu)
        request.prefilled_time = self.time
        if gpu.group.role == "mixed":
            self._start_decode(gpu, request)
        else:
            self.solo_line.append(request)
        self._serve_at(gpu)
        if request in self.solo_line:
            self._start_patience(request, 2 * request.index + 1)

    def _end_decode(self, gpu: GroupGpu, request: Request) -> None:
        if not self.on_arrival:
            super()._end_decode(gpu, request)
            return
        gpu.decodes.remove(request)
        self._log(DECODE_END, request, gpu)
        self._update_slots(gpu)
        self._serve_at(gpu)

    def _abandon(self, queue: list[Request], request: Request, kind: int) -> None:
        if not self.on_arrival:
            super()._abandon(queue, request, kind)
            return
        at = next((gpu for gpu in self.gpus if gpu.queue is queue), None)
        queue.remove(request)
        self._log(self._reason(request, kind), request)
        self._serve_at(at if kind == LEAVE_PREFILL else self._source(request))

    def _source(self, request: Request) -> GroupGpu | None:
        """The GPU that holds a finished prefill's KV cache: none where moves are free."""
        return None

    def _reserved(self, gpu: GroupGpu) -> float:
        tokens = sum(map(_tokens, gpu.decodes))
        return tokens + (self._prefill_tokens(gpu.prefill, gpu) if gpu.prefill else 0.0)

    def _prefill_tokens(self, request: Request, gpu: GroupGpu | None = None) -> float:
        if self.on_arrival:
            stays = gpu is not None and gpu.group.role != "prefill"
            return request.prompt_tokens + (request.output_tokens if stays else 0.0)
        return super()._prefill_tokens(request)
