"""A cluster under a policy that is advanced bit by bit, to be looked at in between."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, cast

import numpy as np

from llm_sched_env.envs.actions import as_actions
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.plugins.user_code import user_code
from llm_sched_env.policies.registry import PythonPolicy, resolve_policy
from llm_sched_env.policies.rolling_horizon import plan_changes, planned_simulation, run_under_plans
from llm_sched_env.policies.runs import PythonRuns
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.state.layout import EngineState


class LiveCluster(Protocol):
    """A cluster that waits to go on."""

    name: str
    """Of its policy."""

    @property
    def state(self) -> EngineState:
        """As it is now."""

    def advance(self, until: float) -> None:
        """Go on to a time, seconds; to the end of the interval that reaches it."""


def live_cluster(policy: Any, cluster: Cluster, horizon: float, seed: int) -> LiveCluster:
    """An empty cluster under a policy; the same seed brings the same requests to each.

    Args:
        policy: a registered name, ``package.module:Name``, a checkpoint, a rule or an object.
        cluster: instance, size, pricing and plan.
        horizon: seconds that it may go on for.
        seed: of arrivals, lengths, patience and routing.

    Raises:
        ConfigurationError: for what is no policy.

    Example:
        >>> from llm_sched_env.planning.cluster import Cluster
        >>> live = live_cluster("fcfs-immediate", Cluster.of("base", 3), horizon=60.0, seed=0)
        >>> live.advance(5.0)
        >>> float(live.state.clock["time"][0])
        5.0
    """
    name, resolved = resolve_policy(policy)
    streams = replication_seed(seed, 0)
    if isinstance(resolved, DispatchRule):
        return _UnderRule(name, resolved, cluster, horizon, streams)
    runs = PythonRuns.of(resolved)
    with user_code(f"policy {name}"):
        rng = np.random.default_rng(seed)
        resolved.reset(cluster.instance, cluster.plan, cluster.n_gpus, rng)
    live = _LIVE[runs.control]
    control = live.control(runs.arguments, cluster, horizon)
    watched: LiveCluster = live(name, resolved, control, streams)
    return watched


class _UnderRule:
    """Under a compiled rule that goes by the plan, or by plans that are known in advance."""

    def __init__(
        self,
        name: str,
        rule: DispatchRule,
        cluster: Cluster,
        horizon: float,
        seed: np.random.SeedSequence,
    ) -> None:
        self.name = name
        self._simulation = planned_simulation(
            cluster.instance, rule, cluster.plan, cluster.n_gpus, seed
        )
        self._changes = plan_changes(rule, cluster.plan, cluster.n_gpus, horizon)

    @property
    def state(self) -> EngineState:
        return self._simulation.state

    def advance(self, until: float) -> None:
        now = self._simulation.time
        if until > now:
            run_under_plans(self._simulation.batch, self._changes, now, until)


class _UnderAgent:
    """Under a policy in Python, whose control has started."""

    def __init__(
        self, name: str, policy: PythonPolicy, control: Any, seed: np.random.SeedSequence
    ) -> None:
        self.name, self._policy, self._control = name, policy, control
        self._start(seed)
        self._report = control.report()

    def _start(self, seed: np.random.SeedSequence) -> None:
        self._control.start(0, seed)

    @property
    def state(self) -> EngineState:
        return cast("EngineState", self._control.batch.state(0))

    def _choose(self) -> Any:
        """What the policy does next; the report is empty afterwards."""
        info = self._control.info(0, self._report)
        with user_code(f"policy {self.name}"):
            action = self._policy.act(self._report.observations[0], info)
        self._report = self._control.empty_report()
        return action


class _AtIntervals(_UnderAgent):
    """It acts once an interval."""

    @staticmethod
    def control(arguments: dict[str, Any], cluster: Cluster, horizon: float) -> IntervalControl:
        chosen = IntervalConfiguration.validated(
            cluster.instance, cluster.n_gpus, horizon=horizon, **arguments
        )
        return IntervalControl(dataclasses.replace(chosen, cluster=cluster))

    def advance(self, until: float) -> None:
        control = self._control
        shape = control.action_space.shape or ()
        while control.times()[0] < until - 1e-9 and not control.truncated()[0]:
            action = self._choose()
            control.step(as_actions(action, shape)[None], self._report)


class _AtDecisions(_UnderAgent):
    """It decides request by request."""

    def advance(self, until: float) -> None:
        control = self._control
        if until <= control.times()[0]:
            return
        control.end_at(0, until)
        if control.truncated()[0]:  # it had stopped between two decisions
            self._report = control.empty_report()
            control.resume(self._report)
        while not control.truncated()[0]:
            action = self._choose()
            control.step([action], self._report)


class _AtEvents(_AtDecisions):
    """At every event."""

    @staticmethod
    def control(arguments: dict[str, Any], cluster: Cluster, horizon: float) -> EventControl:
        chosen = EventConfiguration.validated(horizon=horizon, **arguments)
        return EventControl(dataclasses.replace(chosen, cluster=cluster))


class _AtArrivals(_AtDecisions):
    """It sends each request that comes to a GPU."""

    def _start(self, seed: np.random.SeedSequence) -> None:
        self._control.start(0, seed, end=0.0)  # not yet up to the first arrival

    @staticmethod
    def control(arguments: dict[str, Any], cluster: Cluster, horizon: float) -> RoutingControl:
        chosen = RoutingConfiguration.validated(horizon=horizon, **arguments)
        return RoutingControl(dataclasses.replace(chosen, cluster=cluster))


_LIVE: dict[str, Any] = {"interval": _AtIntervals, "event": _AtEvents, "routing": _AtArrivals}
