"""A twin of the compiled engine: the model in plain Python, fed the same random draws.

It is naive on purpose. At every event, time passes for each request on each GPU, and the next
event is the minimum over everything that can happen. Only what the engine documents is shared
with it: the draws (key and counter of each), the order of draws of the routing stream, the lists
behind a random choice of a GPU, and the order of events at equal times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from operator import attrgetter

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
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

# At equal times: completions, then abandonments, then credit timers, then arrivals.
COMPLETION, ABANDONMENT, CREDIT_TIMER, ARRIVAL = range(4)
# On one GPU decodes end before its prefill.
DECODE, PREFILL = range(2)

ROUNDING = 1e-9

# A possible event: time, three places in the order of ties, and what it does.
Event = tuple[float, int, int, int, Callable[[], None]]


class Draws:
    """Draw k of a stream: SplitMix64 started at the key of the stream, in Python integers."""

    STREAMS = (
        "arrival",
        "class",
        "prompt",
        "output",
        "patience",
        "routing",
        "initial",
        "thinning",
        "modulation",
    )

    def __init__(self, seed: np.random.SeedSequence) -> None:
        keys = seed.generate_state(len(self.STREAMS), np.uint64)
        self.keys = dict(zip(self.STREAMS, (int(key) for key in keys), strict=True))

    def bits(self, stream: str | int, k: int) -> int:
        """64 random bits; a stream is named, or given by its key."""
        key = self.keys[stream] if isinstance(stream, str) else stream
        return self.mixed((key + k * 0x9E3779B97F4A7C15) % 2**64)

    @staticmethod
    def mixed(z: int) -> int:
        """The finalizer of SplitMix64."""
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    def uniform(self, stream: str | int, k: int) -> float:
        """The upper 53 bits, centred in their interval."""
        return ((self.bits(stream, k) >> 11) + 0.5) / 2**53

    def exponential(self, stream: str | int, k: int) -> float:
        """Mean 1."""
        return -math.log(self.uniform(stream, k))

    def normal(self, stream: str | int, k: int) -> float:
        """Box and Muller, from draws k and k + 1."""
        radius = math.sqrt(2 * self.exponential(stream, k))
        return radius * math.cos(2 * math.pi * self.uniform(stream, k + 1))

    def gamma(self, stream: str | int, shape: float) -> float:
        """Marsaglia and Tsang with draws 1, 2, 3, then 4, 5, 6, ...; below shape 1, draw 0 too."""
        if shape < 1:
            factor = self.uniform(stream, 0) ** (1 / shape)
            shape += 1
        else:
            factor = 1.0
        d = shape - 1 / 3
        for k in count(1, 3):
            x = self.normal(stream, k)
            v = (1 + x / math.sqrt(9 * d)) ** 3
            if v > 0 and -self.exponential(stream, k + 2) < x * x / 2 + d * (1 - v + math.log(v)):
                return factor * d * v
        raise AssertionError

    def length(self, stream: str, k: int, law: LengthDistribution, mean: float) -> float:
        """Tokens; all kinds but the exponential have a stream of their own for each request."""
        own = self.bits(stream, k)
        if law.kind == "exponential":
            return self.exponential(stream, k) * mean
        if law.kind == "deterministic":
            return mean
        if law.kind == "log-normal":
            variance = math.log(1 + law.cv**2)
            return mean * math.exp(math.sqrt(variance) * self.normal(own, 0) - variance / 2)
        if law.kind == "gamma":
            return mean * law.cv**2 * self.gamma(own, law.cv**-2)
        return law.values[self.below(own, 0, len(law.values))]

    def below(self, stream: str | int, k: int, size: int) -> int:
        """An integer in 0..size-1: the lowest bits, mixed again until they are small enough."""
        bits = self.bits(stream, k)
        mask = (1 << (size - 1).bit_length()) - 1
        while bits & mask >= size:
            bits = self.mixed(bits)
        return bits & mask


@dataclass(eq=False)
class Request:
    """One request; ``remaining`` counts iterations of the service it is in."""

    index: int
    i: int
    prompt_tokens: float
    output_tokens: float
    arrival_time: float
    prefilled_time: float = 0.0
    remaining: float = 0.0
    deadline: float = math.inf


@dataclass(eq=False)
class Gpu:
    """At most one prefill and B requests in service."""

    index: int
    prefill: Request | None = None
    decodes: list[Request] = field(default_factory=list)

    @property
    def in_service(self) -> list[Request]:
        """Decodes and the prefill."""
        return self.decodes + ([self.prefill] if self.prefill else [])


class ReferenceSimulator:
    """One cluster under a dispatch rule; the arguments are those of ``Simulation``.

    Attributes:
        log: (time, kind, request index, GPU) of everything that happened.
    """

    def __init__(
        self,
        instance: Instance,
        rule: DispatchRule,
        controls: np.ndarray,
        n_gpus: int,
        seed: np.random.SeedSequence,
        stream: RequestStream | None = None,
        ranks: SlotRanks | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.instance = instance
        self.ranks = ranks
        self.weights = weights
        self.hardware = instance.hardware
        self.rule = rule
        self.stream = stream
        self.draws = Draws(seed)
        self.classes = range(instance.n_classes)
        self.arrival_rates = [n_gpus * c.arrival_rate for c in instance.classes]
        self.peak_rates = [
            rate * peak for rate, peak in zip(self.arrival_rates, _peaks(instance), strict=True)
        ]
        served = fitting_requests(instance)
        self.served_rates = [n_gpus * c.arrival_rate for c in served.classes]
        self.prefill_rates = served.prefill_rates.tolist()
        self.kv_tokens = instance.hardware.kv_tokens or math.inf
        self.time = 0.0
        self.log: list[tuple[float, int, int, int]] = []
        self.gpus = [Gpu(k) for k in range(n_gpus)]
        self.queues: list[list[Request]] = [[] for _ in self.classes]
        # The only line but under randomized routing; a class's own line is its requests in it, or,
        # under weighted routing, in the line of the pool.
        self.solo_line: list[Request] = []
        self.mixed_line: list[Request] = []
        # GPUs with a slot for each purpose; the place in a list decides a random choice.
        self.solo_slots: list[Gpu] = []
        self.mixed_slots: list[Gpu] = []
        self.prefill_slots: list[Gpu] = []
        self.routing_draws = 0
        self.pool_size = 0
        self.fraction = [0.0 for _ in self.classes]
        self.credit = [0.0 for _ in self.classes]
        self._set_controls(controls)
        self.credit = [rule.credit_cap if f > 0.0 else 0.0 for f in self.fraction]
        self.next_index = self.next_candidate = 0
        self._schedule_arrival()

    def run(self, until: float, controls: np.ndarray | None = None) -> None:
        """Set controls, if given, and process every event up to and including ``until``."""
        if controls is not None:
            self._set_controls(controls)
            self._dispatch()
        while True:
            event = min(self._possible_events())
            if event[0] > until or event[0] == math.inf:
                break
            self._pass_time(event[0])
            event[-1]()
        if until < math.inf:
            self._pass_time(until)

    # Time.

    def _iteration_seconds(self, gpu: Gpu) -> float:
        if self.hardware.iteration_law == "two-speed":
            return self.hardware.tau_mixed if gpu.prefill else self.hardware.tau_solo
        c, a = 1 / self.hardware.gamma, self.hardware.beta
        b0 = (c - self.hardware.alpha) / a
        tokens = len(gpu.decodes) + (self.hardware.chunk_tokens if gpu.prefill else 0)
        return c + a * max(0, tokens - b0)

    def _pass_time(self, time: float) -> None:
        """Iterations are done and credit is earned until ``time``."""
        seconds = max(0.0, time - self.time)
        for gpu in self.gpus:
            iterations = seconds / self._iteration_seconds(gpu)
            for request in gpu.in_service:
                request.remaining -= iterations
        for i in self.classes:
            earned = self.fraction[i] * self.served_rates[i] * seconds
            self.credit[i] = min(self.rule.credit_cap, self._credit(i) + earned)
        self.time = max(self.time, time)

    def _possible_events(self) -> Iterator[Event]:
        for gpu in self.gpus:
            seconds = self._iteration_seconds(gpu)
            if gpu.decodes:
                first = min(gpu.decodes, key=attrgetter("remaining", "index"))
                end = self.time + max(0.0, first.remaining) * seconds
                yield end, COMPLETION, gpu.index, DECODE, partial(self._end_decode, gpu, first)
            if gpu.prefill:
                end = self.time + max(0.0, gpu.prefill.remaining) * seconds
                yield end, COMPLETION, gpu.index, PREFILL, partial(self._end_prefill, gpu)
        places = [(queue, LEAVE_PREFILL) for queue in self.queues]
        places += [(self.solo_line, LEAVE_DECODE), (self.mixed_line, LEAVE_DECODE)]
        for queue, kind in places:
            if queue:
                first = min(queue, key=attrgetter("deadline", "index"))
                leave = partial(self._abandon, queue, first, kind)
                yield first.deadline, ABANDONMENT, first.index, 0, leave
        if self.rule.gate in {"credit", "largest-credit"} and self.prefill_slots:
            for i in self.classes:
                rate = self.fraction[i] * self.served_rates[i]
                if self.queues[i] and not self._has_credit(i) and rate > 0.0:
                    ready = self.time + (1.0 - self.credit[i]) / rate
                    yield ready, CREDIT_TIMER, i, 0, partial(self._grant_credit, i)
        yield self.next_arrival_time, ARRIVAL, 0, 0, self._arrive

    # What happens.

    def _schedule_arrival(self) -> None:
        k = self.next_index
        if self.stream is not None:
            recorded = self.stream.arrival_time
            self.next_arrival_time = float(recorded[k]) if k < len(recorded) else math.inf
            return
        time = self.time
        while True:
            k = self.next_candidate
            self.next_candidate += 1
            time += self.draws.exponential("arrival", k) / sum(self.peak_rates)
            i = self._class_of(k)
            rate = self.arrival_rates[i] * self._multiplier(i, time)
            steady = self.peak_rates == self.arrival_rates
            if steady or self.draws.uniform("thinning", k) * self.peak_rates[i] < rate:
                break
        self.next_class, self.next_arrival_time = i, time

    def _class_of(self, k: int) -> int:
        share = self.draws.uniform("class", k) * sum(self.peak_rates)
        i = 0
        while i < len(self.classes) - 1 and share >= sum(self.peak_rates[: i + 1]):
            i += 1
        return i

    def _multiplier(self, i: int, time: float) -> float:
        """Arrival rate of class i at a time over its mean."""
        profile = self.instance.classes[i].arrival_profile
        factor = 1.0
        if profile is not None:
            # Jumps are at the second of two points at one time; interp takes the first there.
            phase = math.nextafter(time % profile.period, math.inf)
            factor = float(np.interp(phase, profile.times, profile.relative_rates))
        if self.instance.modulation is not None:
            factor *= self.instance.modulation.relative_rates(len(self.classes))[
                self._modulation_state(time), i
            ]
        return factor

    def _modulation_state(self, time: float) -> int:
        """The modulating chain from its start, state by state, until it covers ``time``."""
        chain = self.instance.modulation
        assert chain is not None
        state = _first_above(
            np.cumsum(chain.stationary_probabilities), self.draws.uniform("modulation", -1)
        )
        until = 0.0
        for jump in count():
            exits = np.array(chain.switch_rates[state])
            until += self.draws.exponential("modulation", 2 * jump) / exits.sum()
            if until > time:
                return state
            draw = self.draws.uniform("modulation", 2 * jump + 3)
            state = _first_above(np.cumsum(exits / exits.sum()), draw)
        raise AssertionError

    def _next_request(self) -> Request:
        k = self.next_index
        self.next_index += 1
        if self.stream is not None:
            i = int(self.stream.request_class[k])
            prompt = float(self.stream.prompt_tokens[k])
            output = float(self.stream.output_tokens[k])
        else:
            i = self.next_class
            c = self.instance.classes[i]
            prompt = self.draws.length("prompt", k, c.prompt_lengths, c.prompt_tokens)
            output = self.draws.length("output", k, c.output_lengths, c.output_tokens)
        return Request(k, i, prompt, output, arrival_time=self.time)

    def _arrive(self) -> None:
        request = self._next_request()
        self._schedule_arrival()
        self._log(ARRIVE, request)
        if request.prompt_tokens + request.output_tokens > self.kv_tokens:
            self._log(REJECT, request)
            self._dispatch()
            return
        queue = self.queues[request.i]
        queue.append(request)
        self._dispatch()
        if request in queue:
            self._start_patience(request, 2 * request.index)

    def _end_prefill(self, gpu: Gpu) -> None:
        request = gpu.prefill
        assert request is not None
        gpu.prefill = None
        self._log(PREFILL_END, request, gpu)
        self._update_slots(gpu)
        if self.rule.router == "coupled":
            self._start_decode(gpu, request)  # it stays in its slot
            self._dispatch()
            return
        request.prefilled_time = self.time
        line = self._choose_line(request.i)
        line.append(request)
        self._dispatch()
        if request in line:
            self._start_patience(request, 2 * request.index + 1)

    def _end_decode(self, gpu: Gpu, request: Request) -> None:
        gpu.decodes.remove(request)
        self._log(DECODE_END, request, gpu)
        self._update_slots(gpu)
        self._dispatch()

    def _abandon(self, queue: list[Request], request: Request, kind: int) -> None:
        queue.remove(request)
        self._log(self._reason(request, kind), request)
        if self.hardware.kv_tokens is not None:
            self._dispatch()  # the next in line may need less

    def _grant_credit(self, i: int) -> None:
        self.credit[i] = max(1.0, self.credit[i])
        self._dispatch()

    def _start_patience(self, request: Request, draw: int) -> None:
        rate = self.instance.classes[request.i].patience_rate
        patience = self.draws.exponential("patience", draw)
        request.deadline = self.time + patience / rate if rate > 0.0 else math.inf
        if self.rule.drop_late and draw == 2 * request.index:
            request.deadline = min(request.deadline, self._latest_start(request))

    def _latest_start(self, request: Request) -> float:
        bounds = self.instance.classes[request.i].deadlines
        if bounds is None or bounds.ttft_seconds is None:
            return math.inf
        due = request.arrival_time + bounds.ttft_seconds
        return due - 1.0 / self.prefill_rates[request.i]

    def _reason(self, request: Request, kind: int) -> int:
        """Who is late is rejected where the rule drops it."""
        late = self.rule.drop_late and kind == LEAVE_PREFILL
        return REJECT if late and request.deadline == self._latest_start(request) else kind

    def _log(self, kind: int, request: Request, gpu: Gpu | None = None) -> None:
        self.log.append((self.time, kind, request.index, gpu.index if gpu else -1))

    # Controls.

    def _set_controls(self, controls: np.ndarray) -> None:
        n = len(self.classes)
        self.credit = [self._credit(i) for i in self.classes]
        self.fraction = [float(f) for f in controls[:n]]
        self.solo_probability = [float(p) for p in controls[n : 2 * n]]
        admitted = [f * r for f, r in zip(self.fraction, self.served_rates, strict=True)]
        self.prefill_targets = [
            rate / mu for rate, mu in zip(admitted, self.prefill_rates, strict=True)
        ]
        self.queue_targets = [
            _ratio(arriving - rate, c.patience_rate)
            for arriving, rate, c in zip(
                self.served_rates, admitted, self.instance.classes, strict=True
            )
        ]
        self.pool_size = int(controls[2 * n])
        if len(controls) > 2 * n + 1:
            priority, reserve = controls[2 * n + 1 :].reshape(2, n)
            self.ranks = self.ranks._replace(priority=priority, reserve=reserve)
        for gpu in self.gpus:
            self._update_slots(gpu)

    # The gate.

    def _credit(self, i: int) -> float:
        """A class that is fully admitted always has full credit."""
        return self.rule.credit_cap if self.fraction[i] >= 1.0 - ROUNDING else self.credit[i]

    def _has_credit(self, i: int) -> bool:
        return self._credit(i) >= 1.0 - ROUNDING

    def _choose_class(self) -> int | None:
        """The class to admit now."""
        prefilling = [gpu.prefill.i for gpu in self.gpus if gpu.prefill]

        def age(i: int) -> tuple[float, int]:
            head = self.queues[i][0]
            return head.arrival_time, head.index

        def occupancy(i: int) -> tuple[float, float, int]:
            # (X - n x*)/x*, less the constant n, so that equal values are exactly equal.
            ratio = _ratio(prefilling.count(i), self.prefill_targets[i], of_zero=math.inf)
            # Rounded: targets in simple ratios tie whatever the last bits say.
            return round(ratio, 9), self.queue_targets[i] - len(self.queues[i]), i

        def credit(i: int) -> tuple[float, tuple[float, int]]:
            return -self._credit(i), age(i)

        def rank(i: int) -> tuple[float, tuple[float, int]]:
            return -self._rank(i), age(i)

        def due(i: int) -> tuple[float, tuple[float, int]]:
            deadlines = self.instance.classes[i].deadlines
            bound = deadlines.ttft_seconds if deadlines is not None else None
            return (math.inf if bound is None else age(i)[0] + bound), age(i)

        waiting = [i for i in self.classes if self.queues[i]]
        if self.rule.gate == "strict-occupancy":
            full = [
                prefilling.count(i) >= t * (1 - 1e-9) for i, t in enumerate(self.prefill_targets)
            ]
            waiting = [i for i in waiting if not full[i]]
        if self.rule.gate in {"credit", "largest-credit"}:
            waiting = [i for i in waiting if self._has_credit(i)]
        if self.rule.gate == "static-priority":
            kept = dict(self.rule.reserves)
            names = [c.name for c in self.instance.classes]
            waiting = [i for i in waiting if self._free_slots() > kept.get(names[i], 0)]
        if self.rule.gate == "bid-price":
            waiting = [i for i in waiting if self._free_slots() >= self.ranks.reserve[i]]
        first: Callable[[int], object] = {
            "bid-price": rank,
            "decode-per-prompt": rank,
            "occupancy": occupancy,
            "strict-occupancy": occupancy,
            "credit": age,
            "largest-credit": credit,
            "fcfs": age,
            "earliest-deadline": due,
            "static-priority": lambda i: self._order().index(self.instance.classes[i].name),
        }[self.rule.gate]
        return min(waiting, key=first, default=None)  # type: ignore[arg-type]

    def _order(self) -> list[str]:
        return list(self.rule.priority or [c.name for c in self.instance.classes])

    def _rank(self, i: int) -> float:
        c = self.instance.classes[i]
        if self.rule.gate == "decode-per-prompt":
            return c.output_tokens / c.prompt_tokens
        return float(self.ranks.priority[i])

    # Slots.

    def _update_slots(self, gpu: Gpu) -> None:
        slots = self.hardware.batch_slots
        used = len(gpu.in_service)
        assert used <= slots
        if self.rule.pools == "dynamic":
            prefill = solo = used < slots and gpu.prefill is None
            mixed = used < slots and gpu.prefill is not None
        elif gpu.index < self.pool_size:
            solo = False
            mixed = len(gpu.decodes) < slots - 1
            prefill = used < slots and gpu.prefill is None
        else:
            solo = used < slots
            mixed = prefill = False
        _set_member(self.solo_slots, gpu, solo)
        _set_member(self.mixed_slots, gpu, mixed)
        _set_member(self.prefill_slots, gpu, prefill)

    def _random_gpu(self, gpus: list[Gpu], tokens: float) -> Gpu | None:
        """The first with room for the tokens from a random one on; a single one costs no draw."""
        if not gpus:
            return None
        place = 0
        if len(gpus) > 1:
            place = self.draws.below("routing", self.routing_draws, len(gpus))
            self.routing_draws += 1
        in_turn = gpus[place:] + gpus[:place]
        return next((g for g in in_turn if self._reserved(g) + tokens <= self.kv_tokens), None)

    def _reserved(self, gpu: Gpu) -> float:
        """KV tokens of the requests on a GPU, whole when they decode there."""
        tokens = sum(map(_tokens, gpu.decodes))
        return tokens + (self._prefill_tokens(gpu.prefill) if gpu.prefill else 0.0)

    def _prefill_tokens(self, request: Request) -> float:
        coupled = self.rule.router == "coupled"
        return request.prompt_tokens + (request.output_tokens if coupled else 0.0)

    # The router.

    def _choose_line(self, i: int) -> list[Request]:
        if self.rule.router not in {"randomized", "weighted-randomized"}:
            return self.solo_line
        self.routing_draws += 1
        draw = self.draws.uniform("routing", self.routing_draws - 1)
        return self.solo_line if draw < self.solo_probability[i] else self.mixed_line

    def _gpu_for_head(self, line: list[Request]) -> Gpu | None:
        tokens = _tokens(line[0])
        if self.rule.router in {"prefill-aware", "bid-price"}:
            return self._gpu_leaving_room(tokens)
        if self.rule.router == "solo-first":
            return self._random_gpu(self.solo_slots, tokens) or self._random_gpu(
                self.mixed_slots, tokens
            )
        return self._random_gpu(
            self.solo_slots if line is self.solo_line else self.mixed_slots, tokens
        )

    def _gpu_leaving_room(self, tokens: float) -> Gpu | None:
        """Mixed slots first if they are faster, or while somebody waits who could be admitted."""
        faster = self.hardware.tau_mixed <= self.hardware.tau_solo
        kinds = [self.solo_slots, self.mixed_slots]
        if faster or self._choose_class() is not None:
            kinds.reverse()
        return self._random_gpu(kinds[0], tokens) or self._random_gpu(kinds[1], tokens)

    # Dispatch.

    def _dispatch(self) -> None:
        """Use every free slot that the rule allows to use now."""
        if self.rule.router == "bid-price":
            self._serve_by_rank()
            return
        if not self.rule.prefill_first:
            self._place()
        self._admit()
        # An admission under dynamic pools turns a GPU mixed: the mixed line may have a slot now.
        if self.rule.prefill_first or self.rule.router in {"randomized", "weighted-randomized"}:
            self._place()

    def _place(self) -> None:
        if self.rule.router == "weighted-randomized":
            self._place_by_lot(self.solo_line, self.solo_slots, 0)
            self._place_by_lot(self.mixed_line, self.mixed_slots, 1)
            return
        for line in (self.solo_line, self.mixed_line):
            while line and (gpu := self._gpu_for_head(line)):
                self._start_decode(gpu, line.pop(0))

    def _place_by_lot(self, line: list[Request], slots: list[Gpu], pool: int) -> None:
        """A slot of the pool takes the head of a class, drawn by weight from those that fit."""
        assert self.weights is not None
        while slots:
            heads = {r.i: r for r in reversed(line)}
            room = self.kv_tokens - min(map(self._reserved, slots))
            able = [heads[i] for i in sorted(heads) if _tokens(heads[i]) <= room]
            if not able:
                return
            weights = [float(self.weights[pool, r.i]) for r in able]
            positive = [k for k, weight in enumerate(weights) if weight > 0.0]
            request = min(able, key=line.index)
            if positive:
                request = able[positive[-1]]
            if len(positive) > 1:
                self.routing_draws += 1
                draw = sum(weights) * self.draws.uniform("routing", self.routing_draws - 1)
                for k in positive:
                    if draw < sum(weights[: k + 1]):
                        request = able[k]
                        break
            gpu = self._random_gpu(slots, _tokens(request))
            assert gpu is not None
            line.remove(request)
            self._start_decode(gpu, request)

    def _serve_by_rank(self) -> None:
        """Decodes, then prefills, but for classes whose prefill precedes; heads are not skipped."""
        prefills = decodes = True
        while True:
            i = self._choose_class() if prefills and self.prefill_slots else None
            request = self._decode_of_highest_rank() if decodes else None
            if i is not None and (request is None or self._precedes_decodes(i)):
                prefills = self._admit_head(i)
            elif request is not None:
                gpu = self._gpu_for_decode(request)
                decodes = gpu is not None
                if gpu is not None:
                    self.solo_line.remove(request)
                    self._start_decode(gpu, request)
            else:
                return

    def _precedes_decodes(self, i: int) -> bool:
        return bool(self.ranks.precedes_decodes[i])

    def _gpu_for_decode(self, request: Request) -> Gpu | None:
        return self._gpu_leaving_room(_tokens(request))

    def _decode_of_highest_rank(self) -> Request | None:
        if not (self.solo_slots or self.mixed_slots):
            return None
        heads = {r.i: r for r in reversed(self.solo_line)}.values()
        able = [r for r in heads if self._free_slots() >= self.ranks.decode_reserve[r.i]]
        return min(
            able,
            key=lambda r: (-self.ranks.decode_priority[r.i], self.solo_line.index(r)),
            default=None,
        )

    def _free_slots(self) -> int:
        slots = self.hardware.batch_slots
        return sum(slots - len(gpu.in_service) for gpu in self.gpus)

    def _admit(self) -> None:
        while self.prefill_slots:
            i = self._choose_class()
            if i is None or not self._admit_head(i):
                return

    def _admit_head(self, i: int) -> bool:
        gpu = self._random_gpu(self.prefill_slots, self._prefill_tokens(self.queues[i][0]))
        if gpu is None:
            return False
        self.credit[i] = max(0.0, self._credit(i) - 1.0)
        self._start_prefill(gpu, self.queues[i].pop(0))
        return True

    def _start_prefill(self, gpu: Gpu, request: Request) -> None:
        assert gpu.prefill is None
        request.remaining = request.prompt_tokens / self.hardware.chunk_tokens
        if self.hardware.chunking == "ceil":
            request.remaining = math.ceil(request.remaining)
        gpu.prefill = request
        self._update_slots(gpu)
        self._log(PREFILL_START, request, gpu)

    def _start_decode(self, gpu: Gpu, request: Request) -> None:
        request.remaining = request.output_tokens
        gpu.decodes.append(request)
        self._update_slots(gpu)
        self._log(DECODE_START, request, gpu)


def _tokens(request: Request) -> float:
    return request.prompt_tokens + request.output_tokens


def _ratio(value: float, base: float, of_zero: float = 0.0) -> float:
    """``value / base``; with base 0 infinity for a positive value, else ``of_zero``."""
    if base > 0.0:
        return value / base
    return math.inf if value > 0.0 else of_zero


def _first_above(cumulative: np.ndarray, draw: float) -> int:
    return min(int(np.searchsorted(cumulative, draw, side="right")), len(cumulative) - 1)


def _peaks(instance: Instance) -> list[float]:
    """Greatest arrival rate of each class over its mean."""
    peaks = [1.0 for _ in instance.classes]
    for i, c in enumerate(instance.classes):
        if c.arrival_profile is not None:
            peaks[i] *= max(c.arrival_profile.relative_rates)
        if instance.modulation is not None:
            peaks[i] *= max(instance.modulation.relative_rates(len(peaks))[:, i])
    return peaks


def _set_member(gpus: list[Gpu], gpu: Gpu, member: bool) -> None:
    """A new member goes to the end; the last one takes the place of one that leaves."""
    if member and gpu not in gpus:
        gpus.append(gpu)
    elif not member and gpu in gpus:
        gpus[gpus.index(gpu)] = gpus[-1]
        gpus.pop()
