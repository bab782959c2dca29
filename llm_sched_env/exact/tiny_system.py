"""A small cluster with short queues: the state space of the exact methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer, one_of
from llm_sched_env.exact.cluster_states import (
    Cluster,
    ClusterTables,
    Gpu,
    all_clusters,
    cluster_tables,
    count_clusters,
)
from llm_sched_env.exact.queue_states import QueueTables, count_rows, queue_tables
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.length_distributions import EXPONENTIAL
from llm_sched_env.planning import PRICINGS

MOST_STATES = 8_000_000
"""More would take several gigabytes and an hour."""
_MOST_CLUSTERS = 100_000

KINDS = ("wait", "admit", "solo", "mixed")


class Action(NamedTuple):
    """What a controller does at an instant; several may follow one another.

    Attributes:
        kind: ``wait`` (until the next event), ``admit`` (to prefill), or place a finished prefill
            on a GPU without (``solo``) or with (``mixed``) a running prefill.
        request_class: None for ``wait``.
        gpu: configuration of the GPU to use; None: a uniformly random one of those possible.
    """

    kind: str
    request_class: int | None = None
    gpu: Gpu | None = None

    def number(self, n_classes: int) -> int:
        """Of 1 + 3I: wait, admit class i, class i to solo, class i to mixed."""
        if self.request_class is None:
            return 0
        return 1 + (KINDS.index(self.kind) - 1) * n_classes + self.request_class


@dataclass(frozen=True, eq=False)
class TinySystem:
    """Everything that can be the case with at most so many waiting; states are (row, cluster).

    Attributes:
        instance: Markov: exponential lengths and patience, rates that are constant or switched by
            a Markov chain, two speeds.
        n_gpus: n.
        pricing: ``bundled`` (22) or ``separate`` (23).
        queue_limit: K, most requests of each class that wait for prefill.
        decode_limit: most prefilled requests, of all classes together, that wait for a slot.
        clusters: multisets of GPUs, M.
        cluster_tables: their events and actions.
        queues: queues as rows, R.
    """

    instance: Instance
    n_gpus: int
    pricing: str
    queue_limit: int
    decode_limit: int
    clusters: list[Cluster]
    cluster_tables: ClusterTables
    queues: QueueTables

    @property
    def shape(self) -> tuple[int, int]:
        """(R, M)."""
        return len(self.queues.may_wait), len(self.clusters)

    @property
    def n_states(self) -> int:
        """States in which time may pass."""
        return int(self.queues.may_wait.sum()) * len(self.clusters)

    @cached_property
    def arrivals(self) -> np.ndarray:
        """Arrival rates of the cluster in each state of the traffic, 1/s, shape (S, I)."""
        mean = self.n_gpus * self.instance.arrival_rates
        modulation = self.instance.modulation
        if modulation is None:
            return np.asarray(mean[None, :])
        return np.asarray(mean * modulation.relative_rates(self.instance.n_classes))

    @cached_property
    def switches(self) -> np.ndarray:
        """Rates at which the traffic switches its state, 1/s, shape (S, S)."""
        modulation = self.instance.modulation
        return np.zeros((1, 1)) if modulation is None else np.array(modulation.switch_rates)

    @cached_property
    def cluster_rates(self) -> np.ndarray:
        """Rate of what ends in a cluster, 1/s, shape (M,)."""
        return np.asarray(self.cluster_tables.event_rates.sum(axis=1))

    @cached_property
    def row_rates(self) -> np.ndarray:
        """Rate of arrivals, lost ones included, abandonment and switches, 1/s, shape (R,)."""
        patience = np.tile(self.instance.patience_rates, 2)
        traffic = self.arrivals.sum(axis=1) + self.switches.sum(axis=1)
        return np.asarray(self.queues.counts @ patience + traffic[self.queues.traffic])

    @cached_property
    def free_slots(self) -> np.ndarray:
        """Free slots of each cluster, shape (M,)."""
        slots = self.n_gpus * self.instance.hardware.batch_slots
        return np.array([slots - sum(gpu.used for gpu in c) for c in self.clusters])

    @cached_property
    def possible(self) -> np.ndarray:
        """Whether a cluster has a GPU for an action, shape (M, 3I)."""
        return np.asarray(self.cluster_tables.target_counts > 0)


def tiny_system(
    instance: Instance,
    n_gpus: int,
    pricing: str = "bundled",
    *,
    queue_limit: int = 10,
    decode_limit: int = 1,
) -> TinySystem:
    """Enumerate the states.

    Raises:
        ConfigurationError: for arguments out of range, an instance that is no Markov chain, or
            more than ``MOST_STATES`` states.
    """
    n_gpus = checked_integer("n_gpus", n_gpus)
    queue_limit = checked_integer("queue_limit", queue_limit)
    decode_limit = checked_integer("decode_limit", decode_limit, least=0)
    if pricing not in PRICINGS:
        raise ConfigurationError("pricing", pricing, one_of(PRICINGS))
    require_markov(instance)
    n_classes, slots = instance.n_classes, instance.hardware.batch_slots
    n_traffic = 1 if instance.modulation is None else instance.modulation.n_states
    n_clusters = count_clusters(n_classes, slots, n_gpus)
    n_rows = count_rows(n_classes, queue_limit, decode_limit, n_traffic)
    if n_rows * n_clusters > MOST_STATES or n_clusters > _MOST_CLUSTERS:
        raise ConfigurationError(
            f"The system has {n_rows * n_clusters} states and {n_clusters} configurations of its "
            f"GPUs; the limits are {MOST_STATES} and {_MOST_CLUSTERS}. Lower n_gpus ({n_gpus}), "
            f"batch_slots ({slots}), the number of classes ({n_classes}; --halves leaves two), "
            f"queue_limit ({queue_limit}) or decode_limit ({decode_limit})."
        )
    clusters = all_clusters(n_classes, slots, n_gpus)
    return TinySystem(
        instance=instance,
        n_gpus=n_gpus,
        pricing=pricing,
        queue_limit=queue_limit,
        decode_limit=decode_limit,
        clusters=clusters,
        cluster_tables=cluster_tables(instance, clusters, pricing),
        queues=queue_tables(n_classes, queue_limit, decode_limit, n_traffic),
    )


def require_markov(instance: Instance) -> None:
    """Raise a ConfigurationError unless the model is a Markov chain in counts."""
    hardware = instance.hardware
    wanted = (
        ("hardware iteration_law", hardware.iteration_law, "two-speed"),
        ("hardware chunking", hardware.chunking, "exact"),
        ("hardware starts", hardware.starts, "immediate"),
        ("hardware padded_chunks", hardware.padded_chunks, False),
        ("hardware kv_tokens", hardware.kv_tokens, None),
    )
    own = [
        (f"class {c.name!r}: {field}", getattr(c, field), plain)
        for c in instance.classes
        for field, plain in (
            ("prompt_lengths", EXPONENTIAL),
            ("output_lengths", EXPONENTIAL),
            ("observed_lengths", None),
            ("arrival_profile", None),
        )
    ]
    for field, got, allowed in (*wanted, *own):
        if got != allowed:
            remedy = "exact optima are computed for the Markov model only"
            raise ConfigurationError(field, got, str(allowed), remedy)
