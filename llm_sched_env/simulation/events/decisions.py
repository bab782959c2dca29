"""Decisions of an agent: possible actions, their effects, and the next decision time.

With P pairs of a class and a group of GPUs (layout.py), of one group the classes: action 0 waits;
1 + p takes the head of the class's prefill queue to a GPU of the group that can prefill, 1 + P + p
the head of its decode line to a solo GPU there, 1 + 2P + p to a mixed one. Under randomized routing
solo and mixed GPUs have lines of their own.

With a limit of KV tokens there may be no room for the request on any GPU of the set: then nothing
happens, and the action is impossible until something does.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.events.event_loop import (
    FINISHED,
    NEEDS_CAPACITY,
    handle_event,
    next_event_time,
)
from llm_sched_env.simulation.events.waiting import leave_queue, start_patience
from llm_sched_env.simulation.gpu.virtual_clock import reschedule_gpus
from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.scheduling.availability import gpu_for_decode, random_in_group
from llm_sched_env.simulation.scheduling.dispatch import prefill_tokens, start_decode, start_prefill
from llm_sched_env.simulation.scheduling.rules import AGENT_ROUTER, COUPLED_ROUTER
from llm_sched_env.simulation.state.layout import (
    MIXED_DECODE,
    PREFILL,
    SOLO_DECODE,
    EngineState,
    Workload,
)

# What run_to_decision returns beside FINISHED and NEEDS_CAPACITY.
DECISION = 2

WAIT = 0
RUN_ON, STAND_STILL = -1, -2
"""Not actions: the time of an earlier one runs on; nothing is done with this cluster."""


@compiled
def queue_of_action(state: EngineState, action: int) -> int:
    """The queue whose head an action other than WAIT takes."""
    n_classes, n_pairs = len(state.parameters), len(state.classes)
    part = (action - 1) // n_pairs
    i = (action - 1) % n_pairs // len(state.groups)
    if state.settings[0].router == AGENT_ROUTER:
        part = min(1, part)
    return part * n_classes + i


@compiled
def _set_of_action(state: EngineState, action: int) -> int:
    """The set of GPUs that an action other than WAIT takes one of."""
    part = (action - 1) // len(state.classes)
    if part == 0:
        return PREFILL
    return SOLO_DECODE if part == 1 else MIXED_DECODE


@compiled
def is_possible(state: EngineState, action: int) -> bool:
    """Whether an action can be taken now; a wait always can."""
    if action == WAIT:
        return True
    which = _set_of_action(state, action)
    pair = (action - 1) % len(state.classes)
    return (
        state.queues[queue_of_action(state, action)].head >= 0
        and state.group_available_sizes[pair % len(state.groups), which] > 0
        and (state.control[pair].without_room >> which) & 1 == 0
    )


@compiled
def can_act(state: EngineState) -> bool:
    """Whether anything but a wait is possible."""
    clock = state.clock[0]
    if clock.waiting_prefills + clock.waiting_decodes == 0:
        return False
    for action in range(1, 1 + 3 * len(state.classes)):  # noqa: SIM110 - compiled
        if is_possible(state, action):
            return True
    return False


@compiled
def _forget_lack_of_room(state: EngineState) -> None:
    if len(state.kv_reserved) > 0:
        for pair in range(len(state.classes)):
            state.control[pair].without_room = 0


@compiled
def _take_action(state: EngineState, log: np.ndarray, action: int, time: float) -> None:
    """Start the prefill or decode of a possible action on a random GPU of its set and group."""
    which = _set_of_action(state, action)
    pair = (action - 1) % len(state.classes)
    entry = state.queues[queue_of_action(state, action)].head
    head = state.waiting[entry].request
    if which == PREFILL:
        tokens = prefill_tokens(state, head, -1)
        gpu = random_in_group(state, which, pair % len(state.groups), tokens)
    else:
        record = state.requests[head]
        tokens = record.prompt_tokens + record.output_tokens
        gpu = gpu_for_decode(state, which, pair % len(state.groups), head, tokens)
    if gpu < 0:
        state.control[pair].without_room |= 1 << which
        return
    _forget_lack_of_room(state)
    request = leave_queue(state, entry, time)
    if which == PREFILL:
        start_prefill(state, log, gpu, request, time)
    else:
        start_decode(state, log, gpu, request, time)
    reschedule_gpus(state)


@compiled
def _settle(state: EngineState, log: np.ndarray, gpu: int, entry: int, time: float) -> None:
    """What follows an event of itself: coupled decodes start, patience too.

    Args:
        state: one cluster.
        log: of events.
        gpu: of the completion, or negative.
        entry: who has joined a queue; -1: nobody.
        time: of the event.
    """
    _forget_lack_of_room(state)
    if entry >= 0:
        if state.waiting[entry].queue < state.settings[0].prefill_queues:
            start_patience(state, entry, time)
        elif state.settings[0].router == COUPLED_ROUTER:
            start_decode(state, log, gpu, leave_queue(state, entry, time), time)
        else:
            start_patience(state, entry, time)
    reschedule_gpus(state)


@compiled
def run_to_decision(
    state: EngineState,
    workload: Workload,
    log: np.ndarray,
    action: int,
    wake_interval: float,
    until: float,
) -> int:
    """Take an action, then process events up to the next decision, or up to ``until``.

    A decision is due when something but a wait is possible: at once after an action, else after
    an event, or ``wake_interval`` after the last one.

    Args:
        state: one cluster.
        workload: what arrives.
        log: where events are written; length 0 for no log.
        action: possible now, or RUN_ON.
        wake_interval: seconds; ``inf``: events only.
        until: seconds; events at that time are processed.

    Returns:
        DECISION, FINISHED at ``until``, or NEEDS_CAPACITY before an arrival for which no record
        may be free: RUN_ON continues.
    """
    clock = state.clock[0]
    waiting = action <= WAIT
    if not waiting:
        _take_action(state, log, action, clock.time)
    while True:
        acts = can_act(state)
        if acts and not waiting:
            return DECISION
        waiting = False
        # Whoever can act has decided at the last event or wake-up: at clock.time.
        wake_time = clock.time + wake_interval if acts else np.inf
        time = next_event_time(state)
        if min(time, wake_time) > until or min(time, wake_time) == np.inf:
            break
        if wake_time < time:
            clock.time = wake_time
            continue
        if clock.free_size == 0 and time == clock.next_arrival_time:
            return NEEDS_CAPACITY
        clock.time = max(clock.time, time)
        gpu, entry = handle_event(state, workload, log, time)
        _settle(state, log, gpu, entry, clock.time)
    if until < np.inf:
        clock.time = max(clock.time, until)
    return FINISHED
