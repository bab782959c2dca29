"""What a router knows of GPUs: as it was at the last refresh, and what it has sent since.

Refreshes are at the multiples of ``refresh_seconds``, before what else happens then; with 0 signals
are always true. No event is needed: before a GPU changes, or is looked at, what it was at the last
refresh is kept, if that has not been done.
"""

from __future__ import annotations

import math

from llm_sched_env.simulation.gpu.quadratic_clock import seconds_to
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.state.layout import EngineState


@compiled
def shows_signals(state: EngineState) -> bool:
    """Whether a router looks at GPUs."""
    return len(state.signals) > 0


@compiled
def running_requests(state: EngineState, gpu: int) -> int:
    """Requests in service on a GPU."""
    record = state.gpus[gpu]
    return record.decodes + record.incoming + (1 if record.prefill_request >= 0 else 0)


@compiled
def expected_seconds(state: EngineState, gpu: int, tokens: float) -> float:
    """Of the prefill of so many tokens beside a full batch."""
    group = state.groups[state.gpus[gpu].group]
    return tokens / group.chunk_tokens * group.typical_mixed_seconds


@compiled_apart
def backlog_seconds(state: EngineState, gpu: int, time: float) -> float:
    """Of the prefills that wait at a GPU, as expected, and of what is left of the running one."""
    record, seconds = state.gpus[gpu], state.backlogs[gpu].seconds
    request = record.prefill_request
    if request < 0:
        return seconds
    seconds -= expected_seconds(state, gpu, state.reuse[request].expected_tokens)
    if state.settings[0].quadratic_clock:
        end = record.updated_time + seconds_to(state, gpu, record.prefill_mark)
    else:
        left = record.prefill_mark - record.iterations
        end = record.updated_time + left * record.iteration_seconds
    return max(0.0, seconds) + max(0.0, end - time)


@compiled_apart
def keep_signals(state: EngineState, gpu: int, time: float) -> None:
    """Before a change of a GPU, or a look at it, at ``time``."""
    refresh = state.settings[0].refresh_seconds
    if refresh == 0.0:
        return
    tick = math.floor(time / refresh)
    signal = state.signals[gpu]
    if tick <= signal.tick:
        return
    signal.tick = tick
    signal.shown_waiting = state.backlogs[gpu].waiting
    signal.shown_running = running_requests(state, gpu)
    signal.shown_tokens = signal.tokens
    signal.sent = 0.0
    signal.queue_time = tick * refresh
    signal.queue_seconds = backlog_seconds(state, gpu, signal.queue_time)


@compiled
def change_service(state: EngineState, gpu: int, tokens: float, time: float) -> None:
    """The prompts in service on a GPU change by so many tokens."""
    keep_signals(state, gpu, time)
    state.signals[gpu].tokens += tokens


@compiled
def known_waiting(state: EngineState, gpu: int) -> float:
    """Requests that wait for their prefill."""
    if state.settings[0].refresh_seconds == 0.0:
        return state.backlogs[gpu].waiting
    return state.signals[gpu].shown_waiting + state.signals[gpu].sent


@compiled
def known_running(state: EngineState, gpu: int) -> float:
    """Requests in service."""
    if state.settings[0].refresh_seconds == 0.0:
        return running_requests(state, gpu)
    return state.signals[gpu].shown_running


@compiled
def known_tokens(state: EngineState, gpu: int) -> float:
    """Prompt tokens of the requests in service."""
    signal = state.signals[gpu]
    return signal.tokens if state.settings[0].refresh_seconds == 0.0 else signal.shown_tokens


@compiled
def known_queue_seconds(state: EngineState, gpu: int, time: float) -> float:
    """Seconds of prefills that a GPU has to do; since the last refresh it has worked on them."""
    if state.settings[0].refresh_seconds == 0.0:
        return backlog_seconds(state, gpu, time)
    signal = state.signals[gpu]
    return max(0.0, signal.queue_seconds - (time - signal.queue_time))


@compiled
def note_sent(state: EngineState, gpu: int, seconds: float, time: float) -> None:
    """The router has sent a request whose prefill it expects to take so long."""
    signal = state.signals[gpu]
    signal.sent += 1.0
    signal.queue_seconds = max(0.0, signal.queue_seconds - (time - signal.queue_time)) + seconds
    signal.queue_time = time
