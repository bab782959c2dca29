"""Initialise an empty cluster."""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.block_lists import BLOCK_TOKENS
from llm_sched_env.model.hardware import ITERATION_LAWS, Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.simulation.scheduling.rules import Rule
from llm_sched_env.simulation.state import allocation, layout
from llm_sched_env.simulation.state.allocation import CacheShapes, Shapes
from llm_sched_env.simulation.state.layout import EngineState
from llm_sched_env.simulation.state.workload import is_steady, peak_multipliers

_WAITING_PER_GPU = 4


def cluster_bytes(instance: Instance, rule: Rule, n_gpus: int, *, latencies: bool) -> int:
    """Memory of one cluster's state at its start; it grows where many requests wait."""
    return allocation.block_bytes(_shapes(instance, rule, n_gpus, 0, latencies=latencies))


def _shapes(
    instance: Instance,
    rule: Rule,
    n_gpus: int,
    recorded_blocks: int,
    *,
    latencies: bool,
) -> Shapes:
    lines_by_class = rule.settings["class_lines"]
    kinds = [group.hardware for group in instance.groups]
    slots = max(hardware.batch_slots for hardware in kinds)
    # Slots are bounded, queues are not: they start with room for a few requests per GPU.
    return allocation.state_shapes(
        n_gpus,
        instance.n_classes,
        len(kinds),
        slots,
        capacity=n_gpus * (slots + _WAITING_PER_GPU) + 64,
        decode_lines=layout.N_DECODE_POOLS * (instance.n_classes if lines_by_class else 1),
        queues_at_gpus=rule.routes_on_arrival,
        latencies=latencies,
        links=instance.has_links,
        kv_limited=instance.hardware.kv_tokens is not None,
        quadratic_clock=any(_has_quadratic_clock(hardware) for hardware in kinds),
        hidden_units=rule.correction.hidden_units if rule.correction is not None else 0,
        caches=_cache_shapes(instance, rule, n_gpus, recorded_blocks),
    )


def _cache_shapes(instance: Instance, rule: Rule, n_gpus: int, recorded_blocks: int) -> CacheShapes:
    """A cache for each GPU, and one for what the router remembers of it; none if nobody asks."""
    if not instance.has_caches and not rule.looks_at_blocks:
        return CacheShapes()
    sizes = zip(instance.groups, instance.group_sizes(n_gpus).tolist(), strict=True)
    capacities = tuple(
        (group.hardware.cache_tokens or 0) // BLOCK_TOKENS for group, n in sizes for _ in range(n)
    )
    return CacheShapes(
        capacities * (2 if rule.remembers_sent else 1),
        stale=rule.refresh_seconds > 0.0,
        recorded_blocks=recorded_blocks,
        signals=rule.sees_signals,
        scorers=len(rule.scorer_weights),
    )


def fresh_state(
    instance: Instance,
    rule: Rule,
    n_gpus: int,
    *,
    latencies: bool,
    recorded: bool = False,
    own_tokens: bool = False,
    block_ids: np.ndarray | None = None,
) -> EngineState:
    """One idle cluster with every setting filled in, stacked on a leading axis of length 1.

    Args:
        instance: of the cluster.
        rule: that it goes by.
        n_gpus: its size.
        latencies: whether histograms are kept.
        recorded: whether requests are.
        own_tokens: whether requests are billed by their own tokens.
        block_ids: blocks of all recorded requests in a row.
    """
    kinds = [group.hardware for group in instance.groups]
    # Small numbers, of which caches hold many.
    ids = np.empty(0) if block_ids is None else np.unique(block_ids, return_inverse=True)[1]
    shapes = _shapes(instance, rule, n_gpus, len(ids), latencies=latencies)
    states = allocation.allocate_state(shapes)
    if states.caches.shape[1] > 0:
        _set_caches(states, _cache_shapes(instance, rule, n_gpus, len(ids)))
        states.block_ids[...] = ids
        states.scorer_weights[...] = rule.scorer_weights
    rates = n_gpus * instance.arrival_rates
    peaks = rates * peak_multipliers(instance)
    settings = states.settings
    for name, value in rule.settings.items():
        settings[name] = value
    settings["bill_own_tokens"] = own_tokens
    settings["steady"] = is_steady(instance)
    settings["prefill_queues"] = instance.n_classes
    if rule.routes_on_arrival:
        settings["prefill_queues"] *= n_gpus
    settings["heap_slots"] = max(hardware.batch_slots for hardware in kinds)
    settings["quadratic_clock"] = any(_has_quadratic_clock(hardware) for hardware in kinds)
    limit = instance.hardware.kv_tokens
    settings["kv_tokens"] = np.inf if limit is None else limit
    settings["peak_rate"] = 0.0 if recorded else peaks.sum()
    settings["block_tokens"] = BLOCK_TOKENS
    settings["refresh_seconds"] = rule.refresh_seconds
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
    parameters["ttft_deadline"], parameters["tpot_deadline"] = instance.deadlines
    _set_groups(states, instance, n_gpus)
    kinds_alone = [instance.on_group(group) for group in instance.groups]
    own_rates = [fitting_requests(alone).prefill_rates for alone in kinds_alone]
    states.control["prefill_rate"] = np.array(own_rates).T.ravel()
    return states


def _set_caches(states: EngineState, caches: CacheShapes) -> None:
    """Empty caches: where the nodes and buckets of each lie."""
    node = bucket = 0
    for c, capacity in enumerate(caches.capacities):
        record = states.caches[0, c]
        nodes, buckets = caches.nodes(capacity), allocation.buckets_of(capacity)
        record["capacity"], record["first_bucket"] = capacity, bucket
        record["bucket_mask"] = buckets - 1
        record["unused"] = node if nodes else -1
        chain = states.cache_nodes["chain"][0, node : node + nodes]
        chain[:] = np.arange(node + 1, node + nodes + 1)
        chain[-1:] = -1
        node, bucket = node + nodes, bucket + buckets


def _has_quadratic_clock(hardware: Hardware) -> bool:
    return hardware.iteration_law == "kv-aware" or hardware.whole_iterations


def _set_groups(states: EngineState, instance: Instance, n_gpus: int) -> None:
    """Which GPUs are of which kind, and what a kind is like."""
    sizes = instance.group_sizes(n_gpus)
    firsts = np.cumsum(sizes) - sizes
    for g, (group, first, size) in enumerate(zip(instance.groups, firsts, sizes, strict=True)):
        record = states.groups[:, g]
        states.gpus["group"][:, first : first + size] = g
        record["first_gpu"], record["n_gpus"] = first, size
        record["prefills"], record["decodes"] = group.role != "decode", group.role != "prefill"
        record["batch_slots"] = group.hardware.batch_slots
        if group.link is not None:
            record["link_token_seconds"] = 1.0 / group.link.tokens_per_second
            record["link_seconds"] = group.link.seconds
        _set_iteration_times(record, instance.on_group(group), group.hardware)


def _set_iteration_times(record: np.ndarray, instance: Instance, hardware: Hardware) -> None:
    record["law"] = ITERATION_LAWS.index(hardware.iteration_law)
    record["whole_chunks"] = hardware.whole_chunks
    record["whole_iterations"] = hardware.whole_iterations
    record["padded_chunks"] = hardware.padded_chunks
    record["chunk_tokens"] = hardware.chunk_tokens
    record["solo_seconds"] = hardware.tau_solo
    record["mixed_seconds"] = hardware.tau_mixed
    if hardware.iteration_law == "affine":
        record["token_seconds"] = hardware.beta
        record["flat_tokens"] = hardware.flat_tokens
    solo, mixed = hardware.solo, hardware.mixed
    if solo is not None and mixed is not None:
        record["solo_seconds"], record["mixed_seconds"] = solo.seconds, mixed.seconds
        record["solo_decode"], record["solo_kv"] = solo.per_decode, solo.per_kv_token
        record["mixed_prompt"] = mixed.per_prompt_token
        record["mixed_decode"] = mixed.per_decode
        record["mixed_kv"] = mixed.per_kv_token
        record["mixed_context"] = mixed.per_prompt_token_context
    typical = instance.full_batch_seconds
    record["typical_solo_seconds"], record["typical_mixed_seconds"] = typical
