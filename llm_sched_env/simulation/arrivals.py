"""Arrivals: the next request, drawn from the Poisson model or read from a recorded stream."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.compiled import compiled
from llm_sched_env.simulation.layout import EngineState, RequestStream
from llm_sched_env.simulation.random_streams import (
    ARRIVAL,
    CLASS,
    OUTPUT,
    PROMPT,
    exponential,
    uniform,
)


@compiled
def schedule_next_arrival(state: EngineState, stream: RequestStream) -> None:
    """Set the time of request ``next_index``; inf when there is none."""
    clock = state.clock[0]
    k = clock.next_index
    if len(stream.arrival_time) > 0:
        clock.next_arrival_time = stream.arrival_time[k] if k < len(stream.arrival_time) else np.inf
    elif state.settings[0].arrival_rate > 0.0:
        gap = exponential(state.keys[ARRIVAL], k) / state.settings[0].arrival_rate
        clock.next_arrival_time = clock.time + gap
    else:
        clock.next_arrival_time = np.inf


@compiled
def fill_request(state: EngineState, stream: RequestStream, request: int) -> None:
    """Write class, lengths and arrival time of request ``next_index`` into a record."""
    record = state.requests[request]
    k = state.clock[0].next_index
    record.index = k
    record.arrival_time = state.clock[0].time
    if len(stream.arrival_time) > 0:
        record.request_class = stream.request_class[k]
        record.prompt_tokens = stream.prompt_tokens[k]
        record.output_tokens = stream.output_tokens[k]
        return
    share = uniform(state.keys[CLASS], k)
    i = 0
    while i < len(state.parameters) - 1 and share >= state.parameters[i].cumulative_share:
        i += 1
    record.request_class = i
    record.prompt_tokens = exponential(state.keys[PROMPT], k) * state.parameters[i].prompt_tokens
    record.output_tokens = exponential(state.keys[OUTPUT], k) * state.parameters[i].output_tokens
