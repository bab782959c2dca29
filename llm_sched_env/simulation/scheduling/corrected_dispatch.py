"""Dispatch of trained rules: trunk reservation with priorities corrected by a network.

Of a class with somebody waiting, with corrections c in the order of ``CORRECTIONS``:

- it is admitted while free slots >= reserve * exp(c0) - c1 * slot scale, and a prefilled request of
  it decodes while free slots >= decode reserve - c2 * slot scale;
- the prices of slots are exp(c3) times the plan's: its priority is its bid at these prices + c4 *
  rank scale, that of its decodes their bid + c5 * rank scale; if c8 > 1/2 its priority is what a
  second of its prefill earns instead, for moments in which not slots but prefills are scarce;
- it goes before a waiting decode if its flag (1 or 0) + c6 > 1/2;
- its decodes take a mixed GPU first if the flag of trunk reservation (1 or 0) + c7 > 1/2.

All corrections 0 is trunk reservation.
"""

from __future__ import annotations

import math

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.availability import random_available
from llm_sched_env.simulation.scheduling.class_lines import waits_longer
from llm_sched_env.simulation.scheduling.gates import free_slots, longer_waiting
from llm_sched_env.simulation.scheduling.state_features import (
    forget_arrivals,
    read_class_features,
    read_cluster_features,
    squashed,
)
from llm_sched_env.simulation.state.layout import MIXED_DECODE, SOLO_DECODE, EngineState

(
    RESERVE_FACTOR,
    RESERVE,
    DECODE_RESERVE,
    PRICE_FACTOR,
    PRIORITY,
    DECODE_PRIORITY,
    PRECEDES_DECODES,
    MIXED_FIRST,
    BY_PREFILL_TIME,
) = range(9)


@compiled_apart
def _correct(state: EngineState, i: int) -> None:
    """The network's outputs for class i, from its features; inner loops run along memory."""
    corrections, features, hidden = state.corrections[i], state.features, state.hidden
    output_weights = state.output_weights[i]
    for unit in range(len(hidden)):
        hidden[unit] = state.class_bias[i, unit]
    for f in range(len(features)):
        feature = features[f]
        for unit in range(len(hidden)):
            hidden[unit] += state.state_weights[f, unit] * feature
    for unit in range(len(hidden)):
        hidden[unit] = squashed(hidden[unit])
    for output in range(len(corrections)):
        corrections[output] = output_weights[len(hidden), output]
    for unit in range(len(hidden)):
        activation = hidden[unit]
        for output in range(len(corrections)):
            corrections[output] += output_weights[unit, output] * activation


@compiled_apart
def correct_ranks(state: EngineState, time: float) -> int:
    """Corrections of all classes with somebody waiting; returns the number of free slots."""
    forget_arrivals(state, time)
    free = free_slots(state)
    releases = read_cluster_features(state, free)
    for i in range(len(state.parameters)):
        own = state.classes[i]
        if own.q_prefill > 0 or own.q_decode > 0:
            read_class_features(state, i, free, releases)
            _correct(state, i)
    return free


@compiled
def _priority(state: EngineState, i: int) -> float:
    """Of class i to be admitted."""
    parameters, corrections = state.parameters[i], state.corrections[i]
    if corrections[BY_PREFILL_TIME] > 0.5:
        return float(parameters.prefill_time_priority)
    dearer = parameters.prefill_cost * math.expm1(corrections[PRICE_FACTOR])
    added = state.settings[0].rank_scale * corrections[PRIORITY]
    return float(state.control[i].priority - dearer + added)


@compiled_apart
def choose_corrected_class(state: EngineState, free: int) -> int:
    """The class to admit: the highest corrected priority of those whose reserve is free, or -1."""
    scale = state.settings[0].slot_scale
    best, best_rank = -1, -np.inf
    for i in range(len(state.parameters)):
        if state.classes[i].q_prefill == 0:
            continue
        control, corrections = state.control[i], state.corrections[i]
        reserve = control.reserve * math.exp(corrections[RESERVE_FACTOR])
        if free < reserve - scale * corrections[RESERVE]:
            continue
        rank = _priority(state, i)
        if best < 0 or rank > best_rank or (rank == best_rank and longer_waiting(state, i, best)):
            best, best_rank = i, rank
    return best


@compiled_apart
def choose_corrected_line(state: EngineState, free: int) -> int:
    """The line of decodes to serve: the highest corrected priority whose reserve is free, or -1."""
    scale, n_classes = state.settings[0].slot_scale, len(state.parameters)
    best, best_rank = -1, -np.inf
    for i in range(n_classes):
        if state.queues[n_classes + i].head < 0:
            continue
        parameters, control = state.parameters[i], state.control[i]
        corrections = state.corrections[i]
        if free < control.decode_reserve - scale * corrections[DECODE_RESERVE]:
            continue
        dearer = parameters.decode_cost * math.expm1(corrections[PRICE_FACTOR])
        rank = control.decode_priority - dearer
        rank += state.settings[0].rank_scale * corrections[DECODE_PRIORITY]
        longer = rank == best_rank and waits_longer(state, n_classes + i, n_classes + best)
        if best < 0 or rank > best_rank or longer:
            best, best_rank = i, rank
    return best


@compiled
def goes_before_decodes(state: EngineState, i: int) -> bool:
    """Whether class i is admitted before a waiting decode is placed."""
    return state.control[i].precedes_decodes + state.corrections[i, PRECEDES_DECODES] > 0.5


@compiled
def corrected_gpu_for_decode(
    state: EngineState, line: int, tokens: float, somebody_admissible: bool
) -> int:
    """A GPU for the head of a line, or -1."""
    group = state.groups[0]
    mixed_first = somebody_admissible or group.typical_mixed_seconds <= group.typical_solo_seconds
    flag = (1.0 if mixed_first else 0.0) + state.corrections[line, MIXED_FIRST]
    first, second = (MIXED_DECODE, SOLO_DECODE) if flag > 0.5 else (SOLO_DECODE, MIXED_DECODE)
    gpu = random_available(state, first, tokens)
    return gpu if gpu >= 0 else random_available(state, second, tokens)
