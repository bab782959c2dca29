"""Gate-and-route in SimPy: the model of the engine as processes and events.

The arrivals, every request and every GPU are processes. A GPU waits for its next completion and
is interrupted only when that moves: it keeps an iteration clock on which requests end at fixed
marks, so a change of speed reschedules one process and not every decode on the GPU. A request
waits with ``prefilled | patience``; nothing scans GPUs or waiting requests.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator
from itertools import accumulate, count
from typing import Any

import simpy

from llm_sched_env.benchmarks.occupancy_gate import OccupancyGate
from llm_sched_env.benchmarks.random_set import RandomSet
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan

Process = Generator[simpy.Event, Any, None]


class _Request:
    """One request; lengths are in iterations of its GPU."""

    __slots__ = ("class_index", "output_iterations", "placed", "prefilled", "prompt_iterations")

    def __init__(
        self, env: simpy.Environment, class_index: int, prompt: float, output: float
    ) -> None:
        self.class_index = class_index
        self.prompt_iterations = prompt
        self.output_iterations = output
        self.prefilled = env.event()
        self.placed: simpy.Event | None = None  # made for a request that waits for a slot


class _Gpu:
    """An iteration clock and the process that waits for its next completion."""

    __slots__ = (
        "_env",
        "_iterations",
        "_on_completion",
        "_process",
        "_seconds_per_iteration",
        "_updated_time",
        "decodes",
        "in_mixed_pool",
        "next_time",
        "prefill",
        "prefill_mark",
    )

    def __init__(
        self, env: simpy.Environment, in_mixed_pool: bool, speed: float, on_completion: Any
    ) -> None:
        self.in_mixed_pool = in_mixed_pool
        self.prefill: _Request | None = None
        self.prefill_mark = math.inf
        self.decodes: list[tuple[float, int, _Request]] = []  # heap of marks
        self.next_time = math.inf
        self._env = env
        self._seconds_per_iteration = speed
        self._iterations = 0.0  # at updated_time
        self._updated_time = 0.0
        self._on_completion = on_completion
        self._process = env.process(self._serve())

    def clock(self) -> float:
        """Iterations done by now."""
        elapsed = self._env.now - self._updated_time
        return self._iterations + elapsed / self._seconds_per_iteration

    def set_prefill(self, request: _Request | None, mark: float, speed: float) -> None:
        """Start or end a prefill, which changes the speed (seconds per iteration)."""
        self._iterations, self._updated_time = self.clock(), self._env.now
        self.prefill, self.prefill_mark = request, mark
        self._seconds_per_iteration = speed

    def reschedule(self) -> None:
        """Wake the process if its next completion has moved and it is not at work already."""
        if self._env.active_process is not self._process and self._completion() != self.next_time:
            self._process.interrupt()

    def _completion(self) -> float:
        """When the next request on this GPU ends."""
        mark = min(self.prefill_mark, self.decodes[0][0]) if self.decodes else self.prefill_mark
        return self._updated_time + (mark - self._iterations) * self._seconds_per_iteration

    def _serve(self) -> Process:
        env = self._env
        while True:
            self.next_time = time = self._completion()
            idle = time == math.inf
            try:
                yield env.event() if idle else env.timeout(max(0.0, time - env.now))
            except simpy.Interrupt:
                continue
            self._on_completion(self)


class SimpyCluster:
    """One cluster, empty at time 0.

    Attributes:
        events: arrivals, completions of prefills and decodes, and abandonments so far.
        completed: requests completed so far, per class.
    """

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        self._env = simpy.Environment()
        self._rng = random.Random(seed)
        self._classes = instance.classes
        self._hardware = instance.hardware
        self._mixed_speed = instance.hardware.tau_mixed
        self._solo_speed = instance.hardware.tau_solo
        self._cumulative_rates = list(accumulate(n_gpus * c.arrival_rate for c in self._classes))
        self._gate = OccupancyGate(plan, n_gpus)
        self.events = 0
        self.completed = [0] * instance.n_classes
        self._prefills = [0] * instance.n_classes
        self._queues: list[OrderedDict[_Request, None]] = [OrderedDict() for _ in self._classes]
        self._buffer: OrderedDict[_Request, None] = OrderedDict()
        self._solo_free: RandomSet[_Gpu] = RandomSet()
        self._mixed_free: RandomSet[_Gpu] = RandomSet()
        self._prefill_free: RandomSet[_Gpu] = RandomSet()
        self._sequence = count()
        pool_size = plan.pool_size(n_gpus)
        self._gpus = [
            _Gpu(self._env, k < pool_size, self._solo_speed, self._complete) for k in range(n_gpus)
        ]
        for gpu in self._gpus:
            self._update_free_slots(gpu)
        self._env.process(self._arrivals())

    def advance(self, seconds: float) -> int:
        """Simulate this many seconds more; how many events happened."""
        before = self.events
        self._env.run(until=self._env.now + seconds)
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

    def _arrivals(self) -> Process:
        """The merged Poisson stream of all classes."""
        env, rng, rates = self._env, self._rng, self._cumulative_rates
        prompt_rates = [self._hardware.chunk_tokens / c.prompt_tokens for c in self._classes]
        output_rates = [1.0 / c.output_tokens for c in self._classes]
        while True:
            yield env.timeout(rng.expovariate(rates[-1]))
            i = min(bisect_right(rates, rng.random() * rates[-1]), len(rates) - 1)
            prompt, output = rng.expovariate(prompt_rates[i]), rng.expovariate(output_rates[i])
            env.process(self._request(_Request(env, i, prompt, output)))

    def _request(self, request: _Request) -> Process:
        """A request waits for its prefill, then for a decode slot; it may abandon in between."""
        self.events += 1
        queue = self._queues[request.class_index]
        queue[request] = None
        self._admit()
        if request in queue:
            yield self._or_patience(request, request.prefilled)
            if request in queue:
                del queue[request]
                self.events += 1
                return
        # Patience that ends in service has no effect.
        if not request.prefilled.triggered:
            yield request.prefilled
        self._buffer[request] = None
        self._place_decodes()
        if request in self._buffer:
            request.placed = self._env.event()
            yield self._or_patience(request, request.placed)
            if request in self._buffer:
                del self._buffer[request]
                self.events += 1

    def _or_patience(self, request: _Request, event: simpy.Event) -> simpy.Event:
        """The event, or the end of the request's patience; rate 0 never leaves."""
        rate = self._classes[request.class_index].patience_rate
        if rate > 0.0:
            return event | self._env.timeout(self._rng.expovariate(rate))
        return event

    def _complete(self, gpu: _Gpu) -> None:
        """The earliest decode or the prefill of a GPU ends; freed slots are used at once."""
        self.events += 1
        if gpu.decodes and gpu.decodes[0][0] <= gpu.prefill_mark:
            self.completed[heapq.heappop(gpu.decodes)[2].class_index] += 1
            self._update_free_slots(gpu)
            self._place_decodes()
        elif gpu.prefill is not None:
            prefilled = gpu.prefill
            gpu.set_prefill(None, math.inf, self._solo_speed)
            self._prefills[prefilled.class_index] -= 1
            prefilled.prefilled.succeed()
            self._update_free_slots(gpu)
            self._admit()

    def _place_decodes(self) -> None:
        """Solo-first router: the head of the buffer takes a random solo slot, else a mixed one."""
        solo_free, mixed_free = self._solo_free, self._mixed_free
        while self._buffer and (solo_free.members or mixed_free.members):
            gpu = (solo_free if solo_free.members else mixed_free).choose(self._rng)
            request, _ = self._buffer.popitem(last=False)
            if request.placed is not None:
                request.placed.succeed()
            mark = gpu.clock() + request.output_iterations
            heapq.heappush(gpu.decodes, (mark, next(self._sequence), request))
            self._update_free_slots(gpu)
            gpu.reschedule()

    def _admit(self) -> None:
        """Start prefills while a mixed GPU is idle for one and a request waits."""
        while self._prefill_free.members and any(self._queues):
            i = self._gate.choose(self._prefills, [len(queue) for queue in self._queues])
            request, _ = self._queues[i].popitem(last=False)
            self._prefills[i] += 1
            gpu = self._prefill_free.choose(self._rng)
            mark = gpu.clock() + request.prompt_iterations
            gpu.set_prefill(request, mark, self._mixed_speed)
            self._update_free_slots(gpu)
            gpu.reschedule()

    def _update_free_slots(self, gpu: _Gpu) -> None:
        """Bring the sets in line with a GPU's slots; a mixed one keeps a slot for prefill."""
        decodes, slots = len(gpu.decodes), self._hardware.batch_slots
        if gpu.in_mixed_pool:
            self._mixed_free.set_member(gpu, decodes < slots - 1)
            self._prefill_free.set_member(gpu, gpu.prefill is None and decodes < slots)
        else:
            self._solo_free.set_member(gpu, decodes < slots)
