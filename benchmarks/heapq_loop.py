"""The yardstick of ``llmsched bench``: gate-and-route in plain Python with ``heapq``.

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

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.instance import Instance
from llm_sched_env.planning import FluidPlan

_ARRIVAL, _COMPLETION, _ABANDONMENT = range(3)


@dataclass(frozen=True)
class HeapqResult:
    """What a run counted.

    Attributes:
        events: arrivals, completions of prefills and decodes, and abandonments of the whole run.
        completed: requests completed between warm-up and horizon, per class.
        revenue_rate: their bundled revenue (22), class means billed, per GPU and second.
    """

    events: int
    completed: tuple[int, ...]
    revenue_rate: float


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

    def set_prefill(
        self, request: _Request | None, mark: float, speed: float, time: float
    ) -> None:
        """Start or end a prefill, which changes the speed (seconds per iteration)."""
        self.iterations = self.clock(time)
        self.updated_time = time
        self.prefill = request
        self.prefill_mark = mark
        self.seconds_per_iteration = speed


class _GpuSet:
    """GPUs with O(1) insertion, removal and random choice."""

    def __init__(self) -> None:
        self.members: list[_Gpu] = []
        self._places: dict[_Gpu, int] = {}

    def set_member(self, gpu: _Gpu, member: bool) -> None:
        """Put the GPU into the set or take it out."""
        place = self._places.get(gpu)
        if member:
            if place is None:
                self._places[gpu] = len(self.members)
                self.members.append(gpu)
        elif place is not None:
            last = self.members.pop()
            del self._places[gpu]
            if last is not gpu:
                self.members[place] = last
                self._places[last] = place

    def choose(self, rng: random.Random) -> _Gpu:
        """A uniformly random member."""
        return self.members[int(rng.random() * len(self.members))]


class _EventLoop:
    """One cluster and its event heap of (time, sequence, kind, subject, version)."""

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        hardware = instance.hardware
        classes = range(instance.n_classes)
        self.rng = random.Random(seed)
        self.time = 0.0
        self.events = 0
        self.completed = [0 for _ in classes]
        self.slots = hardware.batch_slots
        self.mixed_speed = hardware.tau_mixed
        self.solo_speed = hardware.tau_solo
        self.prompt_rates = [float(hardware.chunk_tokens / p) for p in instance.prompt_tokens]
        self.output_rates = [float(1.0 / d) for d in instance.output_tokens]
        self.patience_rates = [float(theta) for theta in instance.patience_rates]
        self.cumulative_rates = list(accumulate(n_gpus * float(r) for r in instance.arrival_rates))
        self.prefill_targets = [n_gpus * float(x) for x in plan.x]
        self.queue_targets = [n_gpus * float(q) for q in plan.q_prefill]
        self.prefills = [0 for _ in classes]
        self.queues: list[OrderedDict[_Request, None]] = [OrderedDict() for _ in classes]
        self.waiting_prefills = 0
        self.buffer: OrderedDict[_Request, None] = OrderedDict()
        self.solo_free, self.mixed_free, self.prefill_free = _GpuSet(), _GpuSet(), _GpuSet()
        self.heap: list[tuple[float, int, int, _Request | _Gpu | None, int]] = []
        self.sequence = count()
        pool_size = plan.pool_size(n_gpus)
        for k in range(n_gpus):
            self.update_free_slots(_Gpu(k < pool_size, self.solo_speed))
        self.push_arrival()

    def run(self, until: float) -> None:
        """Process every event up to and including time ``until`` (seconds)."""
        heap = self.heap
        while heap[0][0] <= until:
            time, _, kind, subject, version = heapq.heappop(heap)
            if subject is not None and subject.version != version:
                continue
            self.time = time
            self.events += 1
            if kind == _ARRIVAL:
                self.arrive()
            elif isinstance(subject, _Gpu):
                self.complete(subject)
            elif subject is not None:
                self.abandon(subject)

    def push(self, time: float, kind: int, subject: _Request | _Gpu | None, version: int) -> None:
        """Put an event on the heap."""
        heapq.heappush(self.heap, (time, next(self.sequence), kind, subject, version))

    def push_arrival(self) -> None:
        """Schedule the next arrival of the merged Poisson stream."""
        gap = self.rng.expovariate(self.cumulative_rates[-1])
        self.push(self.time + gap, _ARRIVAL, None, 0)

    def push_abandonment(self, request: _Request) -> None:
        """Start the patience clock of a request that waits; rate 0 never leaves."""
        rate = self.patience_rates[request.class_index]
        if rate > 0.0:
            deadline = self.time + self.rng.expovariate(rate)
            self.push(deadline, _ABANDONMENT, request, request.version)

    def push_completion(self, gpu: _Gpu) -> None:
        """Schedule the GPU's next completion; an earlier entry becomes stale if it differs."""
        mark = gpu.prefill_mark
        if gpu.decodes:
            mark = min(mark, gpu.decodes[0][0])
        time = gpu.updated_time + (mark - gpu.iterations) * gpu.seconds_per_iteration
        if time != gpu.next_time:
            gpu.next_time = time
            gpu.version += 1
            if time < math.inf:
                self.push(time, _COMPLETION, gpu, gpu.version)

    def arrive(self) -> None:
        """A request draws class and lengths and joins the queue of its class."""
        rng, rates = self.rng, self.cumulative_rates
        i = min(bisect_right(rates, rng.random() * rates[-1]), len(rates) - 1)
        request = _Request(
            i, rng.expovariate(self.prompt_rates[i]), rng.expovariate(self.output_rates[i])
        )
        self.push_arrival()
        queue = self.queues[i]
        queue[request] = None
        self.waiting_prefills += 1
        self.admit()
        if request in queue:
            self.push_abandonment(request)

    def complete(self, gpu: _Gpu) -> None:
        """The earliest decode or the prefill of a GPU ends; freed slots are used at once."""
        gpu.next_time = math.inf
        request = gpu.prefill
        if request is None or (gpu.decodes and gpu.decodes[0][0] <= gpu.prefill_mark):
            finished = heapq.heappop(gpu.decodes)[2]
            self.completed[finished.class_index] += 1
            request = None
        else:
            gpu.set_prefill(None, math.inf, self.solo_speed, self.time)
            self.prefills[request.class_index] -= 1
            self.buffer[request] = None
        self.update_free_slots(gpu)
        self.place_decodes()
        self.admit()
        self.push_completion(gpu)
        if request in self.buffer:
            self.push_abandonment(request)

    def abandon(self, request: _Request) -> None:
        """A waiting request gives up."""
        if request in self.buffer:
            del self.buffer[request]
        else:
            del self.queues[request.class_index][request]
            self.waiting_prefills -= 1

    def place_decodes(self) -> None:
        """Solo-first router: the head of the buffer takes a random solo slot, else a mixed one."""
        while self.buffer and (self.solo_free.members or self.mixed_free.members):
            free = self.solo_free if self.solo_free.members else self.mixed_free
            gpu = free.choose(self.rng)
            request, _ = self.buffer.popitem(last=False)
            request.version += 1
            mark = gpu.clock(self.time) + request.output_iterations
            heapq.heappush(gpu.decodes, (mark, next(self.sequence), request))
            self.update_free_slots(gpu)
            self.push_completion(gpu)

    def admit(self) -> None:
        """Start prefills while a mixed GPU is idle for one and a request waits."""
        while self.waiting_prefills and self.prefill_free.members:
            i = self.choose_class()
            request, _ = self.queues[i].popitem(last=False)
            request.version += 1
            self.waiting_prefills -= 1
            self.prefills[i] += 1
            gpu = self.prefill_free.choose(self.rng)
            mark = gpu.clock(self.time) + request.prompt_iterations
            gpu.set_prefill(request, mark, self.mixed_speed, self.time)
            self.update_free_slots(gpu)
            self.push_completion(gpu)

    def choose_class(self) -> int:
        """Occupancy gate: the waiting class with the smallest X/x*, ties by the queue's excess."""
        best, best_key = -1, (math.inf, math.inf)
        for i, queue in enumerate(self.queues):
            if queue:
                target = self.prefill_targets[i]
                ratio = self.prefills[i] / target if target > 0.0 else math.inf
                key = (ratio, self.queue_targets[i] - len(queue))
                if best < 0 or key < best_key:
                    best, best_key = i, key
        return best

    def update_free_slots(self, gpu: _Gpu) -> None:
        """Bring the sets in line with a GPU's slots; a mixed one keeps a slot for prefill."""
        decodes = len(gpu.decodes)
        if gpu.in_mixed_pool:
            self.mixed_free.set_member(gpu, decodes < self.slots - 1)
            self.prefill_free.set_member(gpu, gpu.prefill is None and decodes < self.slots)
        else:
            self.solo_free.set_member(gpu, decodes < self.slots)


def run_heapq(
    instance: Instance,
    plan: FluidPlan,
    n_gpus: int,
    horizon: float,
    seed: int,
    warmup: float = 0.0,
) -> HeapqResult:
    """Simulate gate-and-route from an empty cluster.

    Args:
        instance: classes, hardware and prices.
        plan: its fluid plan, from which targets and pool size are read.
        n_gpus: cluster size n.
        horizon: simulated seconds, warm-up included.
        seed: of all random draws.
        warmup: seconds at the start that do not count towards revenue.

    Raises:
        ConfigurationError: unless 0 <= warmup < horizon.
    """
    if not 0.0 <= warmup < horizon:
        raise ConfigurationError("warmup", warmup, f"a time from 0 to below {horizon:g} s")
    loop = _EventLoop(instance, plan, n_gpus, seed)
    loop.run(warmup)
    before = list(loop.completed)
    loop.run(horizon)
    completed = tuple(late - early for late, early in zip(loop.completed, before, strict=True))
    revenue = sum(
        number * float(price)
        for number, price in zip(completed, instance.bundled_revenues, strict=True)
    )
    return HeapqResult(loop.events, completed, revenue / (n_gpus * (horizon - warmup)))
