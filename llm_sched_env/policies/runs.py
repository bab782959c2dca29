"""Run replications of a policy: a compiled rule, or Python called at intervals or decisions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.envs.actions import as_actions
from llm_sched_env.envs.configuration import CONTROL_MEANING, IntervalConfiguration
from llm_sched_env.envs.event_configuration import EVENT_MEANING, EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import ROUTING_MEANING, RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError, is_finite_number, one_of
from llm_sched_env.model.drawn_conversations import draw_requests
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.plugins.user_code import note_place, user_code
from llm_sched_env.policies.loaded_code import load_control, load_engine
from llm_sched_env.policies.registry import PythonPolicy
from llm_sched_env.policies.rolling_horizon import plan_changes, planned_simulation, run_under_plans
from llm_sched_env.policies.timing import Span, timed
from llm_sched_env.simulation.decision_batch import DecisionBatch
from llm_sched_env.simulation.events.metrics import Metrics
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.machine import Machine
from llm_sched_env.simulation.machine_batch import MachineDecisionBatch, MachineSimulationBatch
from llm_sched_env.simulation.routed_batch import RoutedBatch
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.fresh_state import cluster_bytes
from llm_sched_env.simulation.state.layout import HISTOGRAM_BINS, N_LATENCIES, RequestStream
from llm_sched_env.simulation.state.memory import require_memory

_POLICY_STREAM = 1
_MEANING = {"interval": CONTROL_MEANING, "event": EVENT_MEANING, "routing": ROUTING_MEANING}
_BATCHES: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {
    "compiled": (SimulationBatch, MachineSimulationBatch),
    "event": (DecisionBatch, MachineDecisionBatch),
    "routing": (RoutedBatch, None),
}


@dataclass(frozen=True)
class Run:
    """What all replications of an evaluation share.

    ``pays_earlier_arrivals``: whether requests that arrived in the warm-up earn when they end.
    ``conversations``: whose requests share prefixes and are drawn for each replication; or None.
    ``machine``: what runs the iterations; None: they are simulated.
    """

    cluster: Cluster
    horizon: float
    warmup: float
    seed: int
    stream: RequestStream | None
    billing: str | None
    pays_earlier_arrivals: bool
    revenue: str
    conversations: Instance | None = None
    machine: Machine | None = None

    def stream_of(self, replication: int) -> RequestStream | None:
        """The recorded requests of a replication; None: they are drawn in the engine."""
        if self.conversations is None:
            return self.stream
        seed = self.seed_of(replication)
        drawn = draw_requests(self.conversations, self.cluster.n_gpus, self.horizon, seed)
        return RequestStream(*drawn[:4], np.empty(0), drawn.session, *drawn.blocks.arrays)

    def mechanics(self, replication: int) -> dict[str, Any]:
        """Arguments of the control of one cluster, under either kind of control."""
        return {
            "n_clusters": 1,
            "stream": self.stream_of(replication),
            "latencies": True,
            "billing": self.billing,
        }

    def batch_type(self, kind: str) -> Callable[..., Any]:
        """What builds the cluster: of a ``compiled`` rule, or of an agent, by its control."""
        simulated, served = _BATCHES[kind]
        if self.machine is None:
            return simulated
        if served is None:
            raise ConfigurationError(
                "machine", self.machine, f"none with {kind} control", "simulate the policy"
            )
        return partial(served, machine=self.machine)

    def seed_of(self, replication: int) -> np.random.SeedSequence:
        """Streams of a replication."""
        return replication_seed(self.seed, replication)


class Replications(NamedTuple):
    """What replications measured.

    Attributes:
        metrics: of replications 0, 1, ...
        decision_seconds: wall time of each action of a Python policy, of all replications.
        spans: when each replication ran.
    """

    metrics: list[Metrics]
    decision_seconds: list[float]
    spans: list[Span]


def runs_of(policy: DispatchRule | PythonPolicy) -> CompiledRuns | PythonRuns:
    """How a policy is run; raises ConfigurationError for an environment that cannot be."""
    return CompiledRuns(policy) if isinstance(policy, DispatchRule) else PythonRuns.of(policy)


def require_memory_of_runs(
    runs: CompiledRuns | PythonRuns, cluster: Cluster, replications: int, jobs: int
) -> None:
    """Refuse what does not fit into memory before anything has run.

    Args:
        runs: of a policy.
        cluster: what is simulated.
        replications: how many; of each the latency histograms are kept.
        jobs: of them at the same time.

    Raises:
        InsufficientMemoryError: in one line, with the bytes that are needed and available.
    """
    instance, n_gpus = cluster.instance, cluster.n_gpus
    rule, at_once = DispatchRule(), 1
    if isinstance(runs, CompiledRuns):
        rule, at_once = runs.rule, min(replications, jobs)
    # Beside each cluster lies a fresh one, from which it starts.
    clusters = 2 * at_once * cluster_bytes(instance, rule, n_gpus, latencies=True)
    histograms = 8 * N_LATENCIES * instance.n_classes * HISTOGRAM_BINS
    slots = max(group.hardware.batch_slots for group in instance.groups)
    require_memory(
        clusters + replications * histograms,
        f"{replications:,} replications of {n_gpus:,} GPUs with {slots:,} slots each, "
        f"{at_once} at the same time,",
    )


@dataclass(frozen=True)
class CompiledRuns:
    """Of a compiled rule steered by the plan."""

    rule: DispatchRule
    interval: None = None

    def replicate(self, run: Run, replications: int, jobs: int) -> Replications:
        """Replications 0, 1, ...; so many at the same time."""
        # Once, not per thread.
        plan_changes(self.rule, run.cluster.plan, run.cluster.n_gpus, run.horizon)
        load_engine()
        with ThreadPoolExecutor(min(replications, jobs)) as pool:
            found = list(pool.map(lambda k: self._measured(run, k), range(replications)))
        return Replications([metrics for metrics, _ in found], [], [span for _, span in found])

    def replication(self, run: Run, k: int) -> Replications:
        """Replication k alone."""
        load_engine()
        metrics, span = self._measured(run, k)
        return Replications([metrics], [], [span])

    def _measured(self, run: Run, replication: int) -> tuple[Metrics, Span]:
        n_gpus, fixed = run.cluster.n_gpus, run.cluster.plan
        simulation = planned_simulation(
            run.cluster.instance,
            self.rule,
            fixed,
            n_gpus,
            run.seed_of(replication),
            stream=run.stream_of(replication),
            billing=run.billing,
            batch_type=run.batch_type("compiled"),
        )
        changes = plan_changes(self.rule, fixed, n_gpus, run.horizon)
        spans: list[Span] = []
        with timed(spans):
            if run.warmup > 0:
                run_under_plans(simulation.batch, changes, 0.0, run.warmup)
                simulation.reset_metrics(pay_earlier_arrivals=run.pays_earlier_arrivals)
            run_under_plans(simulation.batch, changes, run.warmup, run.horizon)
        return simulation.metrics(), spans[0]


@dataclass(frozen=True)
class PythonRuns:
    """Of a policy in Python, in the environment that its actions mean.

    Attributes:
        policy: what acts.
        control: ``interval`` (``LLMSched-v0``), ``event`` (``LLMSchedEvent-v0``) or ``routing``
            (``LLMSchedRouting-v0``).
        arguments: of that environment.
    """

    policy: PythonPolicy
    control: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, policy: PythonPolicy) -> PythonRuns:
        """Read a policy's attribute ``environment``; raises ConfigurationError."""
        with user_code(_named(policy)):
            given = getattr(policy, "environment", {})
        if not isinstance(given, Mapping):
            raise ConfigurationError("policy.environment", given, "a mapping of arguments by name")
        arguments = dict(given)
        control = arguments.pop("control", "interval")
        if not isinstance(control, str) or control not in _MEANING:
            raise ConfigurationError("policy.environment control", control, one_of(_MEANING))
        unknown = sorted(map(str, set(arguments) - set(_MEANING[control])))
        if unknown:
            allowed = f"control, {', '.join(_MEANING[control])} with {control} control"
            raise ConfigurationError("policy.environment", unknown, allowed)
        if not is_finite_number(arguments.get("interval", 1.0), positive=True):
            raise ConfigurationError(
                "policy.environment interval",
                arguments["interval"],
                "a finite number of seconds > 0",
            )
        return cls(policy, control, arguments)

    @property
    def interval(self) -> float | None:
        """Seconds between actions; None at events."""
        return self.arguments.get("interval", 1.0) if self.control == "interval" else None

    def replicate(self, run: Run, replications: int, jobs: int) -> Replications:
        """Replications 0, 1, ..., one by one."""
        del jobs
        found = Replications([], [], [])
        for k in range(replications):
            self._add(run, k, found)
        return found

    def replication(self, run: Run, k: int) -> Replications:
        """Replication k alone."""
        found = Replications([], [], [])
        self._add(run, k, found)
        return found

    def _add(self, run: Run, replication: int, found: Replications) -> None:
        """Run a replication and add what it measured."""
        load_control(self.control)
        simulate = self._at_intervals if self.control == "interval" else self._at_decisions
        found.metrics.append(simulate(run, replication, found))

    def _act(self, observation: np.ndarray, info: dict[str, Any], found: Replications) -> Any:
        """The policy's action; how long it took is appended."""
        asked = time.perf_counter()
        try:
            action = self.policy.act(observation, info)
        except (Exception, SystemExit) as error:
            note_place(error, _named(self.policy))
            raise
        found.decision_seconds.append(time.perf_counter() - asked)
        return action

    def _reset_policy(self, run: Run, replication: int) -> None:
        seed = np.random.SeedSequence(run.seed, spawn_key=(replication, _POLICY_STREAM))
        rng = np.random.default_rng(seed)
        cluster = run.cluster
        with user_code(_named(self.policy)):
            self.policy.reset(cluster.instance, cluster.plan, cluster.n_gpus, rng)

    def _at_intervals(self, run: Run, replication: int, found: Replications) -> Metrics:
        chosen = IntervalConfiguration.validated(
            run.cluster.instance, run.cluster.n_gpus, horizon=run.horizon, **self.arguments
        )
        configuration = dataclasses.replace(chosen, cluster=run.cluster)
        control = IntervalControl(
            configuration, **run.mechanics(replication), batch_type=run.batch_type("compiled")
        )
        control.start(0, run.seed_of(replication))
        self._reset_policy(run, replication)
        shape = control.action_space.shape or ()
        report = control.report()
        warmup_steps = round(run.warmup / configuration.interval)
        with timed(found.spans):
            for step in range(configuration.steps):
                if step == warmup_steps and step > 0:
                    control.reset_metrics(0, pay_earlier_arrivals=run.pays_earlier_arrivals)
                action = self._act(report.observations[0], control.info(0, report), found)
                report = control.empty_report()
                control.step(as_actions(action, shape)[None], report)
        return control.batch.metrics(0)

    def _decision_control(self, run: Run, replication: int) -> EventControl | RoutingControl:
        mechanics = {
            **run.mechanics(replication),
            "batch_type": run.batch_type(self.control),
        }
        if self.control == "event":
            events = EventConfiguration.validated(horizon=run.horizon, **self.arguments)
            return EventControl(dataclasses.replace(events, cluster=run.cluster), **mechanics)
        routing = RoutingConfiguration.validated(horizon=run.horizon, **self.arguments)
        return RoutingControl(dataclasses.replace(routing, cluster=run.cluster), **mechanics)

    def _at_decisions(self, run: Run, replication: int, found: Replications) -> Metrics:
        control: Any = self._decision_control(run, replication)
        control.start(0, run.seed_of(replication), end=run.warmup if run.warmup > 0 else None)
        self._reset_policy(run, replication)
        report = control.report()
        with timed(found.spans):
            if run.warmup > 0:
                self._decide_to_the_end(control, report, found)
                control.reset_metrics(0, pay_earlier_arrivals=run.pays_earlier_arrivals)
                control.end_at(0, run.horizon)
                report = control.empty_report()
                control.resume(report)
            self._decide_to_the_end(control, report, found)
        metrics: Metrics = control.batch.metrics(0)
        return metrics

    def _decide_to_the_end(self, control: Any, report: Any, found: Replications) -> None:
        """Ask the policy for actions until the episode ends."""
        while not control.truncated()[0]:
            action = self._act(report.observations[0], control.info(0, report), found)
            report = control.empty_report()
            control.step([action], report)


def _named(policy: PythonPolicy) -> str:
    """A policy's class, for messages."""
    kind = type(policy)
    return f"policy {kind.__module__}:{kind.__qualname__}"
