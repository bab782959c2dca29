"""A cluster whose iterations a machine runs: the simulator's state and decisions, another's time.

Arrivals, patience and credit timers go by the machine's clock; each iteration that ends on it is
applied to the state, and what the rule or the agent starts thereupon is carried out by the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation import machine_engine
from llm_sched_env.simulation.decision_batch import DecisionBatch
from llm_sched_env.simulation.events.decisions import RUN_ON
from llm_sched_env.simulation.machine import Ended, Machine, Sent
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state import layout
from llm_sched_env.simulation.state.compiled_views import clusters_of
from llm_sched_env.simulation.state.layout import EngineState, RequestStream
from llm_sched_env.simulation.state.request_stream import checked_stream
from llm_sched_env.simulation.state.workload import workload_tables

_LOG_EVENTS = 65_536  # of one moment


class MachineDriver:
    """Keeps a cluster and a machine in step.

    Args:
        batch: of one cluster, with room for a log of events.
        machine: runs its iterations.
    """

    def __init__(self, batch: SimulationBatch, machine: Machine) -> None:
        _require_whole_iterations(batch)
        self._batch, self._machine = batch, machine
        _load(batch.states)
        self.reset()

    def reset(self) -> None:
        """The cluster has been started anew; the machine begins with the first wait."""
        self.told: list[np.ndarray] = []
        self._begun = False
        self._ended: Ended | None = None
        self._last_end = -math.inf  # of those applied
        self._expected: Ended | None = None
        self._running = [False] * self._batch.n_gpus
        self._sent: list[list[Sent]] = [[] for _ in self._running]

    @property
    def time(self) -> float:
        """Of the cluster, seconds."""
        return float(self._batch.states.clock["time"][0, 0])

    def next_time(self, until: float) -> float:
        """Wait for something that changes the cluster; when it is to be applied, seconds.

        Args:
            until: the latest time, seconds.
        """
        if not self._begun:
            self._begun = True
            self._machine.begin(self._batch.workload.recorded)
        while True:
            wake = min(until, machine_engine.next_scheduled_time(self._batch.clusters))
            if self._ended is None:
                self._ended = self._machine.wait(wake)
            if self._ended is None:
                return wake
            # Strictly after what was applied before, also if it is heard of late: a replay finds
            # the same order.
            time = max(self._ended.time, math.nextafter(max(self.time, self._last_end), math.inf))
            if time > wake:
                return wake
            ended, self._ended = self._ended, None
            self._last_end = time
            self._machine.applied(ended, time)
            self._running[ended.gpu] = False
            if machine_engine.end_iteration(self._batch.clusters, ended.gpu, time):
                self._expected = ended
                return time
            _require_none(ended)
            self._launch(ended.gpu)

    def follow(self, events: np.ndarray) -> None:
        """The machine carries out what the cluster's events say, and goes on.

        Args:
            events: those since the last call.
        """
        self.told.append(events)
        self._machine.told(events)
        self._require_same_completions(events)
        prefilled: dict[int, int] = {}
        for kind, request, gpu in zip(
            events["kind"].tolist(), events["index"].tolist(), events["gpu"].tolist(), strict=True
        ):
            if kind == layout.PREFILL_END:
                prefilled[request] = gpu
            elif kind in (layout.PREFILL_START, layout.DECODE_START):
                is_prefill = kind == layout.PREFILL_START
                if is_prefill or prefilled.get(request) != gpu:
                    self._sent[gpu].append(Sent(request, is_prefill))
                else:
                    # It stays in its slot; the machine goes on with it as a decode.
                    self._sent[gpu].insert(0, Sent(request, is_prefill=False))
                    del prefilled[request]
            elif kind == layout.LEAVE_DECODE and request not in prefilled:
                self._machine.drop(request)
        for request, gpu in prefilled.items():
            self._machine.park(gpu, request)
        for gpu, running in enumerate(self._running):
            if not running:
                self._launch(gpu)

    def _launch(self, gpu: int) -> None:
        """The GPU goes on if it has work."""
        clusters = self._batch.clusters
        if not machine_engine.has_work(clusters, gpu):
            return
        machine_engine.begin_iteration(clusters, gpu)
        sent, self._sent[gpu] = self._sent[gpu], []
        self._running[gpu] = True
        self._machine.start(gpu, sent, self.time)

    def _require_same_completions(self, events: np.ndarray) -> None:
        """What the machine has completed is what the cluster's clock says."""
        expected, self._expected = self._expected, None
        kinds = (layout.PREFILL_END, layout.DECODE_END)
        found = [sorted(events["index"][events["kind"] == kind].tolist()) for kind in kinds]
        told = ([], []) if expected is None else (expected.prefilled, expected.completed)
        if found != [sorted(requests) for requests in told]:
            raise RuntimeError(f"the machine ended {told}, the scheduler's clock {found}")


class _OnMachine(SimulationBatch):
    """One cluster whose iterations a machine runs."""

    def __init__(self, *arguments: Any, machine: Machine, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "log_events": _LOG_EVENTS})
        self.driver = MachineDriver(self, machine)

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        controls: np.ndarray,
        occupancy: np.ndarray | None = None,
    ) -> None:
        """As :meth:`SimulationBatch.start`, but always empty."""
        _require_empty(occupancy)
        super().start(k, seed, controls, occupancy)
        self.driver.reset()


class MachineSimulationBatch(_OnMachine):
    """One cluster under a compiled rule, on a machine.

    Args:
        *arguments: of :class:`SimulationBatch`.
        machine: runs the iterations.
        **options: of :class:`SimulationBatch`; one cluster, a recorded stream and hardware with
            ``starts = "boundary"``.
    """

    def advance(self, until: np.ndarray, first: int, last: int, *, set_controls: bool) -> None:
        """Serve until a time; as :meth:`SimulationBatch.advance`."""
        if set_controls:
            super().advance(np.array([self.driver.time]), first, last, set_controls=True)
            self.driver.follow(_drained(self))
        end = float(until[first])
        time = self.driver.time
        while time < end:
            time = self.driver.next_time(end)
            super().advance(np.array([time]), first, last, set_controls=False)
            self.driver.follow(_drained(self))

    def events(self, k: int) -> np.ndarray:
        """The whole event log, as :meth:`SimulationBatch.events`."""
        del k
        return _joined(self.driver.told)


class MachineDecisionBatch(_OnMachine, DecisionBatch):
    """One cluster that an agent schedules event by event, on a machine.

    Args:
        *arguments: of :class:`DecisionBatch`.
        machine: runs the iterations.
        **options: of :class:`DecisionBatch`, as for :class:`MachineSimulationBatch`.
    """

    def serve(self, stream: RequestStream, machine: Machine) -> None:
        """Other requests and another machine; :meth:`start` comes next."""
        checked = checked_stream(stream, self.instance.n_classes)
        self.workload = workload_tables(self.instance, checked)
        self.driver = MachineDriver(self, machine)

    def decide(self, actions: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Act, and serve until the next decision; as :meth:`DecisionBatch.decide`."""
        end = float(until[0])
        time = min(self.driver.time, end)
        finished = super().decide(actions, np.array([time]))
        # The GPUs go on when the agent has said all that it wants to start now.
        while finished[0]:
            self.driver.follow(_drained(self))
            if time >= end:
                break
            time = self.driver.next_time(min(end, self._wake_time()))
            finished = super().decide(np.array([RUN_ON]), np.array([time]))
        return finished

    def _wake_time(self) -> float:
        if not math.isfinite(self._wake_interval) or not machine_engine.can_act(self.clusters):
            return math.inf
        return self.driver.time + self._wake_interval

    def events(self, k: int) -> np.ndarray:
        """The whole event log, as :meth:`SimulationBatch.events`."""
        del k
        return _joined([*self.driver.told, self._logs[0, : self._logged]])

    @property
    def _logged(self) -> int:
        return int(self.states.clock["logged"][0, 0])


def _drained(batch: SimulationBatch) -> np.ndarray:
    """What was logged since the last call."""
    clock = batch.states.clock
    logged = int(clock["logged"][0, 0])
    events = SimulationBatch.events(batch, 0).copy()
    if logged:
        clock["logged"][0, 0] = 0
    return events


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, layout.EVENT), *parts])


def _require_whole_iterations(batch: SimulationBatch) -> None:
    if batch.n_clusters != 1:
        raise ConfigurationError("n_clusters", batch.n_clusters, "1: a machine serves one cluster")
    for group in batch.instance.groups:
        if not group.hardware.whole_iterations:
            raise ConfigurationError(
                "hardware starts", group.hardware.starts, "boundary: a machine runs iterations"
            )
        for name, value in (("cache_tokens", group.hardware.cache_tokens), ("link", group.link)):
            if value is not None:
                raise ConfigurationError(
                    f"group {group.name!r} {name}", value, "none: a machine has its own"
                )
    requests = batch.workload.recorded
    if len(requests.arrival_time) == 0:
        raise ConfigurationError("stream", None, "recorded requests, which a machine serves")
    for name in ("prompt_tokens", "output_tokens"):
        tokens = getattr(requests, name)
        if (tokens < 1).any() or (tokens % 1 != 0).any():
            raise ConfigurationError(f"stream {name}", tokens, "whole numbers >= 1")


def _require_empty(occupancy: np.ndarray | None) -> None:
    if occupancy is not None and np.any(occupancy):
        raise ConfigurationError("occupancy", occupancy, "none: a machine begins empty")


def _require_none(ended: Ended) -> None:
    if ended.prefilled or ended.completed:
        raise RuntimeError(f"the machine ended {ended}, the scheduler's clock nothing")


def _load(states: EngineState) -> None:
    """Compile or load what is called while the machine runs, on a copy."""
    copy = EngineState(*(array.copy() for array in states))
    clusters = clusters_of(copy)
    machine_engine.next_scheduled_time(clusters)
    machine_engine.has_work(clusters, 0)
    machine_engine.begin_iteration(clusters, 0)
    machine_engine.end_iteration(clusters, 0, 1.0)
    machine_engine.can_act(clusters)
