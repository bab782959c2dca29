"""States, events and actions of a small cluster, apart from its queues.

GPUs are exchangeable, so a cluster is a multiset of GPU configurations: the class in prefill, or
none, and the decodes of each class. Queues are another matter (`queue_states`): a cluster's events
and the targets of its actions do not depend on them, so each table has one row per multiset.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from math import comb
from typing import NamedTuple

import numpy as np

from llm_sched_env.model.instance import Instance

IDLE = -1
"""No prefill is running."""
DECODED = -1
"""The event is the end of a decode, not of a prefill."""


class Gpu(NamedTuple):
    """The class in prefill, or IDLE, and the number of decodes of each class."""

    prefill: int
    decodes: tuple[int, ...]

    @property
    def used(self) -> int:
        """Slots taken."""
        return sum(self.decodes) + (self.prefill != IDLE)


Cluster = tuple[Gpu, ...]
"""A multiset of GPUs, sorted."""


class ClusterTables(NamedTuple):
    """M clusters as arrays; E events and n targets at most, counts say how many are meant.

    Actions of I classes: 0..I-1 admit the class, I..2I-1 place its decode on a GPU without a
    running prefill (solo), 2I..3I-1 on one with (mixed).

    Attributes:
        revenue: revenue rate, currency per second, shape (M,).
        event_counts: shape (M,).
        event_rates: 1/s, shape (M, E).
        event_targets: the cluster after the event, shape (M, E).
        event_classes: the class whose prefill ended, or DECODED, shape (M, E).
        target_counts: different outcomes of an action, 0: not possible, shape (M, 3I).
        targets: shape (M, 3I, n).
        target_shares: share of the GPUs that the action may use which lead to the target, shape
            (M, 3I, n).
    """

    revenue: np.ndarray
    event_counts: np.ndarray
    event_rates: np.ndarray
    event_targets: np.ndarray
    event_classes: np.ndarray
    target_counts: np.ndarray
    targets: np.ndarray
    target_shares: np.ndarray


def gpu_configurations(n_classes: int, slots: int) -> list[Gpu]:
    """Every GPU with at most ``slots`` requests in service, one of them in prefill at most."""
    decodes = [d for d in product(range(slots + 1), repeat=n_classes) if sum(d) <= slots]
    gpus = [Gpu(p, d) for p in range(IDLE, n_classes) for d in decodes]
    return sorted(gpu for gpu in gpus if gpu.used <= slots)


def count_clusters(n_classes: int, slots: int, n_gpus: int) -> int:
    """M, the number of multisets, without listing them."""
    solo = comb(slots + n_classes, n_classes)
    mixed = n_classes * comb(slots - 1 + n_classes, n_classes)
    return comb(solo + mixed + n_gpus - 1, n_gpus)


def all_clusters(n_classes: int, slots: int, n_gpus: int) -> list[Cluster]:
    """Every multiset of n GPUs; the first is the empty cluster's or another, in sorted order."""
    return list(combinations_with_replacement(gpu_configurations(n_classes, slots), n_gpus))


def with_gpu(cluster: Cluster, old: Gpu, new: Gpu) -> Cluster:
    """The cluster in which one GPU has changed."""
    gpus = list(cluster)
    gpus[gpus.index(old)] = new
    return tuple(sorted(gpus))


def with_decodes(gpu: Gpu, i: int, change: int) -> Gpu:
    """The GPU with more or fewer decodes of class i."""
    decodes = (*gpu.decodes[:i], gpu.decodes[i] + change, *gpu.decodes[i + 1 :])
    return Gpu(gpu.prefill, decodes)


def after_action(gpu: Gpu, action: int, n_classes: int, slots: int) -> Gpu | None:
    """The GPU once the action has used it; None if the action may not use this GPU."""
    kind, i = divmod(action, n_classes)
    if gpu.used >= slots:
        return None
    if kind == 0:
        return gpu._replace(prefill=i) if gpu.prefill == IDLE else None
    wanted_mixed = kind == 2
    return with_decodes(gpu, i, 1) if (gpu.prefill != IDLE) == wanted_mixed else None


def cluster_tables(instance: Instance, clusters: list[Cluster], pricing: str) -> ClusterTables:
    """Events (rates (4)), revenue ((22) or (23)) and action targets of every cluster."""
    n_classes, slots = instance.n_classes, instance.hardware.batch_slots
    n_gpus, size = len(clusters[0]), len(clusters)
    index = {cluster: k for k, cluster in enumerate(clusters)}
    events = [_events(instance, cluster) for cluster in clusters]
    most = max(map(len, events))
    tables = ClusterTables(
        revenue=np.zeros(size),
        event_counts=np.array([len(e) for e in events], dtype=np.int32),
        event_rates=np.zeros((size, most)),
        event_targets=np.zeros((size, most), dtype=np.int32),
        event_classes=np.zeros((size, most), dtype=np.int32),
        target_counts=np.zeros((size, 3 * n_classes), dtype=np.int32),
        targets=np.zeros((size, 3 * n_classes, n_gpus), dtype=np.int32),
        target_shares=np.zeros((size, 3 * n_classes, n_gpus)),
    )
    prompt = instance.prices.prefill * instance.prompt_tokens
    output = instance.prices.decode * instance.output_tokens
    prefill_bill = prompt if pricing == "separate" else np.zeros(n_classes)
    decode_bill = output if pricing == "separate" else prompt + output
    for m, cluster in enumerate(clusters):
        for e, (rate, target, prefilled, i) in enumerate(events[m]):
            tables.event_rates[m, e] = rate
            tables.event_targets[m, e] = index[target]
            tables.event_classes[m, e] = i if prefilled else DECODED
            tables.revenue[m] += rate * (prefill_bill if prefilled else decode_bill)[i]
        for action in range(3 * n_classes):
            outcomes: dict[int, int] = {}
            for gpu in cluster:
                changed = after_action(gpu, action, n_classes, slots)
                if changed is not None:
                    target_index = index[with_gpu(cluster, gpu, changed)]
                    outcomes[target_index] = outcomes.get(target_index, 0) + 1
            tables.target_counts[m, action] = len(outcomes)
            for k, (target_index, gpus) in enumerate(outcomes.items()):
                tables.targets[m, action, k] = target_index
                tables.target_shares[m, action, k] = gpus / sum(outcomes.values())
    return tables


def _events(instance: Instance, cluster: Cluster) -> list[tuple[float, Cluster, bool, int]]:
    """Rate, cluster after it, whether a prefill ended (else a decode), and of which class."""
    events = []
    for gpu in dict.fromkeys(cluster):
        alike = cluster.count(gpu)
        if gpu.prefill != IDLE:
            freed = with_gpu(cluster, gpu, gpu._replace(prefill=IDLE))
            events.append(
                (alike * float(instance.prefill_rates[gpu.prefill]), freed, True, gpu.prefill)
            )
        solo = gpu.prefill == IDLE
        rates = instance.solo_decode_rates if solo else instance.mixed_decode_rates
        for i, decodes in enumerate(gpu.decodes):
            if decodes > 0:
                freed = with_gpu(cluster, gpu, with_decodes(gpu, i, -1))
                events.append((alike * decodes * float(rates[i]), freed, False, i))
    return events
