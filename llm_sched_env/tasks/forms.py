"""What a task adds to its base environment: nothing, as here, or what a subclass says."""

from __future__ import annotations

from typing import Any

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.policies.registry import PythonPolicy
from llm_sched_env.policies.runs import Run


class Form:
    """The base environment as it is, and its evaluation likewise."""

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the environment, from those of the task and of who makes it."""
        return given

    def interval_control(
        self, configuration: IntervalConfiguration, n_clusters: int, threads: int
    ) -> IntervalControl:
        """What runs N clusters of a task on ``LLMSched-v0``."""
        return IntervalControl(configuration, n_clusters, threads=threads)

    def routing_control(
        self, configuration: RoutingConfiguration, n_clusters: int, threads: int
    ) -> RoutingControl:
        """What runs N clusters of a task on ``LLMSchedRouting-v0``."""
        return RoutingControl(configuration, n_clusters, threads=threads)

    def requests(self, n_gpus: int) -> dict[str, Any]:  # noqa: ARG002 - of those that replay
        """Further arguments of :func:`llm_sched_env.evaluate`: what is served."""
        return {}

    def agent(self, policy: PythonPolicy, cluster: Cluster) -> PythonPolicy:  # noqa: ARG002
        """A policy in Python as it is evaluated on the cluster that is planned for."""
        return policy

    def run_of(self, run: Run, replication: int) -> Run:  # noqa: ARG002
        """What a replication runs."""
        return run

    def bounds(self, run: Run, bound: float, replications: int) -> list[float]:  # noqa: ARG002
        """The fluid bound of each replication, currency per GPU and second.

        Args:
            run: that all replications share.
            bound: R* of what is measured in it.
            replications: how many.
        """
        return [bound] * replications
