"""Per-class decode queues: choose the class for a free slot, by weight or by priority."""

from __future__ import annotations

from llm_sched_env.simulation.events.random_streams import ROUTING, uniform
from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.availability import least_reserved
from llm_sched_env.simulation.scheduling.gates import free_slots
from llm_sched_env.simulation.state.layout import MIXED_DECODE, MIXED_LINE, SOLO_DECODE, EngineState


@compiled
def class_line(state: EngineState, pool: int, i: int) -> int:
    """The line of class i in a pool (SOLO_LINE where lines are not by pool)."""
    return pool * len(state.parameters) + i


@compiled
def _can_start(state: EngineState, pool: int, i: int, reserved: float) -> bool:
    """Whether class i has a head in a pool's lines with room where ``reserved`` tokens are."""
    entry = state.queues[len(state.parameters) + class_line(state, pool, i)].head
    if entry < 0:
        return False
    record = state.requests[state.waiting[entry].request]
    tokens = record.prompt_tokens + record.output_tokens
    return reserved <= state.settings[0].kv_tokens - tokens


@compiled
def _weight(state: EngineState, pool: int, i: int) -> float:
    parameters = state.parameters[i]
    return parameters.mixed_weight if pool == MIXED_LINE else parameters.solo_weight


@compiled
def waits_longer(state: EngineState, queue: int, other: int) -> bool:
    """True if the head of a decode line joined it before that of another joined its own."""
    a = state.requests[state.waiting[state.queues[queue].head].request]
    b = state.requests[state.waiting[state.queues[other].head].request]
    return a.prefilled_event < b.prefilled_event or (
        a.prefilled_event == b.prefilled_event and a.index < b.index
    )


@compiled
def _by_lot(state: EngineState, pool: int, reserved: float, total: float, last: int) -> int:
    """A class drawn by weight from those that can start, of which ``last`` is the last."""
    clock = state.clock[0]
    draw = total * uniform(state.keys[ROUTING], clock.routing_draws)
    clock.routing_draws += 1
    cumulative = 0.0
    for i in range(last):
        weight = _weight(state, pool, i)
        if weight > 0.0 and _can_start(state, pool, i, reserved):
            cumulative += weight
            if draw < cumulative:
                return i
    return last


@compiled
def can_decode(state: EngineState, g: int) -> bool:
    """Whether a group has a free decode slot."""
    sizes = state.group_available_sizes[g]
    return sizes[SOLO_DECODE] > 0 or sizes[MIXED_DECODE] > 0


@compiled
def choose_line_by_bid(state: EngineState) -> tuple[int, int]:
    """The line of the highest priority whose reserve of free slots is there, or -1, and the group.

    Of groups of equal priority the one that is furthest below the plan.
    """
    free = free_slots(state)
    n_classes, n_groups = len(state.parameters), len(state.groups)
    best, best_group, greatest = -1, 0, 0.0
    for i in range(n_classes):
        if state.queues[n_classes + i].head < 0:
            continue
        for g in range(n_groups):
            own = state.control[i * n_groups + g]
            if free < own.decode_reserve or (n_groups > 1 and not can_decode(state, g)):
                continue
            priority = own.decode_priority
            if best < 0 or priority > greatest:
                better = True
            elif priority < greatest:
                better = False
            elif i == best:
                better = decodes_less(state, i, g, best_group)
            else:
                better = waits_longer(state, n_classes + i, n_classes + best)
            if better:
                best, best_group, greatest = i, g, priority
    return best, best_group


@compiled
def decodes_less(state: EngineState, i: int, g: int, other: int) -> bool:
    """Whether class i has fewer of its planned decodes in group g than in another."""
    first = i * len(state.groups)
    own, others = state.classes[first + g], state.classes[first + other]
    return (own.y_mixed + own.y_solo) * state.control[first + other].routing < (
        others.y_mixed + others.y_solo
    ) * state.control[first + g].routing


@compiled_apart
def choose_line_by_weight(state: EngineState, pool: int) -> int:
    """The line of a pool that gives the next decode, or -1 if no head can start.

    By lot with the pool's weights over the classes whose head can start; a single one of
    positive weight costs no draw. If none has a positive weight, the longest waiting head.
    """
    which = MIXED_DECODE if pool == MIXED_LINE else SOLO_DECODE
    if state.available_sizes[which] == 0:
        return -1
    reserved = least_reserved(state, which)
    first = class_line(state, pool, 0)
    queues = len(state.parameters) + first
    total, contenders, chosen, longest = 0.0, 0, -1, -1
    for i in range(len(state.parameters)):
        if not _can_start(state, pool, i, reserved):
            continue
        if longest < 0 or waits_longer(state, queues + i, queues + longest):
            longest = i
        weight = _weight(state, pool, i)
        if weight > 0.0:
            total += weight
            contenders += 1
            chosen = i
    if contenders == 0:
        return first + longest if longest >= 0 else -1
    if contenders > 1:
        chosen = _by_lot(state, pool, reserved, total, chosen)
    return first + chosen
