"""Arrivals: the next request, drawn from the arrival model or read from a recorded stream.

Candidates come with exponential gaps at the greatest rate of each class. With constant rates each
is a request; with profiles or modulation one is kept with the probability rate now / greatest
rate (thinning). Draws of arrivals go by the number of the candidate, lengths and patience by that
of the request. All of this depends on the streams only, so every rule faces the same requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.simulation.caches.prefix_reuse import keeps_blocks, note_blocks
from llm_sched_env.simulation.events.lengths import PAIRED, draw_length
from llm_sched_env.simulation.events.random_streams import (
    ARRIVAL,
    CLASS,
    MODULATION,
    OUTPUT,
    PROMPT,
    THINNING,
    exponential,
    uniform,
)
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import EngineState, Workload


@compiled
def _class_of(state: EngineState, k: int) -> int:
    """The class of candidate k."""
    share = uniform(state.keys[CLASS], k)
    i = 0
    while i < len(state.parameters) - 1 and share >= state.parameters[i].cumulative_share:
        i += 1
    return i


@compiled_apart
def profile_multiplier(
    times: np.ndarray, multipliers: np.ndarray, period: float, time: float
) -> float:
    """A piecewise-linear periodic profile at ``time``; its first point is at 0."""
    phase = time % period
    after: Any = np.searchsorted(times, phase, side="right")
    before = after - 1
    # The last point, at the end of the period, is never passed.
    after = min(after, len(times) - 1)
    span = times[after] - times[before]
    if span <= 0.0:
        return multipliers[before]
    part = (phase - times[before]) / span
    return multipliers[before] + part * (multipliers[after] - multipliers[before])


@compiled
def _next_state(cumulative: np.ndarray, draw: float) -> int:
    s = 0
    while s < len(cumulative) - 1 and draw >= cumulative[s]:
        s += 1
    return s


@compiled_apart
def start_modulation(state: EngineState, workload: Workload) -> None:
    """Put the modulating chain, if any, into a state of its stationary law."""
    if len(workload.state_shares) == 0:
        return
    clock = state.clock[0]
    key = state.keys[MODULATION]
    s = _next_state(workload.state_shares, uniform(key, -1))
    clock.modulation_state = s
    clock.modulation_until = exponential(key, 0) / workload.state_exit_rates[s]
    clock.modulation_jumps = 1


@compiled
def _modulation_now(state: EngineState, workload: Workload, i: int, time: float) -> float:
    """The chain's multiplier of class i's rate at ``time``; the chain moves on to it."""
    if len(workload.state_shares) == 0:
        return 1.0
    clock = state.clock[0]
    key = state.keys[MODULATION]
    while clock.modulation_until <= time:
        jump = clock.modulation_jumps
        s = _next_state(workload.state_jumps[clock.modulation_state], uniform(key, 2 * jump + 1))
        clock.modulation_state = s
        clock.modulation_until += exponential(key, 2 * jump) / workload.state_exit_rates[s]
        clock.modulation_jumps = jump + 1
    return workload.state_multipliers[clock.modulation_state, i]


@compiled
def planned_rate(state: EngineState, workload: Workload, i: int, time: float) -> float:
    """Arrival rate of class i at a time by its profile, whole cluster, 1/s; bursts are unknown."""
    rate = state.parameters[i].arrival_rate
    profile = workload.profiles[i]
    if profile.count == 0:
        return rate
    last = profile.first + profile.count
    return rate * profile_multiplier(
        workload.profile_times[profile.first : last],
        workload.profile_multipliers[profile.first : last],
        profile.period,
        time,
    )


@compiled_apart
def _is_kept(state: EngineState, workload: Workload, i: int, k: int, time: float) -> bool:
    """Whether candidate k, of class i, at ``time`` is a request."""
    parameters = state.parameters[i]
    rate = _modulation_now(state, workload, i, time) * planned_rate(state, workload, i, time)
    return uniform(state.keys[THINNING], k) * parameters.peak_rate < rate


@compiled
def schedule_next_arrival(state: EngineState, workload: Workload) -> None:
    """Set time and class of request ``next_index``; inf when there is none."""
    clock = state.clock[0]
    recorded = workload.recorded.arrival_time
    if len(recorded) > 0:
        k = clock.first_recorded + clock.next_index
        clock.next_arrival_time = recorded[k] if k < len(recorded) else np.inf
        return
    peak_rate = state.settings[0].peak_rate
    time = clock.time
    while True:
        k = clock.next_candidate
        clock.next_candidate = k + 1
        time += exponential(state.keys[ARRIVAL], k) / peak_rate
        i = _class_of(state, k)
        if state.settings[0].steady or _is_kept(state, workload, i, k, time):
            break
    clock.next_class = i
    clock.next_arrival_time = time


@compiled
def fill_request(state: EngineState, workload: Workload, request: int) -> None:
    """Write class, lengths and arrival time of request ``next_index`` into a record."""
    record = state.requests[request]
    k = state.clock[0].next_index
    record.index = k
    record.arrival_time = state.clock[0].time
    record.patience_seconds = -1.0
    recorded = workload.recorded
    if len(recorded.arrival_time) > 0:
        k += state.clock[0].first_recorded
        record.request_class = recorded.request_class[k]
        record.prompt_tokens = recorded.prompt_tokens[k]
        record.output_tokens = recorded.output_tokens[k]
        if len(recorded.patience_seconds) > 0:
            record.patience_seconds = recorded.patience_seconds[k]
        if keeps_blocks(state):
            note_blocks(state, workload, request, k)
        return
    i = state.clock[0].next_class
    record.request_class = i
    values = workload.length_values
    record.prompt_tokens = draw_length(workload.lengths[0], values, i, state.keys[PROMPT], k)
    output_key = state.keys[PROMPT if workload.lengths[1, i].kind == PAIRED else OUTPUT]
    record.output_tokens = draw_length(workload.lengths[1], values, i, output_key, k)
