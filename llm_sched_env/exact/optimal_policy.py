"""Look up what the optimal policy does in a state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.exact.bellman import WAIT
from llm_sched_env.exact.cluster_states import IDLE, Gpu, after_action, with_gpu
from llm_sched_env.exact.tiny_system import KINDS, Action, TinySystem


class ClusterState(NamedTuple):
    """Counts that a controller sees.

    Attributes:
        gpus: each the class in prefill (IDLE, -1: none) and its decodes by class; in any order.
        q_prefill: waiting for prefill, by class.
        q_decode: prefilled and waiting for a slot, by class.
        traffic: state of the modulation of arrivals; 0 without one.
    """

    gpus: Sequence[Gpu]
    q_prefill: Sequence[int]
    q_decode: Sequence[int]
    traffic: int = 0


class OptimalPolicy:
    """The optimal action as a function of the state.

    Ask for one action after the other until it is ``wait``: each changes the state at once.
    Requests beyond the queue limit are not seen; the revenue that `Optimum.bounds` promises is
    that of never seeing them.

    Args:
        system: the states.
        choices: WAIT or ``action * n + target`` of each state, shape (R, M).
        random_gpu: whether actions use a random GPU.
    """

    def __init__(self, system: TinySystem, choices: np.ndarray, random_gpu: bool) -> None:
        self.system, self.choices, self.random_gpu = system, choices, random_gpu

    @cached_property
    def _clusters(self) -> dict[tuple[Gpu, ...], int]:
        return {cluster: m for m, cluster in enumerate(self.system.clusters)}

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        queues = self.system.queues
        rows = np.column_stack([queues.counts, queues.traffic])
        return {tuple(row): r for r, row in enumerate(rows.tolist())}

    @cached_property
    def actions(self) -> np.ndarray:
        """Action of each state without its GPU: WAIT or 0..3I-1, shape (R, M)."""
        return np.where(self.choices == WAIT, WAIT, self.choices // self.system.n_gpus)

    def action(self, state: ClusterState) -> Action:
        """The optimal action.

        Raises:
            ConfigurationError: for a state that the system does not have.
        """
        r, m = self.index(state)
        choice = int(self.choices[r, m])
        if choice == WAIT:
            return Action(KINDS[0])
        number, target = divmod(choice, self.system.n_gpus)
        kind, i = divmod(number, self.system.instance.n_classes)
        gpu = None if self.random_gpu else self._gpu_for(m, number, target)
        return Action(KINDS[1 + kind], i, gpu)

    def index(self, state: ClusterState) -> tuple[int, int]:
        """Row and cluster of a state, its queues for prefill cut to the limit."""
        system, n_classes = self.system, self.system.instance.n_classes
        cluster = tuple(sorted(Gpu(g[0], tuple(g[1])) for g in state.gpus))
        if cluster not in self._clusters:
            slots = system.instance.hardware.batch_slots
            raise ConfigurationError(
                "state gpus",
                state.gpus,
                f"{system.n_gpus} GPUs (prefill class or {IDLE}, decodes of each of "
                f"{n_classes} classes) with at most {slots} requests each",
            )
        queues = (*_counts("q_prefill", state.q_prefill), *_counts("q_decode", state.q_decode))
        n_traffic = len(system.switches)
        if state.traffic not in range(n_traffic):
            raise ConfigurationError(
                "state traffic", state.traffic, f"an integer from 0 to {n_traffic - 1}"
            )
        cut = (*(min(q, system.queue_limit) for q in queues[:n_classes]), *queues[n_classes:])
        row = (*cut, int(state.traffic))
        if row not in self._rows:
            raise ConfigurationError(
                "state queues",
                queues,
                f"2 x {n_classes} counts >= 0, at most {system.decode_limit + 1} prefilled",
            )
        return self._rows[row], self._clusters[cluster]

    def _gpu_for(self, m: int, number: int, target: int) -> Gpu:
        """The GPU whose use by an action leads to its target."""
        system, instance = self.system, self.system.instance
        cluster = system.clusters[m]
        wanted = system.clusters[system.cluster_tables.targets[m, number, target]]
        for gpu in cluster:
            used = after_action(gpu, number, instance.n_classes, instance.hardware.batch_slots)
            if used is not None and with_gpu(cluster, gpu, used) == wanted:
                return gpu
        raise AssertionError("a target of the tables comes from one of the GPUs")


def _counts(field: str, values: Iterable[int]) -> tuple[int, ...]:
    counts = tuple(int(v) for v in values)
    if any(v < 0 for v in counts):
        raise ConfigurationError(f"state {field}", counts, "integers >= 0")
    return counts
