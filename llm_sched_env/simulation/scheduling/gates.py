"""Admission gates: choose the class that a GPU prefills next, and the group of that GPU.

A gate compares pairs of a class and a group (layout.py); with one group these are the classes.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.rules import (
    CREDIT_GATE,
    EARLIEST_DEADLINE_GATE,
    FCFS_GATE,
    LARGEST_CREDIT_GATE,
    PRIORITY_GATE,
    STRICT_OCCUPANCY_GATE,
)
from llm_sched_env.simulation.state.layout import PREFILL, EngineState

# Targets are often in simple ratios, such as arrival rates: rounding must not break their ties.
_ROUNDING = 1e-9
# Credit that reached 1 up to rounding is credit; the timer in event_loop.py grants it exactly.
_CREDIT_NEEDED = 1.0 - 1e-9


@compiled
def accrue_credit(state: EngineState, pair: int, time: float) -> float:
    """A pair's admission credit at ``time``, stored and returned."""
    control = state.control[pair]
    cap = state.settings[0].credit_cap
    if control.unlimited:
        control.credit = cap
    else:
        earned = control.credit_rate * (time - control.credit_time)
        control.credit = min(cap, control.credit + earned)
    control.credit_time = time
    return control.credit


@compiled
def spend_credit(state: EngineState, pair: int, time: float) -> None:
    """Charge one admission of a pair, if the gate runs on credit."""
    gate = state.settings[0].gate
    if gate not in (CREDIT_GATE, LARGEST_CREDIT_GATE):
        return
    accrue_credit(state, pair, time)
    state.control[pair].credit = max(0.0, state.control[pair].credit - 1.0)


@compiled
def longer_waiting(state: EngineState, i: int, j: int) -> bool:
    """True if the head of class i arrived before the head of class j."""
    a = state.requests[state.waiting[state.queues[i].head].request]
    b = state.requests[state.waiting[state.queues[j].head].request]
    return a.arrival_time < b.arrival_time or (
        a.arrival_time == b.arrival_time and a.index < b.index
    )


@compiled
def can_prefill(state: EngineState, g: int, anywhere: bool) -> bool:
    """Whether a group may take an admission: now or, ``anywhere``, as far as its role goes."""
    if anywhere:
        return state.groups[g].prefills != 0
    return state.group_available_sizes[g, PREFILL] > 0


@compiled
def _class_by_occupancy(state: EngineState, strict: bool, anywhere: bool) -> tuple[int, int]:
    best, best_group = -1, 0
    best_ratio = np.inf
    best_excess = -np.inf
    n_groups = len(state.groups)
    for i in range(len(state.parameters)):
        first = i * n_groups
        if state.classes[first].q_prefill == 0:
            continue
        excess = state.classes[first].q_prefill - state.control[first].queue_target
        for g in range(n_groups):
            if n_groups > 1 and not can_prefill(state, g, anywhere):
                continue
            x, target = state.classes[first + g].x, state.control[first + g].prefill_target
            if strict and x >= target * (1.0 - _ROUNDING):
                continue
            # The paper's (X - n x*)/x* orders the classes as X/x* does.
            ratio = x / target if target > 0.0 else np.inf
            smaller = ratio < best_ratio * (1.0 - _ROUNDING)
            tied = ratio <= best_ratio * (1.0 + _ROUNDING)
            if best < 0 or smaller or (tied and excess > best_excess):
                best, best_group, best_ratio, best_excess = i, g, ratio, excess
    return best, best_group


@compiled
def _await_credit(state: EngineState, pair: int, credit: float, time: float) -> None:
    """Set the credit timer to when a pair can admit, if that is before the others."""
    clock = state.clock[0]
    rate = state.control[pair].credit_rate
    ready = time + (1.0 - credit) / rate if rate > 0.0 else np.inf
    if ready < clock.credit_time:
        clock.credit_time = ready
        clock.credit_pair = pair


@compiled
def _class_by_credit(
    state: EngineState, time: float, largest_first: bool, anywhere: bool
) -> tuple[int, int]:
    best, best_group = -1, 0
    best_credit = 0.0
    n_groups = len(state.groups)
    for i in range(len(state.parameters)):
        if state.classes[i * n_groups].q_prefill == 0:
            continue
        for g in range(n_groups):
            if n_groups > 1 and not can_prefill(state, g, anywhere):
                continue
            credit = accrue_credit(state, i * n_groups + g, time)
            if credit < _CREDIT_NEEDED:
                _await_credit(state, i * n_groups + g, credit, time)
                continue
            if best < 0:
                better = True
            elif i == best or (largest_first and credit != best_credit):
                better = credit > best_credit
            else:
                better = longer_waiting(state, i, best)
            if better:
                best, best_group, best_credit = i, g, credit
    return best, best_group


@compiled
def _class_by_age(state: EngineState) -> int:
    best = -1
    n_groups = len(state.groups)
    for i in range(len(state.parameters)):
        if state.classes[i * n_groups].q_prefill > 0 and (
            best < 0 or longer_waiting(state, i, best)
        ):
            best = i
    return best


@compiled_apart
def _class_by_deadline(state: EngineState) -> int:
    """The head whose first token is due first; ties, and classes without a deadline, by age."""
    best = -1
    best_due = np.inf
    n_groups = len(state.groups)
    for i in range(len(state.parameters)):
        if state.classes[i * n_groups].q_prefill == 0:
            continue
        head = state.requests[state.waiting[state.queues[i].head].request]
        due = head.arrival_time + state.parameters[i].ttft_deadline
        if best < 0 or due < best_due or (due == best_due and longer_waiting(state, i, best)):
            best, best_due = i, due
    return best


@compiled
def free_slots(state: EngineState) -> int:
    """Slots of the cluster without a request in service.

    Where GPUs only prefill, theirs take no decode: whoever is there or waits for a decode needs
    one of the others.
    """
    free, only_prefill = 0, False
    for g in range(len(state.groups)):
        if state.groups[g].decodes != 0:
            free += state.groups[g].n_gpus * state.groups[g].batch_slots
        else:
            only_prefill = True
    for pair in range(len(state.classes)):
        own = state.classes[pair]
        free -= own.x + own.y_mixed + own.y_solo + own.moving
    if only_prefill:
        free -= state.clock[0].waiting_decodes
    return max(0, free)


@compiled_apart
def _class_by_priority(state: EngineState, anywhere: bool) -> tuple[int, int]:
    """The highest rank among the waiting whose reserve is free; ties: the longest waiting head.

    Of groups of equal rank the one that is furthest below the plan.
    """
    free = free_slots(state)
    best, best_group, best_rank = -1, 0, -np.inf
    n_groups = len(state.groups)
    for i in range(len(state.parameters)):
        if state.classes[i * n_groups].q_prefill == 0:
            continue
        for g in range(n_groups):
            control = state.control[i * n_groups + g]
            if free < control.reserve or (n_groups > 1 and not can_prefill(state, g, anywhere)):
                continue
            rank = control.priority
            if best < 0 or rank > best_rank:
                better = True
            elif rank < best_rank:
                better = False
            elif i == best:
                better = _fills_less(state, i * n_groups + g, best * n_groups + best_group)
            else:
                better = longer_waiting(state, i, best)
            if better:
                best, best_group, best_rank = i, g, rank
    return best, best_group


@compiled
def _fills_less(state: EngineState, pair: int, other: int) -> bool:
    """Whether a pair has less of its planned prefills than another."""
    target, other_target = state.control[pair].prefill_target, state.control[other].prefill_target
    return state.classes[pair].x * other_target < state.classes[other].x * target


@compiled
def choose_class(state: EngineState, time: float, anywhere: bool) -> tuple[int, int]:
    """The class to admit now, -1 for none, and the group of its GPU.

    A credit gate leaves the time of its next credit.

    Args:
        state: one cluster.
        time: now.
        anywhere: whether groups without a GPU that can prefill now count, too; with one group
            they always do.

    Returns:
        The class and the group; group -1: any GPU of the cluster that can prefill.
    """
    gate = state.settings[0].gate
    any_group = 0 if len(state.groups) == 1 else -1
    if gate == FCFS_GATE:
        return _class_by_age(state), any_group
    if gate == EARLIEST_DEADLINE_GATE:
        return _class_by_deadline(state), any_group
    if gate == PRIORITY_GATE:
        return _class_by_priority(state, anywhere)
    if gate in (CREDIT_GATE, LARGEST_CREDIT_GATE):
        state.clock[0].credit_time = np.inf
        return _class_by_credit(state, time, gate == LARGEST_CREDIT_GATE, anywhere)
    return _class_by_occupancy(state, gate == STRICT_OCCUPANCY_GATE, anywhere)
