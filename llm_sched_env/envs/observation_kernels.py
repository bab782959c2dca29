"""Compute observations and rewards from the engine's state, in compiled code.

Observations (observation.py) show occupancies per GPU, bounded, so that a policy moves between
cluster sizes. True lengths and patience never enter: only counts, free slots and admission
credit, or how long the heads of queues have waited. The reward is the revenue since the last step
as a share of what the fluid bound allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.events.decisions import is_possible, queue_of_action
from llm_sched_env.simulation.runtime.compiled import compiled, entry_point
from llm_sched_env.simulation.scheduling.class_lines import waits_longer
from llm_sched_env.simulation.scheduling.gates import longer_waiting
from llm_sched_env.simulation.state.compiled_views import cluster_row
from llm_sched_env.simulation.state.layout import N_AVAILABLE_SETS, EngineState

BUNDLED, SEPARATE, GOODPUT = range(3)
"""What is paid for, and when: all requests under either pricing, or good ones at completion."""
HEAD_AGE_SCALE = 10.0
"""Seconds that a head has waited when its age is shown as 1/2: mean patience in the paper."""


@compiled
def _credit_now(state: EngineState, pair: int) -> Any:
    """Admission credit of a pair at its cluster's own time, as a share of full credit."""
    control = state.control[pair]
    if control.unlimited:
        return 1.0
    earned = control.credit_rate * (state.clock[0].time - control.credit_time)
    cap = state.settings[0].credit_cap
    return min(cap, control.credit + earned) / cap


@compiled
def _observe_stations(state: EngineState, observation: np.ndarray, cluster_features: int) -> None:
    """Write the five occupancies and, from a place on, the features of the groups."""
    n, n_groups = len(state.gpus), len(state.groups)
    n_classes, n_pairs = len(state.parameters), len(state.classes)
    decode_queues = n_classes + n_pairs
    mixed, solo = decode_queues + n_classes, decode_queues + n_classes + n_pairs
    for i in range(n_classes):
        own = state.classes[i * n_groups]
        observation[i] = own.q_prefill / (n + own.q_prefill)
        observation[decode_queues + i] = own.q_decode / (n + own.q_decode)
    for g in range(n_groups):
        size, slots = state.groups[g].n_gpus, state.groups[g].batch_slots
        in_service = 0
        for pair in range(g, n_pairs, n_groups):
            own = state.classes[pair]
            in_service += own.x + own.y_mixed + own.y_solo
            observation[n_classes + pair] = own.x / size
            observation[mixed + pair] = own.y_mixed / (size * (slots - 1))
            observation[solo + pair] = own.y_solo / (size * slots)
        observation[cluster_features + g] = 1.0 - in_service / (size * slots)
        for which in range(N_AVAILABLE_SETS):
            place = cluster_features + (1 + which) * n_groups + g
            observation[place] = state.group_available_sizes[g, which] / size


@compiled
def _revenue_of_cluster(state: EngineState, scheme: int) -> tuple[float, float]:
    """Currency since the last reset of metrics, by its terms prompt and output.

    Bundled charging (22) bills both when the decode completes, separate charging (23) the
    prompt when the prefill completes. Goodput bills both at the completion of a good request.
    """
    prompt, output = 0.0, 0.0
    for pair in range(len(state.totals)):
        totals = state.totals[pair]
        if scheme == GOODPUT:
            output += totals.good_decode_revenue
            prompt += totals.good_revenue - totals.good_decode_revenue
            continue
        output += totals.decode_revenue
        if scheme == BUNDLED:
            prompt += totals.bundled_revenue - totals.decode_revenue
        else:
            prompt += totals.prefill_revenue
    return prompt, output


@compiled
def bill(
    state: EngineState,
    k: int,
    scheme: int,
    reward_scale: float,
    billed: np.ndarray,
    revenue: np.ndarray,
    terms: np.ndarray,
    rewards: np.ndarray,
) -> None:
    """What cluster k has earned so far and since the last step; arguments as read_clusters."""
    prompt, output = _revenue_of_cluster(state, scheme)
    revenue[k, 0] = prompt
    revenue[k, 1] = output
    terms[k, 0] = prompt - billed[k, 0]
    terms[k, 1] = output - billed[k, 1]
    rewards[k] = (terms[k, 0] + terms[k, 1]) * reward_scale


@entry_point
def read_clusters(
    clusters: np.ndarray,
    scheme: int,
    reward_scale: float,
    billed: np.ndarray,
    counted: np.ndarray,
    observations: np.ndarray,
    revenue: np.ndarray,
    arrived: np.ndarray,
    terms: np.ndarray,
    rewards: np.ndarray,
    arrivals: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Read clusters first..last-1; the same call again gives the same numbers.

    Args:
        clusters: stacked, by clusters_of.
        scheme: BUNDLED, SEPARATE or GOODPUT.
        reward_scale: reward per currency, 1 / (n * interval * R*).
        billed: revenue by prompt and output up to the last interval, currency, shape (N, 2).
        counted: arrivals up to the last interval, int64, shape (N, I).
        observations: receives what agents see; float32, shape (N, 2I + 4P + 4G).
        revenue: receives the revenue by prompt and output up to now, shape (N, 2).
        arrived: receives the arrivals up to now, shape (N, I).
        terms: receives the revenue of the interval, shape (N, 2).
        rewards: receives its sum times the scale, shape (N,).
        arrivals: receives the arrivals of the interval, shape (N, I).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        state = cluster_row(clusters, k)
        n_groups, n_classes, n_pairs = len(state.groups), len(state.parameters), len(state.classes)
        first_credit = 2 * n_classes + 3 * n_pairs
        _observe_stations(state, observations[k], first_credit + n_pairs)
        for pair in range(n_pairs):
            observations[k, first_credit + pair] = _credit_now(state, pair)
        for i in range(n_classes):
            arrived[k, i] = state.totals[i * n_groups].arrived
            arrivals[k, i] = arrived[k, i] - counted[k, i]
        bill(state, k, scheme, reward_scale, billed, revenue, terms, rewards)


@compiled
def _is_older(state: EngineState, queue: int, other: int) -> Any:
    """Whether the head of a queue came there before the head of another of its kind."""
    if queue < state.settings[0].prefill_queues:
        return longer_waiting(state, queue, other)
    return waits_longer(state, queue, other)


@compiled
def _observe_heads(
    state: EngineState,
    observation: np.ndarray,
    mask: np.ndarray,
    ranks: np.ndarray,
    arrivals: np.ndarray,
) -> None:
    """Ages and ranks of the requests that the actions take, and which actions are possible."""
    n_classes, n_groups, n_pairs = len(state.parameters), len(state.groups), len(state.classes)
    mask[0] = 1
    arrivals[:] = np.inf
    for action in range(1, 1 + 3 * n_pairs):
        mask[action] = is_possible(state, action)
        if (action - 1) % n_groups > 0:
            continue  # the same head as for the first group
        queue = queue_of_action(state, action)
        part, i = (action - 1) // n_pairs, (action - 1) % n_pairs // n_groups
        head = state.queues[queue].head
        if head < 0:
            observation[part * n_classes + i] = 0.0
            ranks[part, i] = n_classes
            continue
        record = state.requests[state.waiting[head].request]
        since = record.arrival_time if part == 0 else record.first_token_time
        if part == 0:
            arrivals[i] = since
        age = max(0.0, state.clock[0].time - since)
        observation[part * n_classes + i] = age / (HEAD_AGE_SCALE + age)
        rank = 0
        for other in range(queue - i, queue - i + n_classes):
            if other != queue and state.queues[other].head >= 0:
                rank += _is_older(state, other, queue)
        ranks[part, i] = rank


@entry_point
def read_decisions(
    clusters: np.ndarray,
    scheme: int,
    reward_scale: float,
    billed: np.ndarray,
    decided_at: np.ndarray,
    observations: np.ndarray,
    revenue: np.ndarray,
    terms: np.ndarray,
    rewards: np.ndarray,
    times: np.ndarray,
    elapsed: np.ndarray,
    events: np.ndarray,
    masks: np.ndarray,
    counts: np.ndarray,
    head_ranks: np.ndarray,
    head_arrivals: np.ndarray,
    first: int,
    last: int,
) -> None:
    """Read clusters first..last-1 with event-driven control; the same call again gives the same.

    Args:
        clusters: stacked, by clusters_of.
        scheme: BUNDLED, SEPARATE or GOODPUT.
        reward_scale: reward per currency, 1 / (n * R*).
        billed: revenue by prompt and output up to the last decision, currency, shape (N, 2).
        decided_at: time of the last decision, seconds, shape (N,).
        observations: receives what agents see; float32, shape (N, 5I + 3P + 4G).
        revenue: receives the revenue by prompt and output up to now, shape (N, 2).
        terms: receives the difference, shape (N, 2).
        rewards: receives its sum times the scale, shape (N,).
        times: receives the seconds since the start, shape (N,).
        elapsed: receives the seconds since the last decision, shape (N,).
        events: receives the number of events so far; int64, shape (N,).
        masks: receives 1 where an action is possible; int8, shape (N, 1 + 3P).
        counts: receives the requests at each station; int64, shape (N, 5, P).
        head_ranks: receives, for the request that each action would take, how many classes have
            an older one, I where there is none; int64, shape (N, 3, I).
        head_arrivals: receives when the head of each prefill queue arrived, seconds since the
            start, inf where nobody waits; shape (N, I).
        first: the first cluster.
        last: one past the last cluster.
    """
    for k in range(first, last):
        state = cluster_row(clusters, k)
        n_classes, n_pairs = len(state.parameters), len(state.classes)
        first_head = 2 * n_classes + 3 * n_pairs
        _observe_stations(state, observations[k], first_head + 3 * n_classes)
        heads = observations[k, first_head : first_head + 3 * n_classes]
        _observe_heads(state, heads, masks[k], head_ranks[k], head_arrivals[k])
        for pair in range(n_pairs):
            own = state.classes[pair]
            counts[k, 0, pair] = own.q_prefill
            counts[k, 1, pair] = own.x
            counts[k, 2, pair] = own.q_decode
            counts[k, 3, pair] = own.y_mixed
            counts[k, 4, pair] = own.y_solo
        times[k] = state.clock[0].time
        elapsed[k] = times[k] - decided_at[k]
        events[k] = state.clock[0].events
        bill(state, k, scheme, reward_scale, billed, revenue, terms, rewards)
