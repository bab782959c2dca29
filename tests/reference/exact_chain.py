"""The continuous-time Markov chain of a small cluster, built state by state and solved.

With exponential lengths and patience a cluster is a Markov chain. Its states are found by breadth-
first search from the empty cluster, its generator Q is a sparse matrix, and the stationary law pi
with pi Q = 0 gives every long-run mean without sampling. It is written from the model page alone
and shares no code with the engine or the other simulations; of the package it reads an instance.

Queues have no end in the model. Here an arrival that finds ``most_requests`` in the cluster is
lost; by PASTA its probability is the stationary mass of those states (`Solution.lost`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from llm_sched_env.model.instance import Instance

OCCUPANCIES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
IDLE = -1


class Policy(NamedTuple):
    """What distinguishes the policies of the model.

    gate: ``occupancy``, ``strict-occupancy`` or ``oldest``.
    router: ``solo-first``, ``randomized``, ``weighted-randomized`` or ``coupled``.
    """

    gate: str
    router: str = "solo-first"
    static_pools: bool = True
    prefill_first: bool = False


class Gpu(NamedTuple):
    """The class in prefill, or IDLE, and the number of decodes of each class."""

    prefill: int
    decodes: tuple[int, ...]


class State(NamedTuple):
    """Queues hold classes, oldest first; where a rule only counts them, in order of class."""

    gpus: tuple[Gpu, ...]
    queue: tuple[int, ...]
    lines: tuple[tuple[int, ...], ...]  # of decodes: one, or solo and mixed if randomized


Law = dict[State, float]
Lots = list[tuple[float, State]]  # states in proportion to their weights


class Solution(NamedTuple):
    """Stationary means: occupancies per GPU, rates per GPU and second, by class or in total."""

    n_states: int
    lost: float  # probability that an arrival finds the cluster at the cap
    residual: float  # largest net flow |(pi Q)_s|, 1/s
    means: dict[str, float]


class Chain:
    """The chain of n GPUs under a policy.

    Args:
        instance: classes, hardware and prices.
        policy: see Policy.
        n_gpus: n; GPUs 0..pool_size-1 are the static mixed pool.
        admission: f_i; targets are n x_i* = f_i n lambda_i / mu_p,i.
        solo_probability: p_s,i of the randomized router.
        pool_size: M.
        most_requests: cap on requests in the cluster.
        weights: of the classes in the solo and in the mixed pool, if weighted.
    """

    def __init__(
        self,
        instance: Instance,
        policy: Policy,
        n_gpus: int,
        admission: Iterable[float],
        solo_probability: Iterable[float],
        pool_size: int,
        most_requests: int,
        weights: Sequence[Sequence[float]] = (),
    ) -> None:
        self.instance, self.policy, self.n_gpus = instance, policy, n_gpus
        self.solo_probability = list(solo_probability)
        self.pool_size, self.most_requests = pool_size, most_requests
        self.weights = weights
        self.randomized = policy.router in {"randomized", "weighted-randomized"}
        hardware, self.n_classes = instance.hardware, len(instance.classes)
        self.slots = hardware.batch_slots
        mixed_seconds = hardware.alpha + hardware.beta * hardware.chunk_tokens  # (3)
        classes = instance.classes
        self.arrival = [n_gpus * c.arrival_rate for c in classes]
        self.patience = [c.patience_rate for c in classes]
        # Rates (4).
        self.prefill = [hardware.chunk_tokens / (c.prompt_tokens * mixed_seconds) for c in classes]
        self.mixed_decode = [1.0 / (c.output_tokens * mixed_seconds) for c in classes]
        self.solo_decode = [hardware.gamma / c.output_tokens for c in classes]
        accepted = [f * rate for f, rate in zip(admission, self.arrival, strict=True)]
        self.prefill_target = [a / mu for a, mu in zip(accepted, self.prefill, strict=True)]
        self.queue_target = [
            (rate - a) / theta if theta > 0 else 0.0
            for rate, a, theta in zip(self.arrival, accepted, self.patience, strict=True)
        ]
        self._settled_laws: dict[State, Law] = {}

    # What happens.

    def transitions(self, state: State) -> Iterator[tuple[float, Law]]:
        """Rate of every event in a state and the law of the state after it and the dispatch."""
        inside = len(state.queue) + sum(map(len, state.lines))
        inside += sum((gpu.prefill != IDLE) + sum(gpu.decodes) for gpu in state.gpus)
        for i in range(self.n_classes):
            if inside < self.most_requests:
                yield self.arrival[i], self._settled(state._replace(queue=(*state.queue, i)))
        for place, i in enumerate(state.queue):
            left = state._replace(queue=_without(state.queue, place))
            yield self.patience[i], self._settled(left)
        for which, line in enumerate(state.lines):
            for place, i in enumerate(line):
                left = _with_line(state, which, _without(line, place))
                yield self.patience[i], self._settled(left)
        for g, gpu in enumerate(state.gpus):
            if gpu.prefill != IDLE:
                yield self.prefill[gpu.prefill], self._after_prefill(state, g)
            for i, count in enumerate(gpu.decodes):
                if count > 0:
                    left = _with_gpu(state, g, gpu._replace(decodes=_plus(gpu.decodes, i, -1)))
                    yield count * self.decode_rate(i, g, gpu), self._settled(left)

    def decode_rate(self, i: int, g: int, gpu: Gpu) -> float:
        """A GPU is mixed exactly while a prefill is in service on it."""
        return self.solo_decode[i] if gpu.prefill == IDLE else self.mixed_decode[i]

    def _after_prefill(self, state: State, g: int) -> Law:
        """The prefilled request decodes where it is, or joins the tail of a decode line."""
        i = state.gpus[g].prefill
        freed = Gpu(IDLE, state.gpus[g].decodes)
        if self.policy.router == "coupled":
            stays = freed._replace(decodes=_plus(freed.decodes, i, 1))
            return self._settled(_with_gpu(state, g, stays))
        ended = _with_gpu(state, g, freed)
        p_solo = self.solo_probability[i] if self.randomized else 1.0
        law: Law = {}
        for which, probability in ((0, p_solo), (1, 1.0 - p_solo)):
            if probability > 0.0:
                joined = _with_line(ended, which, (*ended.lines[which], i))
                _add(law, self._settled(joined), probability)
        return law

    # Dispatch.

    def _settled(self, state: State) -> Law:
        """The law of the state once every slot that may be used is used."""
        state = self._canonical(state)
        if state not in self._settled_laws:
            steps = [self.placements, self.admissions]
            law = {state: 1.0}
            for step in reversed(steps) if self.policy.prefill_first else steps:
                law = self._repeated(step, law)
            self._settled_laws[state] = law
        return self._settled_laws[state]

    def _repeated(self, step, law: Law) -> Law:
        final: Law = {}
        while law:
            following: Law = {}
            for state, probability in law.items():
                lots = step(state)
                total = sum(weight for weight, _ in lots)
                for weight, choice in lots:
                    _add(following, {self._canonical(choice): 1.0}, probability * weight / total)
                if not lots:
                    _add(final, {state: 1.0}, probability)
            law = following
        return final

    def _canonical(self, state: State) -> State:
        """GPUs that differ by name only, and waiting requests of a gate that counts, in order."""
        split = self.pool_size if self.policy.static_pools else 0
        gpus = (*sorted(state.gpus[:split]), *sorted(state.gpus[split:]))
        queue = state.queue if self.policy.gate == "oldest" else tuple(sorted(state.queue))
        lines = state.lines
        if self.policy.router == "weighted-randomized":
            lines = tuple(tuple(sorted(line)) for line in lines)
        return State(gpus, queue, lines)

    def placements(self, state: State) -> Lots:
        """Placements of the head of a decode line, or of a class in it; none if nothing fits."""
        for which, line in enumerate(state.lines):
            if line:
                pools = ("solo", "mixed")
                if self.randomized:
                    pools = pools[which : which + 1]
                for pool in pools:
                    gpus = [g for g in range(self.n_gpus) if self.takes_decode(state, g, pool)]
                    if gpus:
                        return [
                            (weight, _with_decode(rest, g, i))
                            for weight, i, rest in self.heads(state, which)
                            for g in gpus
                        ]
        return []

    def heads(self, state: State, which: int) -> Iterator[tuple[float, int, State]]:
        """Who may leave a line next: the weight, the class, and the state without the request."""
        line = state.lines[which]
        if self.policy.router != "weighted-randomized":
            yield 1.0, line[0], _with_line(state, which, line[1:])
            return
        for i in sorted(set(line)):
            rest = _without(line, line.index(i))
            yield self.weights[which][i], i, _with_line(state, which, rest)

    def takes_decode(self, state: State, g: int, pool: str) -> bool:
        gpu = state.gpus[g]
        if not self.policy.static_pools:
            used = sum(gpu.decodes) + (gpu.prefill != IDLE)
            return used < self.slots and (gpu.prefill != IDLE) == (pool == "mixed")
        # A mixed GPU reserves one slot for prefill (13).
        limit = self.slots - 1 if pool == "mixed" else self.slots
        return (g < self.pool_size) == (pool == "mixed") and sum(gpu.decodes) < limit

    def admissions(self, state: State) -> Lots:
        """Equally likely admissions of the gate's choice; none if nothing is admitted."""
        gpus = [
            g
            for g, gpu in enumerate(state.gpus)
            if (g < self.pool_size or not self.policy.static_pools)
            and gpu.prefill == IDLE
            and sum(gpu.decodes) < self.slots
        ]
        place = self.chosen(state) if gpus and state.queue else None
        if place is None:
            return []
        i, rest = state.queue[place], state._replace(queue=_without(state.queue, place))
        return [(1.0, _with_gpu(rest, g, state.gpus[g]._replace(prefill=i))) for g in gpus]

    def chosen(self, state: State) -> int | None:
        """The place in the queue that the gate admits."""
        if self.policy.gate == "oldest":
            return 0
        running = [sum(gpu.prefill == i for gpu in state.gpus) for i in range(self.n_classes)]
        waiting = sorted(set(state.queue))
        if self.policy.gate == "strict-occupancy":
            waiting = [i for i in waiting if running[i] < self.prefill_target[i]]
        if not waiting:
            return None
        return state.queue.index(min(waiting, key=lambda i: self.rank(state, i, running[i])))

    def rank(self, state: State, i: int, running: int) -> tuple[float, float]:
        """The printed gate: least (X - n x*)/x*, ties by the largest Q_p - n q_p*."""
        target = self.prefill_target[i]
        return (running - target) / target, self.queue_target[i] - state.queue.count(i)

    # The stationary law.

    @cached_property
    def generator(self) -> tuple[list[State], csr_array]:
        """All states and Q; rows sum to 0."""
        n_lines = 2 if self.randomized else 1
        idle = Gpu(IDLE, (0,) * self.n_classes)
        empty = State((idle,) * self.n_gpus, (), ((),) * n_lines)
        index, states = {empty: 0}, [empty]
        rows, columns, rates = [], [], []
        for source, state in enumerate(states):  # grows while it is read
            for rate, law in self.transitions(state):
                for target, probability in law.items():
                    if target not in index:
                        index[target] = len(states)
                        states.append(target)
                    rows += [source, source]
                    columns += [index[target], source]
                    rates += [rate * probability, -rate * probability]
        return states, csr_array((rates, (rows, columns)), shape=(len(states), len(states)))

    @cached_property
    def stationary(self) -> np.ndarray:
        """pi with pi Q = 0, by power iteration of the uniformized chain."""
        _, q = self.generator
        rate = 1.02 * float(-q.diagonal().min())
        step = (q.T / rate).tocsr()
        pi = np.full(q.shape[0], 1.0 / q.shape[0])
        for _ in range(20_000):
            change = step @ pi
            pi += change
            if np.abs(change).sum() < 1e-13:
                return pi / pi.sum()
        raise RuntimeError("the power iteration does not converge")

    def solve(self) -> Solution:
        """Every mean that the engine reports too."""
        states, q = self.generator
        pi = self.stationary
        counts = np.array([self.occupancy(state) for state in states])
        mean = np.einsum("s,spi->pi", pi, counts)
        q_prefill, x, q_decode, y_mixed, y_solo = mean / self.n_gpus
        prefilled = np.multiply(self.prefill, x)
        completed = np.multiply(self.mixed_decode, y_mixed) + np.multiply(self.solo_decode, y_solo)
        by_class = dict(zip(OCCUPANCIES, (q_prefill, x, q_decode, y_mixed, y_solo), strict=True))
        by_class["prefilled"], by_class["completed"] = prefilled, completed
        by_class["abandoned_prefill"] = np.multiply(self.patience, q_prefill)
        by_class["abandoned_decode"] = np.multiply(self.patience, q_decode)
        prices = self.instance.prices
        prompt_bill = [prices.prefill * c.prompt_tokens for c in self.instance.classes]
        output_bill = [prices.decode * c.output_tokens for c in self.instance.classes]
        means = {f"{name} {i}": v[i] for name, v in by_class.items() for i in range(self.n_classes)}
        means["bundled revenue"] = np.add(prompt_bill, output_bill) @ completed  # (22)
        means["separate revenue"] = prompt_bill @ prefilled + output_bill @ completed  # (23)
        at_cap = counts.sum(axis=(1, 2)) == self.most_requests
        residual = float(np.abs(q.T @ pi).max())
        return Solution(len(states), float(pi[at_cap].sum()), residual, means)

    def occupancy(self, state: State) -> list[list[int]]:
        """Requests by place and class, rows as in OCCUPANCIES."""
        waiting = [i for line in state.lines for i in line]
        mixed = [gpu.decodes for gpu in state.gpus if gpu.prefill != IDLE]
        solo = [gpu.decodes for gpu in state.gpus if gpu.prefill == IDLE]
        return [
            [state.queue.count(i) for i in range(self.n_classes)],
            [sum(gpu.prefill == i for gpu in state.gpus) for i in range(self.n_classes)],
            [waiting.count(i) for i in range(self.n_classes)],
            [sum(decodes[i] for decodes in mixed) for i in range(self.n_classes)],
            [sum(decodes[i] for decodes in solo) for i in range(self.n_classes)],
        ]


def _add(law: Law, more: Law, weight: float) -> None:
    for state, probability in more.items():
        law[state] = law.get(state, 0.0) + weight * probability


def _without(line: tuple[int, ...], place: int) -> tuple[int, ...]:
    return line[:place] + line[place + 1 :]


def _plus(counts: tuple[int, ...], i: int, change: int) -> tuple[int, ...]:
    return (*counts[:i], counts[i] + change, *counts[i + 1 :])


def _with_gpu(state: State, g: int, gpu: Gpu) -> State:
    return state._replace(gpus=(*state.gpus[:g], gpu, *state.gpus[g + 1 :]))


def _with_line(state: State, which: int, line: tuple[int, ...]) -> State:
    return state._replace(lines=(*state.lines[:which], line, *state.lines[which + 1 :]))


def _with_decode(state: State, g: int, i: int) -> State:
    gpu = state.gpus[g]
    return _with_gpu(state, g, gpu._replace(decodes=_plus(gpu.decodes, i, 1)))
