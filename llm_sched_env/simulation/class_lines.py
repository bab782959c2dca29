"""Weighted routing: of which class does a pool's free slot take a decode (MODEL 6, section 13)?"""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.instance import Instance
from llm_sched_env.simulation.availability import least_reserved
from llm_sched_env.simulation.compiled import compiled, compiled_apart
from llm_sched_env.simulation.layout import MIXED_DECODE, MIXED_LINE, SOLO_DECODE, EngineState
from llm_sched_env.simulation.random_streams import ROUTING, uniform
from llm_sched_env.simulation.rules import DispatchRule


def checked_weights(
    rule: DispatchRule, instance: Instance, weights: np.ndarray | None
) -> np.ndarray:
    """Weights of the classes in the solo and in the mixed pool, shape (2, I)."""
    if rule.router != "weighted-randomized":
        return np.zeros((2, instance.n_classes))
    wanted = (2, instance.n_classes)
    checked = np.asarray(np.nan if weights is None else weights, float)
    if checked.shape != wanted or not (np.isfinite(checked) & (checked >= 0)).all():
        raise ConfigurationError(
            "weights",
            weights,
            f"finite numbers >= 0 of shape {wanted} for the router weighted-randomized",
            "the plan has them",
        )
    return checked


@compiled
def first_line(state: EngineState, pool: int) -> int:
    """The line of class 0 in a pool; those of the other classes follow."""
    return pool * len(state.classes)


@compiled
def _can_start(state: EngineState, pool: int, i: int, reserved: float) -> bool:
    """Whether class i has a head in a pool's lines with room where ``reserved`` tokens are."""
    entry = state.queues[len(state.classes) + first_line(state, pool) + i].head
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
def _waits_longer(state: EngineState, queue: int, other: int) -> bool:
    """True if the head of a decode line was prefilled before that of another."""
    a = state.requests[state.waiting[state.queues[queue].head].request]
    b = state.requests[state.waiting[state.queues[other].head].request]
    return a.first_token_time < b.first_token_time or (
        a.first_token_time == b.first_token_time and a.index < b.index
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
    first = first_line(state, pool)
    queues = len(state.classes) + first
    total, contenders, chosen, longest = 0.0, 0, -1, -1
    for i in range(len(state.classes)):
        if not _can_start(state, pool, i, reserved):
            continue
        if longest < 0 or _waits_longer(state, queues + i, queues + longest):
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
