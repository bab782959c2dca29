"""Admission gates: choose the class that a GPU prefills next."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.scheduling.rules import (
    CREDIT_GATE,
    EARLIEST_DEADLINE_GATE,
    FCFS_GATE,
    LARGEST_CREDIT_GATE,
    PRIORITY_GATE,
    STRICT_OCCUPANCY_GATE,
)
from llm_sched_env.simulation.state.layout import EngineState

# Targets are often in simple ratios, such as arrival rates: rounding must not break their ties.
_ROUNDING = 1e-9
# Credit that reached 1 up to rounding is credit; the timer in event_loop.py grants it exactly.
_CREDIT_NEEDED = 1.0 - 1e-9


@compiled
def accrue_credit(state: EngineState, i: int, time: float) -> float:
    """Class i's admission credit at ``time``, stored and returned."""
    control = state.control[i]
    cap = state.settings[0].credit_cap
    if control.unlimited:
        control.credit = cap
    else:
        earned = control.credit_rate * (time - control.credit_time)
        control.credit = min(cap, control.credit + earned)
    control.credit_time = time
    return control.credit


@compiled
def spend_credit(state: EngineState, i: int, time: float) -> None:
    """Charge one admission of class i, if the gate runs on credit."""
    gate = state.settings[0].gate
    if gate not in (CREDIT_GATE, LARGEST_CREDIT_GATE):
        return
    accrue_credit(state, i, time)
    state.control[i].credit = max(0.0, state.control[i].credit - 1.0)


@compiled
def longer_waiting(state: EngineState, i: int, j: int) -> bool:
    """True if the head of class i arrived before the head of class j."""
    a = state.requests[state.waiting[state.queues[i].head].request]
    b = state.requests[state.waiting[state.queues[j].head].request]
    return a.arrival_time < b.arrival_time or (
        a.arrival_time == b.arrival_time and a.index < b.index
    )


@compiled
def _class_by_occupancy(state: EngineState, strict: bool) -> int:
    best = -1
    best_ratio = np.inf
    best_excess = -np.inf
    for i in range(len(state.classes)):
        own = state.classes[i]
        if own.q_prefill == 0:
            continue
        target = state.control[i].prefill_target
        if strict and own.x >= target * (1.0 - _ROUNDING):
            continue
        # The paper's (X - n x*)/x* orders the classes as X/x* does.
        ratio = own.x / target if target > 0.0 else np.inf
        excess = own.q_prefill - state.control[i].queue_target
        smaller = ratio < best_ratio * (1.0 - _ROUNDING)
        tied = ratio <= best_ratio * (1.0 + _ROUNDING)
        if best < 0 or smaller or (tied and excess > best_excess):
            best, best_ratio, best_excess = i, ratio, excess
    return best


@compiled
def _class_by_credit(state: EngineState, time: float, largest_first: bool) -> int:
    clock = state.clock[0]
    best = -1
    best_credit = 0.0
    for i in range(len(state.classes)):
        if state.classes[i].q_prefill == 0:
            continue
        credit = accrue_credit(state, i, time)
        if credit < _CREDIT_NEEDED:
            rate = state.control[i].credit_rate
            ready = time + (1.0 - credit) / rate if rate > 0.0 else np.inf
            if ready < clock.credit_time:
                clock.credit_time = ready
                clock.credit_class = i
            continue
        if best < 0:
            better = True
        elif largest_first and credit != best_credit:
            better = credit > best_credit
        else:
            better = longer_waiting(state, i, best)
        if better:
            best, best_credit = i, credit
    return best


@compiled
def _class_by_age(state: EngineState) -> int:
    best = -1
    for i in range(len(state.classes)):
        if state.classes[i].q_prefill > 0 and (best < 0 or longer_waiting(state, i, best)):
            best = i
    return best


@compiled
def _class_by_deadline(state: EngineState) -> int:
    """The head whose first token is due first; ties, and classes without a deadline, by age."""
    best = -1
    best_due = np.inf
    for i in range(len(state.classes)):
        if state.classes[i].q_prefill == 0:
            continue
        head = state.requests[state.waiting[state.queues[i].head].request]
        due = head.arrival_time + state.parameters[i].ttft_deadline
        if best < 0 or due < best_due or (due == best_due and longer_waiting(state, i, best)):
            best, best_due = i, due
    return best


@compiled
def free_slots(state: EngineState) -> int:
    """Slots of the cluster without a request in service."""
    free = len(state.gpus) * state.settings[0].batch_slots
    for i in range(len(state.classes)):
        own = state.classes[i]
        free -= own.x + own.y_mixed + own.y_solo
    return free


@compiled
def _class_by_priority(state: EngineState) -> int:
    """The highest rank among the waiting whose reserve is free; ties: the longest waiting head."""
    free = free_slots(state)
    best = -1
    for i in range(len(state.classes)):
        if state.classes[i].q_prefill == 0 or free < state.control[i].reserve:
            continue
        if best < 0:
            best = i
            continue
        rank, best_rank = state.control[i].priority, state.control[best].priority
        if rank > best_rank or (rank == best_rank and longer_waiting(state, i, best)):
            best = i
    return best


@compiled
def choose_class(state: EngineState, time: float) -> int:
    """The class to admit now, or -1; a credit gate leaves the time of its next credit."""
    gate = state.settings[0].gate
    if gate == FCFS_GATE:
        return _class_by_age(state)
    if gate == EARLIEST_DEADLINE_GATE:
        return _class_by_deadline(state)
    if gate == PRIORITY_GATE:
        return _class_by_priority(state)
    if gate in (CREDIT_GATE, LARGEST_CREDIT_GATE):
        state.clock[0].credit_time = np.inf
        return _class_by_credit(state, time, gate == LARGEST_CREDIT_GATE)
    return _class_by_occupancy(state, gate == STRICT_OCCUPANCY_GATE)
