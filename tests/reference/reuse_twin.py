"""A twin of the engine with caches of blocks, and with the routers that look at them.

Written from docs/reuse.md: caches are dictionaries in order of use, matches are counted block by
block, and what a router knows is a copy of everything that is taken at each refresh.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from fleet_twin import FleetTwin, GroupGpu
from loop_twin import LoopTwin
from reference_simulator import Gpu, Request

BLOCK = 512
TIE = 1e-9


class LruCache:
    """Blocks with their users; those without any in the order in which they were left."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.users: dict[int, int] = {}
        self.idle: OrderedDict[int, float] = OrderedDict()
        self.evictions = 0
        self.now = 0.0

    def match(self, blocks: list[int]) -> int:
        """Blocks of the longest prefix that is there."""
        return next((k for k, b in enumerate(blocks) if b not in self.users), len(blocks))

    def hold(self, block: int) -> bool:
        """Use a block, brought in if there is room."""
        if block not in self.users:
            if len(self.users) == self.capacity:
                if not self.idle:
                    return False
                oldest, _ = self.idle.popitem(last=False)
                del self.users[oldest]
                self.evictions += 1
            self.users[block] = 0
        self.users[block] += 1
        self.idle.pop(block, None)
        return True

    def release(self, blocks: list[int]) -> None:
        """Stop using blocks, the last first."""
        for block in reversed(blocks):
            self.users[block] -= 1
            if not self.users[block]:
                self.idle[block] = self.now

    def keep(self, blocks: list[int], held: int) -> None:
        """Bring blocks in, of which the first are held already, and use none."""
        while held < len(blocks) and self.hold(blocks[held]):
            held += 1
        self.release(blocks[:held])


@dataclass
class Known:
    """What the router knew of a GPU at a refresh, and has done since."""

    waiting: int = 0
    tokens: float = 0.0
    running: int = 0
    blocks: frozenset[int] = field(default_factory=frozenset)
    sent: int = 0
    seconds: float = 0.0
    at: float = 0.0


class WithCaches:
    """What caches change of a twin whose requests are recorded, with blocks."""

    def set_caches(self, instance, n_gpus, stream) -> None:
        """One for each GPU, empty."""
        self.recorded = stream
        sizes = instance.group_sizes(n_gpus)
        rooms = [(g.hardware.cache_tokens or 0) // BLOCK for g in instance.groups]
        self.capacities = [room for room, n in zip(rooms, sizes, strict=True) for _ in range(n)]
        self.caches = [LruCache(capacity) for capacity in self.capacities]
        self.held: dict[int, list[int]] = {}
        self.cached: dict[int, float] = {}

    def _schedule_arrival(self) -> None:
        k, times = self.next_index, self.recorded.arrival_time
        self.next_arrival_time = float(times[k]) if k < len(times) else math.inf

    def _next_request(self) -> Request:
        k, recorded = self.next_index, self.recorded
        self.next_index += 1
        lengths = float(recorded.prompt_tokens[k]), float(recorded.output_tokens[k])
        self.arriving = Request(k, int(recorded.request_class[k]), *lengths, self.time)
        return self.arriving

    def _blocks(self, request: Request) -> list[int]:
        starts = self.recorded.block_starts
        return self.recorded.block_ids[starts[request.index] : starts[request.index + 1]].tolist()

    def _prompt(self, request: Request) -> list[int]:
        return self._blocks(request)[: math.ceil(request.prompt_tokens / BLOCK)]

    def _tokens_in(self, request: Request, blocks: int) -> float:
        return min(blocks * BLOCK, max(0.0, request.prompt_tokens - 1))

    def _use(self, gpu: Gpu, request: Request) -> None:
        cache, prompt = self.caches[gpu.index], self._prompt(request)
        self.held[request.index] = prompt[: cache.match(prompt)]
        for block in self.held[request.index]:
            cache.hold(block)

    def _leave(self, gpu: Gpu, request: Request, blocks: list[int]) -> None:
        self.caches[gpu.index].keep(blocks, len(self.held.pop(request.index)))

    def _start_prefill(self, gpu: Gpu, request: Request) -> None:
        self._use(gpu, request)
        self.cached[request.index] = self._tokens_in(request, len(self.held[request.index]))
        super()._start_prefill(gpu, request)
        left = request.prompt_tokens - self.cached[request.index]
        request.remaining = left / self.hardware.chunk_tokens
        if self.hardware.whole_chunks:
            request.remaining = math.ceil(request.remaining)

    def _end_prefill(self, gpu: Gpu) -> None:
        self._leave(gpu, gpu.prefill, self._prompt(gpu.prefill))
        super()._end_prefill(gpu)

    def _start_decode(self, gpu: Gpu, request: Request) -> None:
        self._use(gpu, request)
        super()._start_decode(gpu, request)

    def _end_decode(self, gpu: Gpu, request: Request) -> None:
        self._leave(gpu, request, self._blocks(request))
        super()._end_decode(gpu, request)


class CachedLoopTwin(WithCaches, LoopTwin):
    """The loop over iterations with caches: a prompt's first chunk has cached tokens before it."""

    def __init__(self, instance, rule, controls, n_gpus, seed, stream) -> None:
        self.set_caches(instance, n_gpus, stream)
        super().__init__(instance, rule, controls, n_gpus, seed)

    def _seconds_of_next(self, gpu: Gpu) -> float:
        request, mixed = gpu.prefill, self.hardware.mixed
        if request is None or mixed is None:
            return super()._seconds_of_next(gpu)
        size, found = self.hardware.chunk_tokens, self.cached[request.index]
        left = request.prompt_tokens - found
        done = (math.ceil(left / size) - request.remaining) * size
        chunk = size if self.hardware.padded_chunks else min(size, left - done)
        made = [math.ceil(r.output_tokens) - r.remaining for r in gpu.decodes]
        kv = sum(r.prompt_tokens + m + 1 for r, m in zip(gpu.decodes, made, strict=True))
        return (
            mixed.seconds
            + mixed.per_prompt_token * chunk
            + mixed.per_decode * len(gpu.decodes)
            + mixed.per_kv_token * kv
            + mixed.per_prompt_token_context * chunk * (found + done + chunk / 2)
        )


class ReuseTwin(WithCaches, FleetTwin):
    """One cluster with caches and queues at GPUs, under the routers that look at blocks."""

    def __init__(self, instance, rule, controls, n_gpus, seed, stream, ranks=None) -> None:
        self.set_caches(instance, n_gpus, stream)
        self.refresh = rule.refresh_seconds
        self.refreshed = 0
        self.sent_to = [LruCache(capacity) for capacity in self.capacities]
        self.known = [Known() for _ in self.capacities]
        self.last_cold = [0] * n_gpus
        self.sent_tokens = self.sent_matched = 0.0
        self.expected: dict[int, float] = {}
        super().__init__(instance, rule, controls, n_gpus, seed, ranks=ranks)

    # Signals.

    def _queue_seconds(self, gpu: GroupGpu, at: float) -> float:
        hardware = gpu.group.hardware
        seconds = sum(
            self.expected[r.index] / hardware.chunk_tokens * hardware.tau_mixed for r in gpu.queue
        )
        if gpu.prefill is not None:
            left = gpu.prefill.remaining * self._iteration_seconds(gpu)
            seconds += max(0.0, left - (at - self.time))
        return seconds

    def _look(self, gpu: GroupGpu, at: float) -> Known:
        return Known(
            waiting=len(gpu.queue),
            running=len(gpu.in_service),
            tokens=sum(r.prompt_tokens for r in gpu.in_service),
            blocks=frozenset(self.caches[gpu.index].users),
            seconds=self._queue_seconds(gpu, at),
            at=at,
        )

    def _pass_time(self, time: float) -> None:
        if self.refresh > 0:
            ticks = math.floor(time / self.refresh)
            if ticks > self.refreshed:
                self.refreshed = ticks
                at = ticks * self.refresh
                self.known = [self._look(gpu, at) for gpu in self.gpus]
        super()._pass_time(time)

    # Routers.

    def _prefills_at(self, gpu: GroupGpu) -> float:
        hardware = gpu.group.hardware
        requests = gpu.queue + ([gpu.prefill] if gpu.prefill else [])
        tokens = [self.expected[r.index] for r in requests]
        return sum(t / hardware.chunk_tokens * hardware.tau_mixed for t in tokens)

    def _sent_to(self) -> GroupGpu:
        request, prompt = self.arriving, self._prompt(self.arriving)
        if self.refresh == 0:
            self.known = [self._look(gpu, self.time) for gpu in self.gpus]
        choose = {
            "weighted": self._by_scores,
            "earliest-finish": self._by_bid,
            "reuse-bid": self._by_bid,
            "session-affinity": self._by_session,
        }
        gpu = choose.get(self.rule.router, lambda _: super(ReuseTwin, self)._sent_to())(request)
        here = self.caches[gpu.index].match(prompt)
        self.expected[request.index] = request.prompt_tokens - self._tokens_in(request, here)
        self._note(gpu, request, prompt)
        return gpu

    def _note(self, gpu: GroupGpu, request: Request, prompt: list[int]) -> None:
        known = self.known[gpu.index]
        matches = {g.index: self._matches(g, prompt) for g in self._candidates()}
        if not any(map(max, matches.values())) and dict(self.rule.scorers).get("no-hit-lru"):
            self.last_cold[gpu.index] = max(self.last_cold) + 1
        matched = self._tokens_in(request, max(matches[gpu.index]))
        self.sent_tokens += request.prompt_tokens
        self.sent_matched += matched
        left = request.prompt_tokens - matched
        hardware = gpu.group.hardware
        known.sent += 1
        known.seconds = max(0.0, known.seconds - (self.time - known.at))
        known.seconds += left / hardware.chunk_tokens * hardware.tau_mixed
        known.at = self.time
        if self.rule.remembers_sent:
            self.sent_to[gpu.index].now = self.time
            self.sent_to[gpu.index].keep(prompt, 0)

    def _matches(self, gpu: GroupGpu, prompt: list[int]) -> tuple[int, int]:
        """Blocks that the GPU is known for, and that the router remembers to have sent there."""
        seen = self.known[gpu.index].blocks
        known = next((k for k, b in enumerate(prompt) if b not in seen), len(prompt))
        return known, self.sent_to[gpu.index].match(prompt) if self.rule.remembers_sent else 0

    def _candidates(self) -> list[GroupGpu]:
        return [gpu for gpu in self.gpus if gpu.group.role != "decode"]

    def _best(self, scores: list[float]) -> GroupGpu:
        least = max(scores) - TIE * max(1.0, abs(max(scores)))
        best = [g for g, s in zip(self._candidates(), scores, strict=True) if s >= least]
        place = 0
        if len(best) > 1:
            place = self.draws.below("routing", self.routing_draws, len(best))
            self.routing_draws += 1
        return best[place]

    def _by_scores(self, request: Request) -> GroupGpu:
        gpus, prompt = self._candidates(), self._prompt(request)
        weights = dict(self.rule.scorers)
        matches = [self._matches(gpu, prompt) for gpu in gpus]
        waiting = [self.known[g.index].waiting + self.known[g.index].sent for g in gpus]
        if self.refresh == 0:
            waiting = [len(gpu.queue) for gpu in gpus]
        active = [len(gpu.queue) + len(gpu.in_service) for gpu in gpus]
        cold = not any(map(max, matches))

        def between(value, values):
            least, most = min(values), max(values)
            return (value - least) / (most - least) if most > least else 1.0

        def under(value, values):
            least, most = min(values), max(values)
            return (most - value) / (most - least) if most > least else 1.0

        def coldness(k):
            order = sorted(range(len(gpus)), key=lambda j: (self.last_cold[gpus[j].index], j))
            return 1 - order.index(k) / max(1, len(gpus) - 1) if cold else 0.5

        def score(k, gpu):
            room = gpu.group.hardware.kv_tokens or self.caches[gpu.index].capacity * BLOCK
            used = min(1.0, self.known[gpu.index].tokens / room) if room else 0.0
            parts = {
                "precise-prefix-cache": between(matches[k][0], [known for known, _ in matches]),
                "prefix-affinity": matches[k][1] / max(1, len(prompt)),
                "queue-depth": under(waiting[k], waiting),
                "kv-utilization": 1.0 - used,
                "active-requests": 1.0 - active[k] / max(1, *active),
                "load-aware": 0.5 * (1.0 - min(1.0, waiting[k] / 128)),
                "no-hit-lru": coldness(k),
            }
            return sum(weights.get(name, 0.0) * part for name, part in parts.items())

        return self._best([score(k, gpu) for k, gpu in enumerate(gpus)])

    def _by_bid(self, request: Request) -> GroupGpu:
        gpus, prompt = self._candidates(), self._prompt(request)
        rate = sum(self.served_rates) / len(gpus)
        fastest = {
            i: max(self.rates[i, g] for g, own in enumerate(self.groups) if own.role != "decode")
            for i in self.classes
        }
        load = sum(self.served_rates[i] / len(gpus) / fastest[i] for i in self.classes)

        def idle(gpu):
            """Seconds since the block that must go was used; inf if there is room."""
            memory = self.sent_to[gpu.index]
            more = len(prompt) - memory.match(prompt)
            if not memory.idle or len(memory.users) + more <= memory.capacity:
                return math.inf
            return self.time - next(iter(memory.idle.values()))

        longest = max(map(idle, gpus))
        found = self.sent_matched / self.sent_tokens if self.sent_tokens else 0.0

        def cost(gpu):
            known, hardware = self.known[gpu.index], gpu.group.hardware
            left = request.prompt_tokens
            left -= self._tokens_in(request, max(self._matches(gpu, prompt)))
            work = left / hardware.chunk_tokens * hardware.tau_mixed
            ahead = max(0.0, known.seconds - (self.time - known.at))
            waiting = known.waiting + (known.sent if self.refresh else 0)
            more = waiting + known.running + 1 - hardware.batch_slots
            decode = self.served[request.i] * hardware.tau_mixed
            slot = max(0, more) * decode / hardware.batch_slots if gpu.g in self.decoders else 0
            others = self.rule.router == "reuse-bid"
            later = rate * work * (ahead + work / 2) / (1 - min(0.95, load))
            if idle(gpu) < longest:
                later += found * work * (1 - idle(gpu) / longest)
            return max(ahead, slot) + work + others * later

        return self._best([-cost(gpu) for gpu in gpus])

    @property
    def decoders(self) -> set[int]:
        """Groups that decode."""
        return {g for g, group in enumerate(self.groups) if group.role != "prefill"}

    @property
    def served(self) -> list[float]:
        """Mean outputs, by class."""
        return [c.output_tokens for c in self.instance.classes]

    def _by_session(self, request: Request) -> GroupGpu:
        """Jump consistent hashing, as its authors print it."""
        gpus, given = self._candidates(), self.recorded.session
        session = int(given[request.index]) if len(given) else request.index
        key = self.draws.bits(0x9E3779B97F4A7C15, session)
        chosen, jump = -1, 0
        while jump < len(gpus):
            chosen = jump
            key = (key * 2862933555777941757 + 1) % 2**64
            jump = int((chosen + 1) * (2**31 / ((key >> 33) + 1)))
        return gpus[chosen]
