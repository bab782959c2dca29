"""Compute who can be sent a request, and what is known of them, in compiled code.

Candidates of a group are its k GPUs with the longest match, of those that match at all, and its k
with the least load. Those that are equal are in the order of a circle from a random GPU on, which
is the draw with which the compiled routers break ties. All of this is what a router knows: signals
as of the last refresh, and what it has sent since. Output lengths and patience never enter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.envs.observation_kernels import bill
from llm_sched_env.simulation.caches.prefix_reuse import tokens_of
from llm_sched_env.simulation.caches.signals import (
    expected_seconds,
    known_queue_seconds,
    known_running,
    known_waiting,
)
from llm_sched_env.simulation.engine import cluster_row
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart, entry_point
from llm_sched_env.simulation.scheduling.reuse_routers import kv_utilization
from llm_sched_env.simulation.state.layout import EngineState

SECONDS_SCALE = 1.0
"""Seconds of prefills that are shown as 1/2."""
IDLE_SCALE = 60.0
"""Seconds that nobody has used a block that has to go when its age is shown as 1/2."""
N_FEATURES = 7


@compiled
def _per_slot(state: EngineState, gpu: int) -> Any:
    """Requests that are known to wait at a GPU or to be in service there, over its slots."""
    inside = known_waiting(state, gpu) + known_running(state, gpu)
    return inside / state.groups[state.gpus[gpu].group].batch_slots


@compiled_apart
def _merit(state: EngineState, gpu: int, by_match: bool, by_requests: bool) -> Any:
    """What candidates are chosen by; the greatest come first."""
    if by_match:
        return state.signals[gpu].matched
    if by_requests:
        return -_per_slot(state, gpu)
    if state.settings[0].refresh_seconds == 0.0:
        return -state.backlogs[gpu].seconds  # the running prefill counts whole until it ends
    return -known_queue_seconds(state, gpu, state.clock[0].time)


@compiled_apart
def _list_best(
    state: EngineState, g: int, by_match: bool, by_requests: bool, places: np.ndarray
) -> None:
    """Write the best GPUs of a group, the first from a random GPU on among equal ones; -1: none."""
    group = state.groups[g]
    offset = state.clock[0].first_candidate - group.first_gpu
    if offset < 0 or offset >= group.n_gpus:
        offset = np.int64(0)
    places[:] = -1
    count = 0
    for step in range(group.n_gpus):
        gpu = group.first_gpu + (offset + step) % group.n_gpus
        merit = _merit(state, gpu, by_match, by_requests)
        if by_match and merit <= 0.0:
            continue
        place = count
        while place > 0 and merit > _merit(state, places[place - 1], by_match, by_requests):
            if place < len(places):
                places[place] = places[place - 1]
            place -= 1
        if place < len(places):
            places[place] = gpu
            count = min(count + 1, len(places))


@compiled
def _list_candidates(
    state: EngineState, by_requests: bool, gpus: np.ndarray, mask: np.ndarray
) -> None:
    """Write the candidates of all groups, and which of them can be chosen."""
    gpus[:] = -1
    mask[:] = 0
    prefilling = 0
    for g in range(len(state.groups)):
        prefilling += state.groups[g].prefills
    k = len(gpus) // (2 * prefilling)
    if state.clock[0].unsent < 0:
        mask[k] = 1  # the episode ends, or no request comes before its end: there is no choice
        return
    first = 0
    for g in range(len(state.groups)):
        if state.groups[g].prefills == 0:
            continue
        for part in range(2):
            places = gpus[first + part * k : first + (part + 1) * k]
            _list_best(state, g, part == 0, by_requests, places)
        for place in range(first, first + 2 * k):
            mask[place] = 1 if gpus[place] >= 0 else 0
        for place in range(first, first + k):
            for other in range(first + k, first + 2 * k):
                if gpus[place] == gpus[other]:
                    mask[place] = 0  # once among the least loaded is enough
        first += 2 * k


@compiled
def _half_at(value: float, scale: float) -> float:
    """From 0 to 1, 1/2 at the scale."""
    return value / (scale + value) if value < np.inf else 1.0


@compiled_apart
def _show_candidate(state: EngineState, gpu: int, known: np.ndarray, features: np.ndarray) -> None:
    """Write the numbers of a GPU, rows CANDIDATE_NUMBERS, and its features between 0 and 1."""
    request, time = state.clock[0].unsent, state.clock[0].time
    record, signal = state.requests[request], state.signals[gpu]
    slots = state.groups[state.gpus[gpu].group].batch_slots
    known[0] = tokens_of(state, request, signal.matched)
    known[1] = expected_seconds(state, gpu, record.prompt_tokens - known[0])
    known[2] = known_queue_seconds(state, gpu, time)
    known[3] = known_waiting(state, gpu)
    known[4] = known_running(state, gpu)
    known[5] = kv_utilization(state, gpu)
    known[6] = signal.idle_seconds
    features[0] = signal.matched / max(1.0, state.reuse[request].prompt_blocks)
    features[1] = _half_at(known[1], SECONDS_SCALE)
    features[2] = _half_at(known[2], SECONDS_SCALE)
    features[3] = _half_at(known[3] / slots, 1.0)
    features[4] = min(1.0, known[4] / slots)
    features[5] = known[5]
    features[6] = _half_at(known[6], IDLE_SCALE)


@compiled_apart
def _show_groups(state: EngineState, features: np.ndarray) -> None:
    """Write GROUP_FEATURES: requests per slot, and KV use, of all GPUs of each group."""
    n_groups = len(state.groups)
    for g in range(n_groups):
        group = state.groups[g]
        waiting, running, used = 0.0, 0.0, 0.0
        for gpu in range(group.first_gpu, group.first_gpu + group.n_gpus):
            waiting += known_waiting(state, gpu)
            running += known_running(state, gpu)
            used += kv_utilization(state, gpu)
        slots = group.n_gpus * group.batch_slots
        features[g] = _half_at(waiting / slots, 1.0)
        features[n_groups + g] = min(1.0, running / slots)
        features[2 * n_groups + g] = min(1.0, used / group.n_gpus)


@compiled
def _show(state: EngineState, observation: np.ndarray, gpus: np.ndarray, known: np.ndarray) -> Any:
    """Write the observation; returns the class of the request, -1: there is none."""
    n_classes, actions, unsent = len(state.parameters), len(gpus), state.clock[0].unsent
    observation[:] = 0.0
    known[:] = 0.0
    _show_groups(state, observation[n_classes + N_FEATURES * actions :])
    if unsent < 0:
        return -1
    i = np.int64(state.requests[unsent].request_class)
    observation[i] = 1.0
    for place in range(actions):
        if gpus[place] >= 0:
            features = observation[n_classes + place : n_classes + N_FEATURES * actions : actions]
            _show_candidate(state, gpus[place], known[:, place], features)
    return i


@entry_point
def read_arrivals(
    states: EngineState,
    scheme: int,
    reward_scale: float,
    billed: np.ndarray,
    decided_at: np.ndarray,
    by_requests: bool,
    observations: np.ndarray,
    revenue: np.ndarray,
    terms: np.ndarray,
    rewards: np.ndarray,
    times: np.ndarray,
    elapsed: np.ndarray,
    events: np.ndarray,
    masks: np.ndarray,
    gpus: np.ndarray,
    known: np.ndarray,
    classes: np.ndarray,
    prompts: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Read clusters first..last-1 whose requests an agent routes; again gives the same.

    Args:
        states: stacked clusters.
        scheme: BUNDLED, SEPARATE or GOODPUT.
        reward_scale: reward per currency, 1 / (n * R*).
        billed: revenue by prompt and output up to the last decision, currency, shape (N, 2).
        decided_at: time of the last decision, seconds, shape (N,).
        by_requests: whether load is requests per slot, not seconds of prefills.
        observations: receives what agents see; float32, shape (N, I + 7A + 3G).
        revenue: receives the revenue by prompt and output up to now, shape (N, 2).
        terms: receives the difference, shape (N, 2).
        rewards: receives its sum times the scale, shape (N,).
        times: receives the seconds since the start, shape (N,).
        elapsed: receives the seconds since the last decision, shape (N,).
        events: receives the number of events so far; int64, shape (N,).
        masks: receives 1 where an action is possible; int8, shape (N, A).
        gpus: receives the GPU of each action, -1: none; int64, shape (N, A).
        known: receives what is known of each, rows CANDIDATE_NUMBERS, shape (N, 7, A).
        classes: receives the class of the request, -1: there is none; int64, shape (N,).
        prompts: receives its prompt tokens, shape (N,).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        state = cluster_row(states, k)
        clock = state.clock[0]
        _list_candidates(state, by_requests, gpus[k], masks[k])
        classes[k] = _show(state, observations[k], gpus[k], known[k])
        prompts[k] = state.requests[clock.unsent].prompt_tokens if clock.unsent >= 0 else 0.0
        times[k] = clock.time
        elapsed[k] = times[k] - decided_at[k]
        events[k] = clock.events
        bill(states, k, scheme, reward_scale, billed, revenue, terms, rewards)
