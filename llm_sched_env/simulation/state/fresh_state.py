"""Initialise an empty cluster."""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.hardware import ITERATION_LAWS, Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.simulation.scheduling.rules import DispatchRule, EventDispatch
from llm_sched_env.simulation.state import allocation, layout
from llm_sched_env.simulation.state.allocation import Shapes
from llm_sched_env.simulation.state.layout import EngineState
from llm_sched_env.simulation.state.workload import is_steady, peak_multipliers

_WAITING_PER_GPU = 4


def cluster_bytes(
    instance: Instance, rule: DispatchRule | EventDispatch, n_gpus: int, *, latencies: bool
) -> int:
    """Memory of one cluster's state at its start; it grows where many requests wait."""
    return allocation.block_bytes(_shapes(instance, rule, n_gpus, latencies=latencies))


def _shapes(
    instance: Instance, rule: DispatchRule | EventDispatch, n_gpus: int, *, latencies: bool
) -> Shapes:
    hardware, lines_by_class = instance.hardware, rule.settings["class_lines"]
    # Slots are bounded, queues are not: they start with room for a few requests per GPU.
    return allocation.state_shapes(
        n_gpus,
        instance.n_classes,
        hardware.batch_slots,
        capacity=n_gpus * (hardware.batch_slots + _WAITING_PER_GPU) + 64,
        decode_lines=layout.N_DECODE_POOLS * (instance.n_classes if lines_by_class else 1),
        latencies=latencies,
        kv_limited=hardware.kv_tokens is not None,
        quadratic_clock=_has_quadratic_clock(hardware),
        hidden_units=rule.correction.hidden_units if rule.correction is not None else 0,
    )


def fresh_state(
    instance: Instance,
    rule: DispatchRule | EventDispatch,
    n_gpus: int,
    *,
    latencies: bool,
    recorded: bool = False,
    own_tokens: bool = False,
) -> EngineState:
    """One idle cluster with every setting filled in, stacked on a leading axis of length 1."""
    hardware = instance.hardware
    states = allocation.allocate_state(_shapes(instance, rule, n_gpus, latencies=latencies))
    rates = n_gpus * instance.arrival_rates
    peaks = rates * peak_multipliers(instance)
    settings = states.settings
    settings["batch_slots"] = hardware.batch_slots
    for name, value in rule.settings.items():
        settings[name] = value
    settings["bill_own_tokens"] = own_tokens
    settings["steady"] = is_steady(instance)
    _set_iteration_times(settings, instance)
    settings["kv_tokens"] = np.inf if hardware.kv_tokens is None else hardware.kv_tokens
    settings["peak_rate"] = 0.0 if recorded else peaks.sum()
    settings["prefill_price"] = instance.prices.prefill
    settings["decode_price"] = instance.prices.decode
    states.clock["paid_from"] = -np.inf
    parameters = states.parameters
    # What is billed and what the gates reckon with: the requests that are not rejected.
    served = fitting_requests(instance)
    parameters["prompt_tokens"] = served.prompt_tokens
    parameters["output_tokens"] = served.output_tokens
    parameters["admissible_rate"] = n_gpus * served.arrival_rates
    parameters["expected_rate"] = parameters["admissible_rate"]
    parameters["arrival_rate"] = rates
    parameters["peak_rate"] = peaks
    parameters["patience_rate"] = instance.patience_rates
    parameters["cumulative_share"] = np.cumsum(peaks) / peaks.sum()
    parameters["prefill_rate"] = served.prefill_rates
    parameters["ttft_deadline"], parameters["tpot_deadline"] = instance.deadlines
    return states


def _has_quadratic_clock(hardware: Hardware) -> bool:
    return hardware.iteration_law == "kv-aware" or hardware.whole_iterations


def _set_iteration_times(settings: np.ndarray, instance: Instance) -> None:
    hardware = instance.hardware
    settings["law"] = ITERATION_LAWS.index(hardware.iteration_law)
    settings["quadratic_clock"] = _has_quadratic_clock(hardware)
    settings["whole_chunks"] = hardware.whole_chunks
    settings["whole_iterations"] = hardware.whole_iterations
    settings["padded_chunks"] = hardware.padded_chunks
    settings["chunk_tokens"] = hardware.chunk_tokens
    settings["solo_seconds"] = hardware.tau_solo
    settings["mixed_seconds"] = hardware.tau_mixed
    if hardware.iteration_law == "affine":
        settings["token_seconds"] = hardware.beta
        settings["flat_tokens"] = hardware.flat_tokens
    solo, mixed = hardware.solo, hardware.mixed
    if solo is not None and mixed is not None:
        settings["solo_seconds"], settings["mixed_seconds"] = solo.seconds, mixed.seconds
        settings["solo_decode"], settings["solo_kv"] = solo.per_decode, solo.per_kv_token
        settings["mixed_prompt"] = mixed.per_prompt_token
        settings["mixed_decode"] = mixed.per_decode
        settings["mixed_kv"] = mixed.per_kv_token
        settings["mixed_context"] = mixed.per_prompt_token_context
    typical = instance.full_batch_seconds
    settings["typical_solo_seconds"], settings["typical_mixed_seconds"] = typical
