"""Simulated clusters: Python handles on the compiled engine, single or stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.priority_network import ClassProfile, RankCorrection
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.simulation.engine import advance, draw_requests, start
from llm_sched_env.simulation.events.metrics import Metrics, read_metrics, reset_metrics
from llm_sched_env.simulation.events.random_streams import stream_keys
from llm_sched_env.simulation.runtime.compile_notice import announce_compilation
from llm_sched_env.simulation.runtime.row_claims import MOST_ROWS
from llm_sched_env.simulation.runtime.row_threads import RowThreads
from llm_sched_env.simulation.scheduling.rule_parameters import (
    CONTROLLED_RANKS,
    forget_all_arrivals,
    set_class_profile,
    set_correction,
    set_rule_parameters,
)
from llm_sched_env.simulation.scheduling.rules import DispatchRule, Rule
from llm_sched_env.simulation.state import allocation, layout
from llm_sched_env.simulation.state.compiled_views import arrivals_of, clusters_of
from llm_sched_env.simulation.state.fresh_state import fresh_state
from llm_sched_env.simulation.state.layout import EngineState, RequestStream, Workload
from llm_sched_env.simulation.state.request_stream import checked_stream
from llm_sched_env.simulation.state.workload import (
    bills_own_tokens,
    workload_tables,
)

announce_compilation()


class SimulationBatch:
    """N clusters of ``n_gpus`` under one dispatch rule, advanced event by event in compiled code.

    Each cluster runs as if alone: its trajectory depends on its own seed and controls only.

    Args:
        instance: classes, hardware and prices.
        rule: gate, router, pools and priority.
        n_gpus: cluster size n.
        n_clusters: N.
        stream: a recorded request stream, billed by its own token counts; default: requests
            are drawn from the instance's arrival rates and length distributions.
        log_events: room for this many entries of each cluster's event log.
        latencies: whether latency histograms are kept (135 KB per cluster of two classes).
        threads: rows are split over this many threads; the result does not depend on it.
        billing: ``class-means`` or ``own-tokens``; default: class means in the Markov model, own
            tokens with a recorded stream or other length distributions.
        ranks: of the gate ``bid-price``, such as those of a plan (planning/slot_ranks.py).
            Controls may give other priorities and reserves.
        weights: rows solo and mixed of the router ``weighted-randomized``, shape (2, I): see
            :attr:`llm_sched_env.planning.fluid_plan.FluidPlan.decode_weights`.
        profile: of a rule with a correction, what the network is told about the classes: see
            :meth:`llm_sched_env.planning.class_profile`.

    Attributes:
        controls: what :meth:`advance` sets, trusted to be valid; shape (N, 2P + G), P = I G, with
            the gate ``bid-price`` (N, 4P + G), as scheduling/control.py has them. Methods that take
            controls take the shorter form too: it leaves the ranks as they are.
    """

    def __init__(
        self,
        instance: Instance,
        rule: Rule,
        n_gpus: int,
        n_clusters: int = 1,
        stream: RequestStream | None = None,
        log_events: int = 0,
        latencies: bool = True,
        threads: int = 1,
        billing: str | None = None,
        ranks: SlotRanks | None = None,
        weights: np.ndarray | None = None,
        profile: ClassProfile | None = None,
    ) -> None:
        self.instance = instance
        self.rule = rule
        self.n_gpus = checked_integer("n_gpus", n_gpus)
        self.n_clusters = checked_integer("n_clusters", n_clusters)
        if n_clusters > MOST_ROWS:
            raise ConfigurationError("n_clusters", n_clusters, f"at most {MOST_ROWS}")
        if stream is not None:
            stream = checked_stream(stream, instance.n_classes)
        self.workload = workload_tables(instance, stream)
        self._fresh = fresh_state(
            instance,
            rule,
            self.n_gpus,
            latencies=latencies,
            recorded=stream is not None,
            own_tokens=bills_own_tokens(instance, stream is not None, billing),
            block_ids=None if stream is None else stream.block_ids,
        )
        set_rule_parameters(self._fresh, rule, instance, ranks, weights)
        # Of each cluster: what corrects its ranks, and for which plan.
        self._corrections: list[tuple[RankCorrection, ClassProfile]] = []
        if rule.correction is not None:
            known = set_class_profile(self._fresh, profile)
            forget_all_arrivals(self._fresh)
            set_correction(self._fresh, 0, rule.correction, known)
            self._corrections = [(rule.correction, known)] * self.n_clusters
        self._first_corrections = tuple(self._corrections)
        self._logs = np.zeros((self.n_clusters, log_events), layout.EVENT)
        self._status = np.zeros(self.n_clusters, np.int64)
        n_groups = len(instance.groups)
        self._pairs = instance.n_classes * n_groups
        self._short = 2 * self._pairs + n_groups
        self._group_sizes = instance.group_sizes(self.n_gpus)
        self._ranks = self._ranks_of(self._fresh)
        self.controls = np.zeros((self.n_clusters, self._short + len(self._ranks)))
        self.controls[:, self._short :] = self._ranks
        self._threads = RowThreads(threads)
        self.states = allocation.stacked(self._fresh, self.n_clusters)

    @property
    def states(self) -> EngineState:
        """All clusters, stacked on a leading axis of length N."""
        return self._states

    @states.setter
    def states(self, states: EngineState) -> None:
        self._states, self.clusters = states, clusters_of(states)

    @property
    def workload(self) -> Workload:
        """What arrives."""
        return self._workload

    @workload.setter
    def workload(self, workload: Workload) -> None:
        self._workload, self.arrivals = workload, arrivals_of(workload)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses: a copy has arrays of its own."""
        return {k: v for k, v in vars(self).items() if k not in ("clusters", "arrivals")}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Addresses are those of the arrays that this copy has."""
        vars(self).update(attributes)
        self.clusters, self.arrivals = clusters_of(self._states), arrivals_of(self._workload)

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        controls: np.ndarray,
        occupancy: np.ndarray | None = None,
    ) -> None:
        """Start cluster k anew at time 0.

        Args:
            k: the cluster.
            seed: of all its random streams; the same seed gives the same requests under
                every rule.
            controls: shape (2P + G,): admission fractions, solo probabilities, mixed GPUs; with
                the gate ``bid-price`` also (4P + G,): then priorities and reserves. Without them
                the ranks of the constructor.
            occupancy: requests present per GPU, shape (5, P), rows q_prefill, x, q_decode,
                y_mixed, y_solo; default none.
        """
        checked = self._checked_controls(controls, ())
        if occupancy is None:
            occupancy = np.zeros((5, self._pairs))
        needed = int(np.ceil(occupancy.sum() * self.n_gpus)) + 5 * self._pairs
        while needed > self.states.requests.shape[1]:
            self._grow()
        allocation.reset_row(self.states, k, self._fresh)
        self._corrections[k : k + 1] = self._first_corrections[k : k + 1]
        self.states.keys[k] = stream_keys(seed)
        self.controls[k, self._short :] = self._ranks
        self.controls[k, : len(checked)] = checked
        start(
            self.clusters,
            self.arrivals,
            self._logs,
            self.controls,
            np.ascontiguousarray(occupancy),
            k,
        )

    def correct(self, k: int, correction: RankCorrection) -> None:
        """Give cluster k another network, of as many hidden units, until it is started anew."""
        if not self._corrections:
            raise ConfigurationError(
                "correction",
                f"one of {correction.hidden_units} hidden units",
                "none: the rule of this batch has none",
            )
        if correction.hidden_units != self.states.hidden.shape[1]:
            raise ConfigurationError(
                "correction",
                f"one of {correction.hidden_units} hidden units",
                f"one of {self.states.hidden.shape[1]}, as the rule of this batch has",
            )
        self._corrections[k] = (correction, self._corrections[k][1])
        set_correction(self.states, k, *self._corrections[k])

    def replan(
        self,
        controls: np.ndarray,
        rates: np.ndarray,
        ranks: SlotRanks | None = None,
        weights: np.ndarray | None = None,
        profile: ClassProfile | None = None,
    ) -> None:
        """All clusters go by another plan from now on, until they are started anew.

        Args:
            controls: shape (2P + G,).
            rates: arrivals that the plan reckons with, per GPU and second, shape (I,).
            ranks: as in the constructor, likewise the others.
            weights: of the router ``weighted-randomized``.
            profile: of a rule with a correction.
        """
        checked = self._checked_controls(controls, ())
        set_rule_parameters(self.states, self.rule, self.instance, ranks, weights)
        self.states.parameters["expected_rate"] = self.n_gpus * rates
        if self._corrections:
            known = set_class_profile(self.states, profile)
            self._corrections = [(correction, known) for correction, _ in self._corrections]
            for k, (correction, _) in enumerate(self._corrections):
                set_correction(self.states, k, correction, known)
        self.controls[:, : len(checked)] = checked
        self.controls[:, self._short :] = self._ranks_of(self.states)
        self.advance(self.states.clock["time"][:, 0], 0, self.n_clusters, set_controls=True)

    def run(
        self,
        until: np.ndarray,
        controls: np.ndarray | None = None,
        rows: tuple[int, int] | None = None,
    ) -> None:
        """Advance clusters to their times ``until``, shape (N,), seconds.

        Args:
            until: ``inf`` runs past the last event of a recorded stream.
            controls: shape (N, 2P + G) or, with the gate ``bid-price``, (N, 4P + G), set before
                the first event; default: as they are.
            rows: first and one past the last cluster; default all.
        """
        first, last = rows if rows is not None else (0, self.n_clusters)
        if controls is not None:
            checked = self._checked_controls(controls, (self.n_clusters,))
            self.controls[first:last, : checked.shape[1]] = checked[first:last]
        self.advance(until, first, last, set_controls=controls is not None)

    def advance(self, until: np.ndarray, first: int, last: int, *, set_controls: bool) -> None:
        """Advance clusters first..last-1 to their times ``until``, shape (N,), seconds.

        Args:
            until: as in :meth:`run`.
            first: the first cluster.
            last: one past the last cluster.
            set_controls: whether :attr:`controls` are set before the first event.
        """

        def work(claims: np.ndarray, ticket: int, part: int, rows: int) -> None:
            advance(
                clusters,
                self.arrivals,
                self._logs,
                self.controls,
                set_controls,
                until,
                self._status,
                claims,
                ticket,
                part,
                rows,
            )

        while True:
            clusters = self.clusters
            self._threads.run(work, first, last)
            if not np.count_nonzero(self._status[first:last]):
                return
            # A cluster that finished has nothing left to do before its time: running it
            # again without controls changes nothing.
            set_controls = False
            self._grow()

    def _checked_controls(self, controls: np.ndarray, stacked: tuple[int, ...]) -> np.ndarray:
        """Controls as floats, of the short or the full form; stacked is the shape before it."""
        checked = np.asarray(controls, dtype=np.float64)
        wanted = sorted({(*stacked, width) for width in (self._short, self.controls.shape[1])})
        if checked.shape not in wanted:
            allowed = " or ".join(map(str, wanted))
            raise ConfigurationError("controls of shape", checked.shape, f"shape {allowed}")
        shares, pools = checked[..., : 2 * self._pairs], checked[..., 2 * self._pairs : self._short]
        if np.isnan(checked[..., self._short :]).any():
            raise ConfigurationError("controls", checked.tolist(), "ranks that are numbers")
        # Written so that NaN fails.
        if (
            not ((shares >= 0) & (shares <= 1)).all()
            or not ((pools >= 0) & (pools <= self._group_sizes)).all()
        ):
            sizes = ", ".join(map(str, self._group_sizes))
            raise ConfigurationError(
                "controls", checked.tolist(), f"shares in [0, 1] and a pool of 0 to {sizes}"
            )
        return checked

    def _ranks_of(self, states: EngineState) -> np.ndarray:
        """Ranks that controls may change, of the first cluster of these states; shape (2P,)."""
        if self.rule.gate != "bid-price":
            return np.empty(0)
        return np.concatenate([states.control[name][0] for name in CONTROLLED_RANKS])

    def _grow(self) -> None:
        self.states = allocation.with_capacity(self.states, 2 * self.states.requests.shape[1])

    def state(self, k: int) -> EngineState:
        """Views of the state of cluster k."""
        return allocation.row(self.states, k)

    def snapshot(self, k: int) -> EngineState:
        """A copy of the whole state of cluster k."""
        return EngineState(*(array[k].copy() for array in self.states))

    def restore(self, k: int, snapshot: EngineState) -> None:
        """Continue cluster k from a snapshot of a cluster of the same instance, rule and size."""
        _require_same_cluster(self.state(k), snapshot)
        capacity = max(len(snapshot.requests), self.states.requests.shape[1])
        if capacity > self.states.requests.shape[1]:
            self.states = allocation.with_capacity(self.states, capacity)
        single = EngineState(*(array[None] for array in snapshot))
        if capacity > len(snapshot.requests):
            single = allocation.with_capacity(single, capacity)
        for target, array in zip(self.states, single, strict=True):
            target[k] = array[0]

    def metrics(self, k: int) -> Metrics:
        """What cluster k measured since its start or its last reset of metrics."""
        return read_metrics(self.state(k))

    def events(self, k: int) -> np.ndarray:
        """The event log of cluster k, a record array (time, kind, request index, GPU).

        Kinds are ``ARRIVE`` to ``REJECT`` of :mod:`llm_sched_env.simulation.state.layout`.
        """
        logged = int(self.states.clock["logged"][k, 0])
        if logged > self._logs.shape[1]:
            raise ConfigurationError(
                "log_events", self._logs.shape[1], f"at least {logged} for this run"
            )
        return self._logs[k, :logged]


class Simulation:
    """One cluster under a dispatch rule: a :class:`SimulationBatch` of one, started.

    Args:
        instance: classes, hardware and prices.
        rule: gate, router, pools and priority.
        controls: as in :meth:`SimulationBatch.start`.
        n_gpus: cluster size n.
        seed: of all random streams.
        occupancy: requests present at the start, as in :meth:`SimulationBatch.start`.
        batch_type: builds what is wrapped; a machine's cluster for one that is served.
        **batch: ``stream`` and ``log_events`` of :class:`SimulationBatch`.

    Attributes:
        batch: what is wrapped.
    """

    def __init__(
        self,
        instance: Instance,
        rule: DispatchRule,
        controls: np.ndarray,
        n_gpus: int,
        seed: np.random.SeedSequence,
        occupancy: np.ndarray | None = None,
        batch_type: Callable[..., SimulationBatch] = SimulationBatch,
        **batch: Any,
    ) -> None:
        self.batch = batch_type(instance, rule, n_gpus, **batch)
        self.batch.start(0, seed, controls, occupancy)

    @property
    def state(self) -> EngineState:
        """Views of the cluster's state."""
        return self.batch.state(0)

    @property
    def time(self) -> float:
        """Seconds since the start of the run."""
        return float(self.batch.states.clock["time"][0, 0])

    def run(self, until: float, controls: np.ndarray | None = None) -> None:
        """Set controls, if given, and advance to ``until`` (seconds)."""
        stacked = None if controls is None else np.asarray(controls, float)[None]
        self.batch.run(np.array([until], float), stacked)

    def reset_metrics(self, *, pay_earlier_arrivals: bool = True) -> None:
        """End of the warm-up: measure from now on; see :func:`.metrics.reset_metrics`."""
        reset_metrics(self.state, pay_earlier_arrivals=pay_earlier_arrivals)

    def metrics(self) -> Metrics:
        """What was measured since the start or the last :meth:`reset_metrics`."""
        return self.batch.metrics(0)

    def events(self) -> np.ndarray:
        """The event log so far, a record array (time, kind, request index, GPU)."""
        return self.batch.events(0)

    def snapshot(self) -> EngineState:
        """A copy of the whole state."""
        return self.batch.snapshot(0)

    def restore(self, snapshot: EngineState) -> None:
        """Continue from a snapshot of a cluster of the same instance and size."""
        self.batch.restore(0, snapshot)


def sample_requests(
    instance: Instance, n_gpus: int, until: float, seed: np.random.SeedSequence
) -> RequestStream:
    """The requests that arrive at a cluster up to a time: what a run with this seed serves.

    Args:
        instance: arrival rates, patterns and length distributions.
        n_gpus: cluster size n.
        until: seconds.
        seed: of the run.
    """
    workload = workload_tables(instance)
    arrivals = arrivals_of(workload)
    room = int(2.0 * n_gpus * instance.arrival_rates.sum() * until) + 64
    while True:
        # Any rule: it has no say in what arrives.
        states = fresh_state(
            instance, DispatchRule(), checked_integer("n_gpus", n_gpus), latencies=False
        )
        states.keys[0] = stream_keys(seed)
        drawn = np.zeros(room, layout.DRAWN_REQUEST)
        count = draw_requests(clusters_of(states), arrivals, float(until), drawn)
        if count <= room:
            names = ("arrival_time", "request_class", "prompt_tokens", "output_tokens")
            return RequestStream(*(drawn[name][:count].copy() for name in names))
        room *= 2


def _require_same_cluster(state: EngineState, snapshot: EngineState) -> None:
    """Raise ConfigurationError unless size, instance, rule and billing are the same."""
    for name, array, own in (
        ("GPUs", snapshot.gpus, state.gpus),
        ("hidden units", snapshot.hidden, state.hidden),
        ("caches", snapshot.caches, state.caches),
        ("recorded blocks", snapshot.block_ids, state.block_ids),
    ):
        if array.shape != own.shape:
            raise ConfigurationError(f"snapshot of {name}", len(array), f"{len(own)}")
    for name in ("settings", "parameters"):
        own, other = getattr(state, name), getattr(snapshot, name)
        if own.shape != other.shape or own.tobytes() != other.tobytes():
            raise ConfigurationError(
                f"snapshot {name}", other.tolist(), f"those of this cluster, {own.tolist()}"
            )
