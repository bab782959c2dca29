"""An independent simulation of the Markov model, which the engine is compared with.

With exponential lengths and patience the cluster is a continuous-time Markov chain. Here it is
simulated as one: no request has a length or a deadline, the rates of all events follow from who
is where, and one event is drawn in proportion (Gillespie). The code is naive on purpose. Every
count is taken from the GPUs again at every event, at a cost that grows with the cluster. Of the
package it uses an instance and its fluid plan, nothing else, so that an error in the engine has
no counterpart here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan

OCCUPANCIES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
Q_PREFILL, X, Q_DECODE, Y_MIXED, Y_SOLO = range(5)
# Events; each has one rate per class.
ARRIVAL, LEAVE_QUEUE, LEAVE_LINE, PREFILL_END, MIXED_DECODE_END, SOLO_DECODE_END = range(6)
# Gates.
OCCUPANCY, STRICT_OCCUPANCY, OLDEST_WITH_CREDIT, LARGEST_CREDIT, OLDEST = range(5)

MOST_CREDIT = 3.0
# Equal numbers that were computed in different ways differ by less.
ROUNDING = 1e-9


class Policy(NamedTuple):
    """What distinguishes the policies of the model."""

    gate: int
    static_pools: bool = False
    coupled: bool = False  # a decode stays in the slot of its prefill
    prefill_first: bool = False  # a freed slot takes a new prefill before a waiting decode


POLICIES = {
    "gate-and-route": Policy(OCCUPANCY, static_pools=True),
    "strict-gate-and-route": Policy(STRICT_OCCUPANCY, static_pools=True),
    "token-bucket-static": Policy(OLDEST_WITH_CREDIT, static_pools=True),
    "token-bucket": Policy(LARGEST_CREDIT),
    "fcfs-immediate": Policy(OLDEST, coupled=True),
    "gate-immediate": Policy(OCCUPANCY, coupled=True),
    "gate-prefill-first": Policy(OCCUPANCY, prefill_first=True),
    "fcfs-and-route": Policy(OLDEST, static_pools=True),
}


class Model(NamedTuple):
    """What stays constant in a run; rates are in 1/s, arrays have shape (I,)."""

    policy: Policy
    slots: int
    pool_size: int  # GPUs 0..pool_size-1 are the static mixed pool
    arrival_rates: np.ndarray  # of the whole cluster
    patience_rates: np.ndarray
    prefill_rates: np.ndarray
    mixed_decode_rates: np.ndarray
    solo_decode_rates: np.ndarray
    prefill_targets: np.ndarray  # n x*
    queue_targets: np.ndarray  # n q_p*
    credit_rates: np.ndarray
    always_credit: np.ndarray  # the plan admits every request of the class


class Cluster(NamedTuple):
    """The state of the chain; the arrays are changed in place."""

    prefill: np.ndarray  # (n,): class of the running prefill, -1 for none
    decodes: np.ndarray  # (I, n): running decodes
    queue_times: np.ndarray  # (I, room): when those who wait for prefill arrived, oldest first
    queue_sizes: np.ndarray  # (I,)
    line: np.ndarray  # (room,): classes of those who wait for a decode slot, oldest first
    line_size: np.ndarray  # (1,)
    credit: np.ndarray  # (I,)


@dataclass(frozen=True)
class Averages:
    """Averages of one run between warm-up and horizon, per GPU; revenue also per second."""

    occupancy: np.ndarray  # (5, I), rows as in OCCUPANCIES
    bundled_revenue_rate: float
    separate_revenue_rate: float


def simulate(
    instance: Instance,
    policy: str,
    n_gpus: int,
    horizon: float,
    warmup: float,
    seeds: Iterable[int],
) -> list[Averages]:
    """Run an initially empty cluster once per seed and average over (warmup, horizon] seconds."""
    model = _model(instance, POLICIES[policy], n_gpus)
    return [_simulate_once(instance, model, n_gpus, horizon, warmup, seed) for seed in seeds]


def _simulate_once(
    instance: Instance, model: Model, n_gpus: int, horizon: float, warmup: float, seed: int
) -> Averages:
    room = 1000 + int(3 * horizon * model.arrival_rates.sum())
    cluster = _empty_cluster(model, n_gpus, room)
    area, prefilled, completed = _run(model, cluster, horizon, warmup, np.random.default_rng(seed))
    gpu_seconds = n_gpus * (horizon - warmup)
    prompt_bill = instance.prices.prefill * _of_classes(instance, "prompt_tokens")
    output_bill = instance.prices.decode * _of_classes(instance, "output_tokens")
    return Averages(
        area / gpu_seconds,
        float((prompt_bill + output_bill) @ completed) / gpu_seconds,
        float(prompt_bill @ prefilled + output_bill @ completed) / gpu_seconds,
    )


def _of_classes(instance: Instance, field: str) -> np.ndarray:
    return np.array([getattr(c, field) for c in instance.classes], float)


def _model(instance: Instance, policy: Policy, n_gpus: int) -> Model:
    """Rates (4) and the plan's targets for n GPUs."""
    hardware, fluid = instance.hardware, plan(instance)
    mixed_seconds = hardware.alpha + hardware.beta * hardware.chunk_tokens
    prompt, output = _of_classes(instance, "prompt_tokens"), _of_classes(instance, "output_tokens")
    prefill_rates = hardware.chunk_tokens / (prompt * mixed_seconds)
    return Model(
        policy=policy,
        slots=int(hardware.batch_slots),
        pool_size=math.ceil(n_gpus * fluid.x.sum() - ROUNDING),
        arrival_rates=n_gpus * _of_classes(instance, "arrival_rate"),
        patience_rates=_of_classes(instance, "patience_rate"),
        prefill_rates=prefill_rates,
        mixed_decode_rates=1.0 / (output * mixed_seconds),
        solo_decode_rates=hardware.gamma / output,
        prefill_targets=n_gpus * fluid.x,
        queue_targets=n_gpus * fluid.q_prefill,
        credit_rates=n_gpus * prefill_rates * fluid.x,
        always_credit=fluid.admission_fraction >= 1.0 - ROUNDING,
    )


def _empty_cluster(model: Model, n_gpus: int, room: int) -> Cluster:
    """No requests, and full credit for every class that ever gets any."""
    n_classes = len(model.arrival_rates)
    return Cluster(
        prefill=np.full(n_gpus, -1),
        decodes=np.zeros((n_classes, n_gpus), np.int64),
        queue_times=np.zeros((n_classes, room)),
        queue_sizes=np.zeros(n_classes, np.int64),
        line=np.zeros(room, np.int64),
        line_size=np.zeros(1, np.int64),
        credit=np.where(model.credit_rates > 0.0, MOST_CREDIT, 0.0),
    )


@njit(cache=True)
def _run(model, cluster, horizon, warmup, rng):
    """Integrals of the occupancies, ended prefills and ended decodes after the warm-up."""
    n_classes = len(model.arrival_rates)
    area = np.zeros((5, n_classes))
    ended = np.zeros((6, n_classes))
    time = 0.0
    while True:
        counts = _count(cluster)
        rates = _event_rates(model, counts)
        gap = rng.exponential(1.0 / rates.sum())
        timer = _seconds_to_credit(model, cluster)
        end = min(horizon, time + min(gap, timer))
        area += counts * max(0.0, end - max(time, warmup))
        if end == horizon:
            decodes = ended[MIXED_DECODE_END] + ended[SOLO_DECODE_END]
            return area, ended[PREFILL_END], decodes
        _earn_credit(model, cluster, end - time)
        time = end
        if gap <= timer:
            event, i = divmod(_pick(rates.ravel(), rng), n_classes)
            _make_happen(model, cluster, event, i, time, rng)
            if time > warmup:
                ended[event, i] += 1
        _dispatch(model, cluster, rng)
        _check_capacities(model, cluster)


@njit(cache=True)
def _count(cluster):
    """Requests by place and class, shape (5, I)."""
    n_classes, n_gpus = cluster.decodes.shape
    counts = np.zeros((5, n_classes), np.int64)
    counts[Q_PREFILL] = cluster.queue_sizes
    for k in range(cluster.line_size[0]):
        counts[Q_DECODE, cluster.line[k]] += 1
    for gpu in range(n_gpus):
        if cluster.prefill[gpu] >= 0:
            counts[X, cluster.prefill[gpu]] += 1
    for i in range(n_classes):
        for gpu in range(n_gpus):
            mixed = cluster.prefill[gpu] >= 0
            counts[Y_MIXED if mixed else Y_SOLO, i] += cluster.decodes[i, gpu]
    return counts


@njit(cache=True)
def _decodes_by_gpu(cluster):
    """Running decodes of all classes on each GPU, shape (n,)."""
    n_classes, n_gpus = cluster.decodes.shape
    decodes = np.zeros(n_gpus, np.int64)
    for i in range(n_classes):
        for gpu in range(n_gpus):
            decodes[gpu] += cluster.decodes[i, gpu]
    return decodes


@njit(cache=True)
def _event_rates(model, counts):
    """Rates of all events, shape (6, I)."""
    rates = np.empty((6, len(model.arrival_rates)))
    rates[ARRIVAL] = model.arrival_rates
    rates[LEAVE_QUEUE] = model.patience_rates * counts[Q_PREFILL]
    rates[LEAVE_LINE] = model.patience_rates * counts[Q_DECODE]
    rates[PREFILL_END] = model.prefill_rates * counts[X]
    rates[MIXED_DECODE_END] = model.mixed_decode_rates * counts[Y_MIXED]
    rates[SOLO_DECODE_END] = model.solo_decode_rates * counts[Y_SOLO]
    return rates


@njit(cache=True)
def _pick(weights, rng):
    """An index, drawn in proportion to the weights; -1 if all are 0."""
    left = rng.random() * weights.sum()
    last = -1
    for k in range(len(weights)):
        if weights[k] > 0:
            last = k
            left -= weights[k]
            if left < 0:
                break
    return last


@njit(cache=True)
def _make_happen(model, cluster, event, i, time, rng):
    """An event of class i; those it may happen to are equally likely."""
    if event == ARRIVAL:
        cluster.queue_times[i, cluster.queue_sizes[i]] = time
        cluster.queue_sizes[i] += 1
    elif event == LEAVE_QUEUE:
        _leave_queue(cluster, i, int(rng.random() * cluster.queue_sizes[i]))
    elif event == LEAVE_LINE:
        in_line = cluster.line[: cluster.line_size[0]]
        _leave_line(cluster, _pick(np.where(in_line == i, 1, 0), rng))
    elif event == PREFILL_END:
        gpu = _pick(np.where(cluster.prefill == i, 1, 0), rng)
        cluster.prefill[gpu] = -1
        if model.policy.coupled:
            cluster.decodes[i, gpu] += 1
        else:
            cluster.line[cluster.line_size[0]] = i
            cluster.line_size[0] += 1
    else:
        here = (cluster.prefill >= 0) == (event == MIXED_DECODE_END)
        gpu = _pick(np.where(here, cluster.decodes[i], 0), rng)
        cluster.decodes[i, gpu] -= 1


@njit(cache=True)
def _leave_queue(cluster, i, place):
    """Take the request at a place out of the prefill queue of class i."""
    size = cluster.queue_sizes[i]
    for k in range(place, size - 1):
        cluster.queue_times[i, k] = cluster.queue_times[i, k + 1]
    cluster.queue_sizes[i] = size - 1


@njit(cache=True)
def _leave_line(cluster, place):
    """Take the request at a place out of the decode line."""
    size = cluster.line_size[0]
    for k in range(place, size - 1):
        cluster.line[k] = cluster.line[k + 1]
    cluster.line_size[0] = size - 1


@njit(cache=True)
def _dispatch(model, cluster, rng):
    """Use the free slots, in the policy's order."""
    if model.policy.prefill_first:
        _admit(model, cluster, rng)
        _place(model, cluster, rng)
    else:
        _place(model, cluster, rng)
        _admit(model, cluster, rng)


@njit(cache=True)
def _place(model, cluster, rng):
    """Waiting decodes take solo slots, then mixed ones, each on a random GPU."""
    while cluster.line_size[0] > 0:
        gpu = _pick(_decode_slots(model, cluster, solo=True), rng)
        if gpu < 0:
            gpu = _pick(_decode_slots(model, cluster, solo=False), rng)
        if gpu < 0:
            return
        cluster.decodes[cluster.line[0], gpu] += 1
        _leave_line(cluster, 0)


@njit(cache=True)
def _decode_slots(model, cluster, solo):
    """1 for each solo (or mixed) GPU that can take a decode; a mixed one keeps a slot back."""
    n_gpus = len(cluster.prefill)
    can = np.zeros(n_gpus, np.int64)
    limit = model.slots if solo else model.slots - 1
    decodes = _decodes_by_gpu(cluster)
    for gpu in range(n_gpus):
        is_solo = cluster.prefill[gpu] < 0
        if model.policy.static_pools:
            is_solo = gpu >= model.pool_size
        if is_solo == solo and decodes[gpu] < limit:
            can[gpu] = 1
    return can


@njit(cache=True)
def _admit(model, cluster, rng):
    """Waiting requests start prefill on random GPUs as long as the gate opens."""
    while cluster.queue_sizes.sum() > 0:
        gpu = _pick(_prefill_slots(model, cluster), rng)
        if gpu < 0:
            return
        i = _choose_class(model, cluster)
        if i < 0:
            return
        cluster.prefill[gpu] = i
        _leave_queue(cluster, i, 0)
        if not model.always_credit[i]:
            cluster.credit[i] -= 1.0


@njit(cache=True)
def _prefill_slots(model, cluster):
    """1 for each GPU that can start a prefill."""
    n_gpus = len(cluster.prefill)
    can = np.zeros(n_gpus, np.int64)
    decodes = _decodes_by_gpu(cluster)
    for gpu in range(n_gpus):
        allowed = gpu < model.pool_size or not model.policy.static_pools
        free = cluster.prefill[gpu] < 0 and decodes[gpu] < model.slots
        if allowed and free:
            can[gpu] = 1
    return can


@njit(cache=True)
def _choose_class(model, cluster):
    """The waiting class that the gate admits next, or -1."""
    gate = model.policy.gate
    if gate in (OCCUPANCY, STRICT_OCCUPANCY):
        return _by_occupancy(model, cluster, gate == STRICT_OCCUPANCY)
    best = -1
    for i in range(len(cluster.queue_sizes)):
        if cluster.queue_sizes[i] == 0:
            continue
        if gate != OLDEST and cluster.credit[i] < 1.0 - ROUNDING:
            continue
        if best < 0 or _goes_before(cluster, i, best, gate == LARGEST_CREDIT):
            best = i
    return best


@njit(cache=True)
def _goes_before(cluster, i, j, by_credit):
    """True if class i has more credit than class j; without that rule or in a tie, if older."""
    more = cluster.credit[i] - cluster.credit[j]
    if by_credit and abs(more) > ROUNDING:
        return more > 0.0
    return cluster.queue_times[i, 0] < cluster.queue_times[j, 0]


@njit(cache=True)
def _by_occupancy(model, cluster, strict):
    """The waiting class with the least (X - n x*) / x*; ties by the largest Q_p - n q_p*.

    Ties happen all the time, as targets can have simple ratios: rounding must not break them.
    """
    in_prefill = _count(cluster)[X]
    best = -1
    least, longest = np.inf, -np.inf
    for i in range(len(in_prefill)):
        target = model.prefill_targets[i]
        if cluster.queue_sizes[i] == 0 or (strict and in_prefill[i] >= target - ROUNDING):
            continue
        ratio = (in_prefill[i] - target) / target if target > 0.0 else np.inf
        excess = cluster.queue_sizes[i] - model.queue_targets[i]
        tied = ratio == least or abs(ratio - least) <= ROUNDING
        if best < 0 or (excess > longest + ROUNDING if tied else ratio < least):
            best, least, longest = i, ratio, excess
    return best


@njit(cache=True)
def _seconds_to_credit(model, cluster):
    """When the next class that waits for credit will have earned it; inf for none."""
    seconds = np.inf
    if model.policy.gate in (OLDEST_WITH_CREDIT, LARGEST_CREDIT):
        for i in range(len(cluster.credit)):
            lacking = 1.0 - cluster.credit[i]
            if cluster.queue_sizes[i] > 0 and lacking > ROUNDING and model.credit_rates[i] > 0.0:
                seconds = min(seconds, lacking / model.credit_rates[i])
    return seconds


@njit(cache=True)
def _earn_credit(model, cluster, seconds):
    """Classes whose admission the plan limits earn credit while time passes."""
    for i in range(len(cluster.credit)):
        if not model.always_credit[i]:
            earned = model.credit_rates[i] * seconds
            cluster.credit[i] = min(MOST_CREDIT, cluster.credit[i] + earned)


@njit(cache=True)
def _check_capacities(model, cluster):
    """Slots of every GPU, its pool's limits, and room in the arrays."""
    decodes = _decodes_by_gpu(cluster)
    for gpu in range(len(cluster.prefill)):
        prefills = 1 if cluster.prefill[gpu] >= 0 else 0
        in_pool = gpu < model.pool_size
        if decodes[gpu] + prefills > model.slots:
            raise ValueError("more requests in service than slots")
        if model.policy.static_pools and in_pool and decodes[gpu] == model.slots:
            raise ValueError("the slot reserved for prefill is taken")
        if model.policy.static_pools and not in_pool and prefills == 1:
            raise ValueError("a prefill in the solo pool")
    if max(cluster.queue_sizes.max(), cluster.line_size[0]) == len(cluster.line):
        raise ValueError("no room for another waiting request")
