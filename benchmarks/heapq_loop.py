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

    def set_prefill(self, request: _Request | None, mark: float, speed: float, time: float) -> None:
        """Start or end a prefill, which changes the speed (seconds per iteration)."""
        self.iterations, self.updated_time = self.clock(time), time
        self.prefill, self.prefill_mark = request, mark
        self.seconds_per_iteration = speed


class _GpuSet:
    """GPUs with O(1) insertion, removal and random choice."""

    def __init__(self) -> None:
        self.members: list[_Gpu] = []
        self._places: dict[_Gpu, int] = {}

    def set_member(self, gpu: _Gpu, member: bool) -> None:
        """Put the GPU into the set or take it out."""
        place = self._places.get(gpu)
        if member and place is None:
            self._places[gpu] = len(self.members)
            self.members.append(gpu)
        elif not member and place is not None:
            last = self.members[place] = self.members[-1]
            self._places[last] = place
            del self.members[-1], self._places[gpu]

    def choose(self, rng: random.Random) -> _Gpu:
        """A uniformly random member."""
        return self.members[int(rng.random() * len(self.members))]


class _EventLoop:
    """One cluster and its heap of events (time, sequence, subject, version).

    The subject says what happens: a GPU completes its next prefill or decode, a request gives
    up waiting, ``None`` is the next arrival.
    """

    def __init__(self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> None:
        n_classes = instance.n_classes
        self.rng = random.Random(seed)
        self.classes = instance.classes
        self.hardware = instance.hardware
        self.mixed_speed = instance.hardware.tau_mixed
        self.solo_speed = instance.hardware.tau_solo
        self.cumulative_rates = list(accumulate(n_gpus * c.arrival_rate for c in self.classes))
        self.prefill_targets = [n_gpus * float(x) for x in plan.x]
        self.queue_targets = [n_gpus * float(q) for q in plan.q_prefill]
        self.time = 0.0
        self.events = 0
        self.completed = [0] * n_classes
        self.prefills = [0] * n_classes
        self.waiting_prefills = 0
        self.queues: list[OrderedDict[_Request, None]] = [OrderedDict() for _ in self.classes]
        self.buffer: OrderedDict[_Request, None] = OrderedDict()
        self.solo_free, self.mixed_free, self.prefill_free = _GpuSet(), _GpuSet(), _GpuSet()
        self.heap: list[tuple[float, int, _Request | _Gpu | None, int]] = []
        self.sequence = count()
        pool_size = plan.pool_size(n_gpus)
        for k in range(n_gpus):
            self.update_free_slots(_Gpu(k < pool_size, self.solo_speed))
        self.push_arrival()

    def run(self, until: float) -> None:
        """Process every event up to and including time ``until`` (seconds)."""
        heap = self.heap
        while heap[0][0] <= until:
            time, _, subject, version = heapq.heappop(heap)
            if subject is not None and subject.version != version:
                continue
            self.time = time
            self.events += 1
            if subject is None:
                self.arrive()
            elif isinstance(subject, _Gpu):
                self.complete(subject)
            else:
                self.abandon(subject)

    def push(self, time: float, subject: _Request | _Gpu | None, version: int) -> None:
        """Put an event on the heap; it is stale once the subject's version has moved on."""
        heapq.heappush(self.heap, (time, next(self.sequence), subject, version))

    def push_arrival(self) -> None:
        """Schedule the next arrival of the merged Poisson stream."""
        gap = self.rng.expovariate(self.cumulative_rates[-1])
        self.push(self.time + gap, None, 0)

    def push_abandonment(self, request: _Request) -> None:
        """Start the patience clock of a request that waits; rate 0 never leaves."""
        rate = self.classes[request.class_index].patience_rate
        if rate > 0.0:
            self.push(self.time + self.rng.expovariate(rate), request, request.version)

    def push_completion(self, gpu: _Gpu) -> None:
        """Schedule the GPU's next completion; an earlier entry becomes stale if it differs."""
        mark = min(gpu.prefill_mark, gpu.decodes[0][0]) if gpu.decodes else gpu.prefill_mark
        time = gpu.updated_time + (mark - gpu.iterations) * gpu.seconds_per_iteration
        if time != gpu.next_time:
            gpu.next_time = time
            gpu.version += 1
            if time < math.inf:
                self.push(time, gpu, gpu.version)

    def arrive(self) -> None:
        """A request draws class and lengths and joins the queue of its class."""
        rng, rates = self.rng, self.cumulative_rates
        i = min(bisect_right(rates, rng.random() * rates[-1]), len(rates) - 1)
        prompt = rng.expovariate(self.hardware.chunk_tokens / self.classes[i].prompt_tokens)
        request = _Request(i, prompt, rng.expovariate(1.0 / self.classes[i].output_tokens))
        self.push_arrival()
        self.queues[i][request] = None
        self.waiting_prefills += 1
        self.admit()
        if request in self.queues[i]:
            self.push_abandonment(request)

    def complete(self, gpu: _Gpu) -> None:
        """The earliest decode or the prefill of a GPU ends; freed slots are used at once."""
        gpu.next_time = math.inf
        prefilled = None
        if gpu.decodes and gpu.decodes[0][0] <= gpu.prefill_mark:
            self.completed[heapq.heappop(gpu.decodes)[2].class_index] += 1
        elif gpu.prefill is not None:
            prefilled = gpu.prefill
            gpu.set_prefill(None, math.inf, self.solo_speed, self.time)
            self.prefills[prefilled.class_index] -= 1
            self.buffer[prefilled] = None
        self.update_free_slots(gpu)
        self.place_decodes()
        self.admit()
        self.push_completion(gpu)
        if prefilled is not None and prefilled in self.buffer:
            self.push_abandonment(prefilled)

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
            gpu = (self.solo_free if self.solo_free.members else self.mixed_free).choose(self.rng)
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

        def rank(i: int) -> tuple[float, float]:
            target = self.prefill_targets[i]
            ratio = self.prefills[i] / target if target > 0.0 else math.inf
            # Rounded, so that targets in simple ratios tie.
            return round(ratio, 9), self.queue_targets[i] - len(self.queues[i])

        return min((i for i, queue in enumerate(self.queues) if queue), key=rank)

    def update_free_slots(self, gpu: _Gpu) -> None:
        """Bring the sets in line with a GPU's slots; a mixed one keeps a slot for prefill."""
        decodes, slots = len(gpu.decodes), self.hardware.batch_slots
        if gpu.in_mixed_pool:
            self.mixed_free.set_member(gpu, decodes < slots - 1)
            self.prefill_free.set_member(gpu, gpu.prefill is None and decodes < slots)
        else:
            self.solo_free.set_member(gpu, decodes < slots)


def run_heapq(
    instance: Instance, plan: FluidPlan, n_gpus: int, horizon: float, seed: int, warmup: float = 0.0
) -> HeapqResult:
    """Simulate gate-and-route from an empty cluster.

    Args:
        instance: classes, hardware and prices.
        plan: its fluid plan: occupancy targets and the size of the mixed pool.
        n_gpus: cluster size n.
        horizon: simulated seconds, warm-up included.
        seed: of all random draws.
        warmup: seconds at the start in which completions are not counted.

    Raises:
        ConfigurationError: unless 0 <= warmup < horizon.
    """
    if not 0.0 <= warmup < horizon:
        raise ConfigurationError("warmup", warmup, f"a time from 0 to below {horizon:g} s")
    loop = _EventLoop(instance, plan, n_gpus, seed)
    loop.run(warmup)
    loop.completed = [0] * instance.n_classes
    loop.run(horizon)
    revenue = float(instance.bundled_revenues @ loop.completed)
    revenue_rate = revenue / (n_gpus * (horizon - warmup))
    return HeapqResult(loop.events, tuple(loop.completed), revenue_rate)
