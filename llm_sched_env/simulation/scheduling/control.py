"""The controls of a policy: admission rates, routing probabilities, mixed pool, priorities.

Controls are one float array of length 2P + G, with P pairs of a class and one of G groups of GPUs
(layout.py): per pair the admission rate as a fraction of the class's arrival rate; per pair the
routing, which with one group is the probability that a decode goes to the solo pool, with several
the share of the class's decodes that the group has; per group the number of GPUs in the mixed pool.
The gate ``bid-price`` has 2P more: per pair the priority, and the reserve of free slots.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled, compiled_apart
from llm_sched_env.simulation.scheduling.availability import update_available
from llm_sched_env.simulation.scheduling.gates import accrue_credit
from llm_sched_env.simulation.scheduling.rules import STATIC_POOLS
from llm_sched_env.simulation.state.layout import EngineState

_ALL_ADMITTED = 1.0 - 1e-9


@compiled
def _resize_mixed_pool(state: EngineState, g: int, size: int) -> None:
    """A group's first GPUs form its mixed pool; a GPU that changes pools keeps what it runs."""
    group = state.groups[g]
    old = group.mixed_pool_size
    group.mixed_pool_size = size
    if state.settings[0].pools == STATIC_POOLS:
        for place in range(min(old, size), max(old, size)):
            update_available(state, group.first_gpu + place)


@compiled_apart
def set_controls(state: EngineState, controls: np.ndarray) -> None:
    """Make the controls, shape (2P + G,) or (4P + G,), those of gate and router from now on."""
    n_groups, n_pairs = len(state.groups), len(state.classes)
    for i in range(len(state.parameters)):
        _set_admission(state, i, controls[i * n_groups : (i + 1) * n_groups])
    first_rank = 2 * n_pairs + n_groups
    for pair in range(n_pairs):
        control = state.control[pair]
        control.routing = controls[n_pairs + pair]
        if len(controls) > first_rank:
            control.priority = controls[first_rank + pair]
            control.reserve = controls[first_rank + n_pairs + pair]
    for g in range(n_groups):
        _resize_mixed_pool(state, g, int(controls[2 * n_pairs + g]))


@compiled
def _set_admission(state: EngineState, i: int, fractions: np.ndarray) -> None:
    """Set the admissions of class i, as fractions of its arrivals by group."""
    parameters, first = state.parameters[i], i * len(state.groups)
    fraction, admitted = 0.0, 0.0
    for g in range(len(fractions)):
        accrue_credit(state, first + g, state.clock[0].time)
        control = state.control[first + g]
        control.credit_rate = fractions[g] * parameters.expected_rate
        control.prefill_target = control.credit_rate / control.prefill_rate
        fraction += fractions[g]
        admitted += control.credit_rate
    # A class that is admitted whole never waits for credit where it is admitted.
    whole = fraction >= _ALL_ADMITTED and parameters.expected_rate > 0
    for g in range(len(fractions)):
        state.control[first + g].unlimited = 1 if whole and fractions[g] > 0.0 else 0
    turned_away = parameters.expected_rate - admitted
    if turned_away <= 0.0:
        state.control[first].queue_target = 0.0
    elif parameters.patience_rate > 0.0:
        state.control[first].queue_target = turned_away / parameters.patience_rate
    else:
        state.control[first].queue_target = np.inf


@compiled
def fill_credit(state: EngineState) -> None:
    """Give every class that earns credit its full credit, the state at the start of a run."""
    for pair in range(len(state.classes)):
        control = state.control[pair]
        control.credit = state.settings[0].credit_cap if control.credit_rate > 0.0 else 0.0
        control.credit_time = state.clock[0].time
