"""Plain bookkeeping over an event log: who is where, how far along, and what the rules allow."""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.simulation.scheduling.rules import (
    ROUTERS_BY_PROBABILITY,
    DispatchRule,
    EventDispatch,
)
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    DECODE_START,
    LEAVE_DECODE,
    LEAVE_PREFILL,
    PREFILL_END,
    PREFILL_START,
    REJECT,
    RequestStream,
)

OCCUPANCIES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
CAUSES = {ARRIVE, PREFILL_END, DECODE_END, LEAVE_PREFILL, LEAVE_DECODE}
ROUNDING = 1e-9


class Books:
    """Replays the log of a recorded stream and asserts after each entry what must hold.

    Attributes:
        areas: time integrals of requests by place and class, shape (5, I).
        prefilled, completed: indices, in order.
        first_token, end: times by index.
        left_prefill, left_decode: indices of those who gave up.
        rejected: indices of those who fit on no GPU.
        latencies: sums of TTFT, TPOT and end-to-end times by class, shape (3, I).
    """

    def __init__(
        self,
        instance: Instance,
        rule: DispatchRule | EventDispatch,
        controls: np.ndarray,
        n_gpus: int,
        stream: RequestStream,
    ) -> None:
        self.instance, self.rule, self.stream, self.n_gpus = instance, rule, stream, n_gpus
        n_classes = instance.n_classes
        self.slots = instance.hardware.batch_slots
        self.kv_tokens = math.inf
        if instance.hardware.kv_tokens is not None:
            self.kv_tokens = instance.hardware.kv_tokens * (1.0 + ROUNDING)
        self.pool = int(controls[-1]) if rule.pools == "static" else n_gpus
        served = fitting_requests(instance)
        self.targets = controls[:n_classes] * n_gpus * served.arrival_rates / served.prefill_rates
        self.time = 0.0
        self.queues: list[list[int]] = [[] for _ in range(n_classes)]
        self.line: list[int] = []
        self.prefill: list[int | None] = [None] * n_gpus
        self.decodes: list[list[int]] = [[] for _ in range(n_gpus)]
        self.iterations = [0.0] * n_gpus
        self.started_at: dict[int, float] = {}  # on the iteration clock of its GPU
        self.prefill_gpu: dict[int, int] = {}
        self.arrived = 0
        self.areas = np.zeros((5, n_classes))
        self.prefilled: list[int] = []
        self.completed: list[int] = []
        self.left_prefill: list[int] = []
        self.left_decode: list[int] = []
        self.rejected: list[int] = []
        self.first_token: dict[int, float] = {}
        self.latencies = np.zeros((3, n_classes))
        self.last_in_line: dict[tuple[str, int], int] = {}

    def replay(self, events: np.ndarray) -> Books:
        actions = {
            ARRIVE: self._arrive,
            PREFILL_START: self._start_prefill,
            PREFILL_END: self._end_prefill,
            DECODE_START: self._start_decode,
            DECODE_END: self._end_decode,
            LEAVE_PREFILL: self._leave_prefill,
            LEAVE_DECODE: self._leave_decode,
            REJECT: self._reject,
        }
        for time, kind, index, gpu in events.tolist():
            assert time >= self.time, "the clock runs backwards"
            if kind in CAUSES:
                self._assert_nothing_idles()
            elif not (kind == PREFILL_START and "credit" in self.rule.gate):
                assert time == self.time, "a start without a cause"  # credit timers are not logged
            self._pass(time)
            actions[kind](index, gpu)
            if gpu >= 0:
                self._assert_capacities(gpu)
        self._assert_nothing_idles()
        return self

    def inside(self) -> int:
        waiting = sum(map(len, self.queues)) + len(self.line)
        prefills = sum(request is not None for request in self.prefill)
        return waiting + prefills + sum(map(len, self.decodes))

    def class_of(self, index: int) -> int:
        return int(self.stream.request_class[index])

    # Events.

    def _pass(self, time: float) -> None:
        seconds, self.time = time - self.time, time
        if seconds == 0.0:
            return
        for i, queue in enumerate(self.queues):
            self.areas[0, i] += seconds * len(queue)
        for index in self.line:
            self.areas[2, self.class_of(index)] += seconds
        for gpu, prefill in enumerate(self.prefill):
            mixed = prefill is not None
            if prefill is not None:
                self.areas[1, self.class_of(prefill)] += seconds
            for index in self.decodes[gpu]:
                self.areas[3 if mixed else 4, self.class_of(index)] += seconds
            self.iterations[gpu] += seconds / self._iteration_seconds(gpu)

    def _iteration_seconds(self, gpu: int) -> float:
        hardware, mixed = self.instance.hardware, self.prefill[gpu] is not None
        if hardware.iteration_law == "two-speed":
            return hardware.tau_mixed if mixed else hardware.tau_solo
        tokens = len(self.decodes[gpu]) + (hardware.chunk_tokens if mixed else 0)
        return max(hardware.tau_solo, hardware.alpha + hardware.beta * tokens)

    def _arrive(self, index: int, _: int) -> None:
        assert index == self.arrived
        assert self.time == self.stream.arrival_time[index]
        self.arrived += 1
        self.queues[self.class_of(index)].append(index)

    def _reject(self, index: int, _: int) -> None:
        assert self._tokens(index) > self.kv_tokens
        assert self.queues[self.class_of(index)].pop() == index
        self.rejected.append(index)

    def _start_prefill(self, index: int, gpu: int) -> None:
        queue = self.queues[self.class_of(index)]
        assert queue[:1] == [index], "not the head of its class"
        if self.rule.gate == "fcfs":
            assert index == min(waiting[0] for waiting in self.queues if waiting)
        if self.rule.gate == "strict-occupancy":
            assert self._below_target(self.class_of(index))
        assert self._can_prefill(gpu, self._prefill_tokens(index))
        queue.pop(0)
        self.prefill[gpu] = index
        self.started_at[index] = self.iterations[gpu]
        self.prefill_gpu[index] = gpu

    def _end_prefill(self, index: int, gpu: int) -> None:
        assert self.prefill[gpu] == index
        hardware = self.instance.hardware
        chunks = self.stream.prompt_tokens[index] / hardware.chunk_tokens
        if hardware.chunking == "ceil":
            chunks = math.ceil(chunks)
        self._assert_progress(index, gpu, chunks)
        self.prefill[gpu] = None
        self.line.append(index)
        self.prefilled.append(index)
        self.first_token[index] = self.time
        i = self.class_of(index)
        self.latencies[0, i] += self.time - self.stream.arrival_time[index]

    def _start_decode(self, index: int, gpu: int) -> None:
        if self.rule.router == "solo-first":
            assert self.line[:1] == [index], "not the head of the decode line"
            if not self._is_solo(gpu):
                tokens = self._tokens(index)
                assert not any(self._takes_decode(g, tokens) for g in self._gpus(solo=True))
        elif self.rule.router == "agent":
            own = [r for r in self.line if self.class_of(r) == self.class_of(index)]
            assert own[:1] == [index], "not the head of its class"
        elif self.rule.router == "coupled":
            assert gpu == self.prefill_gpu.get(index)
        elif self.rule.pools == "static":
            # Hidden lines of each pool, or of its classes, each first-come-first-served.
            by_class = self.rule.settings["class_lines"]
            line = "solo" if self._is_solo(gpu) else "mixed", self.class_of(index) * by_class
            assert index in self.prefilled
            place = self.prefilled.index(index)
            assert place > self.last_in_line.get(line, -1)
            self.last_in_line[line] = place
        assert self._takes_decode(gpu, self._tokens(index))
        _remove(self.line, index)
        self.decodes[gpu].append(index)
        self.started_at[index] = self.iterations[gpu]

    def _end_decode(self, index: int, gpu: int) -> None:
        _remove(self.decodes[gpu], index)
        tokens = float(self.stream.output_tokens[index])
        self._assert_progress(index, gpu, tokens)
        self.completed.append(index)
        i = self.class_of(index)
        self.latencies[1, i] += (self.time - self.first_token[index]) / max(1.0, tokens)
        self.latencies[2, i] += self.time - self.stream.arrival_time[index]

    def _leave_prefill(self, index: int, _: int) -> None:
        assert self.instance.patience_rates[self.class_of(index)] > 0.0
        _remove(self.queues[self.class_of(index)], index)
        self.left_prefill.append(index)

    def _leave_decode(self, index: int, _: int) -> None:
        assert self.instance.patience_rates[self.class_of(index)] > 0.0
        _remove(self.line, index)
        self.left_decode.append(index)

    # Rules.

    def _is_solo(self, gpu: int) -> bool:
        if self.rule.pools == "static":
            return gpu >= self.pool
        return self.prefill[gpu] is None

    def _gpus(self, solo: bool) -> list[int]:
        return [gpu for gpu in range(self.n_gpus) if self._is_solo(gpu) == solo]

    def _used(self, gpu: int) -> int:
        return len(self.decodes[gpu]) + (self.prefill[gpu] is not None)

    def _tokens(self, index: int) -> float:
        return float(self.stream.prompt_tokens[index] + self.stream.output_tokens[index])

    def _prefill_tokens(self, index: int) -> float:
        """A coupled decode stays where its prompt was: there must be room for both."""
        coupled = self.rule.router == "coupled"
        return self._tokens(index) if coupled else float(self.stream.prompt_tokens[index])

    def _has_room(self, gpu: int, tokens: float) -> bool:
        prefill = self.prefill[gpu]
        reserved = 0.0 if prefill is None else self._prefill_tokens(prefill)
        return reserved + sum(map(self._tokens, self.decodes[gpu])) + tokens <= self.kv_tokens

    def _takes_decode(self, gpu: int, tokens: float) -> bool:
        if not self._has_room(gpu, tokens):
            return False
        if self.rule.pools == "static" and gpu < self.pool:
            return len(self.decodes[gpu]) < self.slots - 1
        return self._used(gpu) < self.slots

    def _can_prefill(self, gpu: int, tokens: float) -> bool:
        free = self.prefill[gpu] is None and self._used(gpu) < self.slots
        return gpu < self.pool and free and self._has_room(gpu, tokens)

    def _below_target(self, i: int) -> bool:
        running = sum(r is not None and self.class_of(r) == i for r in self.prefill)
        return running < self.targets[i] * (1.0 - ROUNDING)

    def _assert_progress(self, index: int, gpu: int, iterations: float) -> None:
        """It had exactly the iterations that it needs: tokens are conserved at both speeds."""
        done = self.iterations[gpu] - self.started_at[index]
        rounding = 1e-9 * (1.0 + self.iterations[gpu])
        assert math.isclose(done, iterations, rel_tol=1e-9, abs_tol=rounding)

    def _assert_capacities(self, gpu: int) -> None:
        """(12)-(14); a static mixed GPU keeps a slot for prefill."""
        assert self._used(gpu) <= self.slots
        assert self._has_room(gpu, 0.0), "more KV tokens than fit"
        if self.rule.pools == "static":
            if gpu < self.pool:
                assert len(self.decodes[gpu]) <= self.slots - 1
            else:
                assert self.prefill[gpu] is None

    def _assert_nothing_idles(self) -> None:
        """Between causes no slot is free that the rule would use; an agent may leave any.

        Reserves of decodes may leave slots free too.
        """
        if self.rule.gate == "agent":
            return
        if self.line and self.rule.router not in (*ROUTERS_BY_PROBABILITY, "bid-price"):
            tokens = self._tokens(self.line[0])
            idle = [g for g in range(self.n_gpus) if self._takes_decode(g, tokens)]
            assert not idle, "an idle decode slot"
        heads = [queue[0] for queue in self.queues if queue]
        if self.rule.gate == "fcfs":
            heads = [min(heads)] if heads else []
        elif self.rule.gate == "strict-occupancy":
            heads = [head for head in heads if self._below_target(self.class_of(head))]
        elif self.rule.gate != "occupancy":
            return
        # One of them is next: at least that one must find no room.
        takers = [
            any(self._can_prefill(g, self._prefill_tokens(head)) for g in range(self.n_gpus))
            for head in heads
        ]
        assert not heads or not all(takers), "an idle prefill slot"


def _remove(place: list[int], index: int) -> None:
    assert index in place, "it is not where it leaves from"
    place.remove(index)
