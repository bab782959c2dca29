"""Gate-and-route in plain Python with ``heapq``: a baseline of ``llmsched bench``.

The same model as the compiled engine (per request, Poisson arrivals, exponential lengths,
patience in both queues, two-speed GPUs, static pools, printed occupancy gate, solo-first router)
without numba: one heap of events, stale entries recognised by a version number, and no scan over
GPUs or waiting requests.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import accumulate, count

from llm_sched_env.benchmarks.occupancy_gate import OccupancyGate
from llm_sched_env.benchmarks.random_set import RandomSet
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan


@dataclass(slots=True, eq=False)
class _Request:
    class_index: int
    prompt_iterations: float
    output_iterations: float
    version: int = 0  # raised when it stops waiting: its abandonment in the heap is stale


@dataclass(slots=True, eq=False)
class _Gpu:
    """An iteration clock: requests end at fixed marks on it, only its speed changes."""

    in_mixed_pool: bool
    seconds_per_iteration: float
    iterations: float = 0.0  # at updated_time
    updated_time: float = 0.0
    prefill: _Request | None = None
    prefill_mark: float = math.inf
    decodes: list[tuple[float, int, _Request]] = field(default_factory=list)  # heap of marks
    next_time: float = math.inf
    version: int = 0  # raised when the next completion changes

    def clock(self, time: float) -> float:
        """Iterations done by ``time``."""
        return self.iterations + (time - self.updated_time) / self.seconds_per_iteration

    def set_prefill(self, request: _Request | None, mark: float, speed: float, time: float) -> None:
        """Start or end a prefill, which changes the speed (seconds per iteration)."""
        self.iterations, self.updated_time = self.clock(time), time
        self.prefill, self.prefill_mark = request, mark
        self.seconds_per_iteration = speed


class HeapqCluster:
    """One cluster, empty at time 0, and its heap of events (time, sequence, subject, version).

    The subject says what happens: a GPU completes its next prefill or decode, a request gives
    up waiting, ``None`` is the next arrival.

    Attributes:
        time: simulated seconds.
        events: arrivals, completions of prefills and decodes, and abandonments so far.
        completed: requests completed so far, per class.
    """

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        n_classes = instance.n_classes
        self._rng = random.Random(seed)
        self._classes = instance.classes
        self._hardware = instance.hardware
        self._mixed_speed = instance.hardware.tau_mixed
        self._solo_speed = instance.hardware.tau_solo
        self._cumulative_rates = list(accumulate(n_gpus * c.arrival_rate for c in self._classes))
        self._gate = OccupancyGate(plan, n_gpus)
        self.time = 0.0
        self.events = 0
        self.completed = [0] * n_classes
        self._prefills = [0] * n_classes
        self._waiting_prefills = 0
        self._queues: list[OrderedDict[_Request, None]] = [OrderedDict() for _ in self._classes]
        self._buffer: OrderedDict[_Request, None] = OrderedDict()
        self._solo_free: RandomSet[_Gpu] = RandomSet()
        self._mixed_free: RandomSet[_Gpu] = RandomSet()
        self._prefill_free: RandomSet[_Gpu] = RandomSet()
        self._heap: list[tuple[float, int, _Request | _Gpu | None, int]] = []
        self._sequence = count()
        pool_size = plan.pool_size(n_gpus)
        self._gpus = [_Gpu(k < pool_size, self._solo_speed) for k in range(n_gpus)]
        for gpu in self._gpus:
            self._update_free_slots(gpu)
        self._push_arrival()

    def advance(self, seconds: float) -> int:
        """Simulate this many seconds more; how many events happened."""
        heap, before, until = self._heap, self.events, self.time + seconds
        while heap[0][0] <= until:
            time, _, subject, version = heapq.heappop(heap)
            if subject is not None and subject.version != version:
                continue
            self.time = time
            self.events += 1
            if subject is None:
                self._arrive()
            elif isinstance(subject, _Gpu):
                self._complete(subject)
            else:
                self._abandon(subject)
        self.time = until
        return self.events - before

    def occupancy(self) -> list[list[int]]:
        """Requests now, by class: waiting, in prefill, prefilled and waiting, mixed, solo."""
        n_classes = len(self._classes)
        decodes = [[0] * n_classes, [0] * n_classes]
        for gpu in self._gpus:
            for _, _, request in gpu.decodes:
                decodes[gpu.prefill is None][request.class_index] += 1
        buffered = [0] * n_classes
        for request in self._buffer:
            buffered[request.class_index] += 1
        return [[len(q) for q in self._queues], list(self._prefills), buffered, *decodes]

    def _push(self, time: float, subject: _Request | _Gpu | None, version: int) -> None:
        """Put an event on the heap; it is stale once the subject's version has moved on."""
        heapq.heappush(self._heap, (time, next(self._sequence), subject, version))

    def _push_arrival(self) -> None:
        """Schedule the next arrival of the merged Poisson stream."""
        gap = self._rng.expovariate(self._cumulative_rates[-1])
        self._push(self.time + gap, None, 0)

    def _push_abandonment(self, request: _Request) -> None:
        """Start the patience clock of a request that waits; rate 0 never leaves."""
        rate = self._classes[request.class_index].patience_rate
        if rate > 0.0:
            self._push(self.time + self._rng.expovariate(rate), request, request.version)

    def _push_completion(self, gpu: _Gpu) -> None:
        """Schedule the GPU's next completion; an earlier entry becomes stale if it differs."""
        mark = min(gpu.prefill_mark, gpu.decodes[0][0]) if gpu.decodes else gpu.prefill_mark
        time = gpu.updated_time + (mark - gpu.iterations) * gpu.seconds_per_iteration
        if time != gpu.next_time:
            gpu.next_time = time
            gpu.version += 1
            if time < math.inf:
                self._push(time, gpu, gpu.version)

    def _arrive(self) -> None:
        """A request draws class and lengths and joins the queue of its class."""
        rng, rates = self._rng, self._cumulative_rates
        i = min(bisect_right(rates, rng.random() * rates[-1]), len(rates) - 1)
        prompt = rng.expovariate(self._hardware.chunk_tokens / self._classes[i].prompt_tokens)
        request = _Request(i, prompt, rng.expovariate(1.0 / self._classes[i].output_tokens))
        self._push_arrival()
        self._queues[i][request] = None
        self._waiting_prefills += 1
        self._admit()
        if request in self._queues[i]:
            self._push_abandonment(request)

    def _complete(self, gpu: _Gpu) -> None:
        """The earliest decode or the prefill of a GPU ends; freed slots are used at once."""
        gpu.next_time = math.inf
        prefilled = None
        if gpu.decodes and gpu.decodes[0][0] <= gpu.prefill_mark:
            self.completed[heapq.heappop(gpu.decodes)[2].class_index] += 1
        elif gpu.prefill is not None:
            prefilled = gpu.prefill
            gpu.set_prefill(None, math.inf, self._solo_speed, self.time)
            self._prefills[prefilled.class_index] -= 1
            self._buffer[prefilled] = None
        self._update_free_slots(gpu)
        self._place_decodes()
        self._admit()
        self._push_completion(gpu)
        if prefilled is not None and prefilled in self._buffer:
            self._push_abandonment(prefilled)

    def _abandon(self, request: _Request) -> None:
        """A waiting request abandons."""
        if request in self._buffer:
            del self._buffer[request]
        else:
            del self._queues[request.class_index][request]
            self._waiting_prefills -= 1

    def _place_decodes(self) -> None:
        """Solo-first router: the head of the buffer takes a random solo slot, else a mixed one."""
        solo_free, mixed_free = self._solo_free, self._mixed_free
        while self._buffer and (solo_free.members or mixed_free.members):
            gpu = (solo_free if solo_free.members else mixed_free).choose(self._rng)
            request, _ = self._buffer.popitem(last=False)
            request.version += 1
            mark = gpu.clock(self.time) + request.output_iterations
            heapq.heappush(gpu.decodes, (mark, next(self._sequence), request))
            self._update_free_slots(gpu)
            self._push_completion(gpu)

    def _admit(self) -> None:
        """Start prefills while a mixed GPU is idle for one and a request waits."""
        while self._waiting_prefills and self._prefill_free.members:
            i = self._gate.choose(self._prefills, [len(queue) for queue in self._queues])
            request, _ = self._queues[i].popitem(last=False)
            request.version += 1
            self._waiting_prefills -= 1
            self._prefills[i] += 1
            gpu = self._prefill_free.choose(self._rng)
            mark = gpu.clock(self.time) + request.prompt_iterations
            gpu.set_prefill(request, mark, self._mixed_speed, self.time)
            self._update_free_slots(gpu)
            self._push_completion(gpu)

    def _update_free_slots(self, gpu: _Gpu) -> None:
        """Bring the sets in line with a GPU's slots; a mixed one keeps a slot for prefill."""
        decodes, slots = len(gpu.decodes), self._hardware.batch_slots
        if gpu.in_mixed_pool:
            self._mixed_free.set_member(gpu, decodes < slots - 1)
            self._prefill_free.set_member(gpu, gpu.prefill is None and decodes < slots)
        else:
            self._solo_free.set_member(gpu, decodes < slots)
