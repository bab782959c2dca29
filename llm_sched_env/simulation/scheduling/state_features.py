"""Per-class state features, the inputs of the priority network, each in [-1, 1].

docs/learned.md has the formula of each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from llm_sched_env.model.priority_network import (
    LATE_SECONDS,
    LATER_SECONDS,
    RECENT_SECONDS,
    SOON_SECONDS,
)
from llm_sched_env.simulation.events.arrivals import planned_rate
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import (
    MIXED_DECODE,
    PREFILL,
    SOLO_DECODE,
    EngineState,
    Workload,
)


@compiled
def squashed(z: float) -> float:
    """Of any number, one in (-1, 1)."""
    return z / (1.0 + abs(z))


@compiled
def _forget(control: Any, time: float) -> None:
    elapsed = time - control.rate_time
    if elapsed > 0.0:
        control.recent_rate *= math.exp(-elapsed / RECENT_SECONDS)
        control.late_rate *= math.exp(-elapsed / LATE_SECONDS)
        control.rate_time = time


@compiled
def observe_arrival(state: EngineState, i: int, time: float) -> None:
    """Count an arrival of class i in the estimates of its rate."""
    control = state.control[i]
    _forget(control, time)
    control.recent_rate += 1.0 / RECENT_SECONDS
    control.late_rate += 1.0 / LATE_SECONDS


@compiled
def forget_arrivals(state: EngineState, time: float) -> None:
    """Bring all estimates of arrival rates to the present."""
    for i in range(len(state.parameters)):
        _forget(state.control[i], time)


@compiled_apart
def foresee_arrivals(state: EngineState, workload: Workload, time: float) -> None:
    """Read known profiles ahead, at most once a second."""
    if time < state.clock[0].foreseen_time + 1.0:
        return
    state.clock[0].foreseen_time = time
    for i in range(len(state.parameters)):
        control, parameters = state.control[i], state.parameters[i]
        # Of what a profile foretells, as much as a KV limit does not reject.
        fits = (
            parameters.admissible_rate / parameters.arrival_rate if parameters.arrival_rate else 0.0
        )
        control.soon_rate = fits * planned_rate(state, workload, i, time + SOON_SECONDS)
        control.later_rate = fits * planned_rate(state, workload, i, time + LATER_SECONDS)


@compiled
def _sign(condition: bool) -> float:
    return 1.0 if condition else -1.0


@compiled
def _against(rate: float, planned: float) -> float:
    """A rate beside the planned one: 0 if equal, 1 if there should be none, -1 if there is none."""
    total = rate + planned
    return (rate - planned) / total if total > 0.0 else 0.0


@compiled
def waiting_beyond_plan(state: EngineState, i: int) -> float:
    """Waiting prompts of class i less those that wait under the plan, if it has a finite queue."""
    target = state.control[i].queue_target
    waiting = float(state.classes[i].q_prefill)
    return waiting - target if target < np.inf else waiting


@compiled_apart
def read_cluster_features(state: EngineState, free: int) -> float:
    """Fill in the features that all classes share; returns the rate at which slots become free."""
    settings, features, sizes = state.settings[0], state.features, state.available_sizes
    group = state.groups[0]
    releases, prefills = 0.0, 0
    planned, recent, late, soon, later, backlog = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(state.parameters)):
        own, control, parameters = state.classes[i], state.control[i], state.parameters[i]
        decoding = (
            own.y_mixed / group.typical_mixed_seconds + own.y_solo / group.typical_solo_seconds
        )
        releases += decoding / parameters.output_tokens
        seconds = parameters.load_seconds
        planned += parameters.expected_rate * seconds
        recent += control.recent_rate * seconds
        late += control.late_rate * seconds
        soon += control.soon_rate * seconds
        later += control.later_rate * seconds
        backlog += (waiting_beyond_plan(state, i) + own.q_decode) * seconds
        prefills += own.x
    n_gpus = len(state.gpus)
    waiting = state.clock[0].waiting_decodes
    features[0] = squashed(free / settings.slot_scale)
    features[3] = squashed((free - waiting) / settings.slot_scale)
    features[4] = _sign(free > waiting)
    features[9] = squashed(waiting / settings.slot_scale)
    features[11] = 2.0 * prefills / n_gpus - 1.0
    features[12] = _sign(sizes[PREFILL] > 0)
    features[13] = _sign(sizes[MIXED_DECODE] > 0)
    features[14] = _sign(sizes[SOLO_DECODE] > 0)
    features[19] = _against(recent, planned)
    features[20] = _against(late, planned)
    features[23] = _against(soon, planned)
    features[24] = _against(later, planned)
    features[25] = squashed(backlog / (n_gpus * settings.ahead_seconds))
    return releases


@compiled_apart
def read_class_features(state: EngineState, i: int, free: int, releases: float) -> None:
    """Fill in the features of class i; those of the cluster are there already."""
    settings, features = state.settings[0], state.features
    own, control, parameters = state.classes[i], state.control[i], state.parameters[i]
    better, others = 0.0, 0.0
    better_rate, better_recent, better_late, better_soon = 0.0, 0.0, 0.0, 0.0
    for j in range(len(state.parameters)):
        other = state.control[j]
        waiting = waiting_beyond_plan(state, j)
        if j != i and other.priority <= control.priority:
            others += waiting
        if other.priority > control.priority:
            better += waiting
            better_rate += state.parameters[j].expected_rate
            better_recent += other.recent_rate
            better_late += other.late_rate
            better_soon += other.soon_rate
    scale = settings.slot_scale
    beyond = free - control.reserve
    soon = beyond + settings.ahead_seconds * (releases - better_rate)
    slots = own.x + own.y_mixed + own.y_solo
    features[1] = squashed(beyond / scale)
    features[2] = squashed(soon / scale)
    features[5] = squashed(waiting_beyond_plan(state, i) / scale)
    features[6] = squashed(better / scale)
    features[7] = squashed(others / scale)
    features[8] = squashed(own.q_decode / scale)
    features[10] = squashed((slots - parameters.planned_slots) / (4.0 * scale))
    features[15] = _against(control.recent_rate, parameters.expected_rate)
    features[16] = _against(control.late_rate, parameters.expected_rate)
    features[17] = _against(better_recent, better_rate)
    features[18] = _against(better_late, better_rate)
    features[21] = _against(control.soon_rate, parameters.expected_rate)
    features[22] = _against(better_soon, better_rate)
