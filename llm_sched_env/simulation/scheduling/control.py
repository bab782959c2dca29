"""The controls of a policy: admission rates, routing probabilities, mixed pool, priorities.

Controls are one float array of length 2I + 1: per class the admission rate as a fraction of its
arrival rate, per class the probability of routing a decode to the solo pool, and the number of
GPUs in the mixed pool. The gate ``bid-price`` has 2I more: per class the priority, and the
reserve of free slots.
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
def _resize_mixed_pool(state: EngineState, size: int) -> None:
    """GPUs 0..size-1 form the mixed pool; a GPU that changes pools keeps what it runs."""
    clock = state.clock[0]
    old = clock.mixed_pool_size
    clock.mixed_pool_size = size
    if state.settings[0].pools == STATIC_POOLS:
        for gpu in range(min(old, size), max(old, size)):
            update_available(state, gpu)


@compiled_apart
def set_controls(state: EngineState, controls: np.ndarray) -> None:
    """Make the controls, shape (2I + 1,) or (4I + 1,), those of gate and router from now on."""
    time = state.clock[0].time
    n_classes = len(state.classes)
    for i in range(n_classes):
        accrue_credit(state, i, time)
        control = state.control[i]
        parameters = state.parameters[i]
        fraction = controls[i]
        control.credit_rate = fraction * parameters.expected_rate
        control.prefill_target = control.credit_rate / parameters.prefill_rate
        turned_away = parameters.expected_rate - control.credit_rate
        if turned_away <= 0.0:
            control.queue_target = 0.0
        elif parameters.patience_rate > 0.0:
            control.queue_target = turned_away / parameters.patience_rate
        else:
            control.queue_target = np.inf
        control.unlimited = 1 if fraction >= _ALL_ADMITTED and parameters.expected_rate > 0 else 0
        control.solo_probability = controls[n_classes + i]
        if len(controls) > 2 * n_classes + 1:
            control.priority = controls[2 * n_classes + 1 + i]
            control.reserve = controls[3 * n_classes + 1 + i]
    _resize_mixed_pool(state, int(controls[2 * n_classes]))


@compiled
def fill_credit(state: EngineState) -> None:
    """Give every class that earns credit its full credit, the state at the start of a run."""
    for i in range(len(state.classes)):
        control = state.control[i]
        control.credit = state.settings[0].credit_cap if control.credit_rate > 0.0 else 0.0
        control.credit_time = state.clock[0].time
