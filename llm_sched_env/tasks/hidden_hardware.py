"""Hidden hardware: the speeds of the GPUs are drawn for each episode, and nobody is told.

Seconds of an iteration with a prefill and of one without are scaled by factors of their own, both
log-uniform. Policies go by the plan of the hardware as it is named.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.policies.registry import PythonPolicy
from llm_sched_env.policies.runs import Run
from llm_sched_env.simulation.simulation import SimulationBatch
from llm_sched_env.simulation.state.fresh_state import fresh_state
from llm_sched_env.tasks.forms import Form
from llm_sched_env.tasks.wrapped_policies import WrappedPolicy

# Of the seeds that follow from that of an episode, the one of its hardware.
_STREAM = 11


@dataclass(frozen=True)
class HiddenHardware(Form):
    """Two factors on the seconds of iterations of two-speed hardware, log-uniform.

    Args:
        mixed_seconds: least and greatest factor on an iteration with a prefill.
        solo_seconds: ... on an iteration without one.

    Example:
        >>> from llm_sched_env.presets import base
        >>> law = HiddenHardware(mixed_seconds=(0.5, 2.0), solo_seconds=(1.0, 1.0))
        >>> drawn = law.drawn(base(), np.random.SeedSequence(0)).only_hardware
        >>> 0.5 <= drawn.tau_mixed / base().only_hardware.tau_mixed <= 2.0
        True
    """

    mixed_seconds: tuple[float, float]
    solo_seconds: tuple[float, float]

    def drawn(self, instance: Instance, seed: np.random.SeedSequence) -> Instance:
        """The instance of an episode with this seed; always the same."""
        own = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, _STREAM))
        ranges = np.log([self.mixed_seconds, self.solo_seconds])
        mixed, solo = np.exp(np.random.default_rng(own).uniform(*ranges.T))
        given = _two_speed(instance.only_hardware)
        hardware = dataclasses.replace(
            given,
            alpha=float(mixed * given.alpha),
            beta=float(mixed * given.beta),
            gamma=float(given.gamma / solo),
        )
        return dataclasses.replace(instance, hardware=hardware)

    def interval_control(
        self, configuration: IntervalConfiguration, n_clusters: int, threads: int
    ) -> IntervalControl:
        """Clusters whose hardware is drawn at each start."""
        _two_speed(configuration.cluster.instance.only_hardware)
        batch = partial(HiddenHardwareBatch, law=self)
        return IntervalControl(configuration, n_clusters, threads=threads, batch_type=batch)

    def agent(self, policy: PythonPolicy, cluster: Cluster) -> PythonPolicy:
        """One that is told the hardware as it is named."""
        return _Uninformed(policy, cluster)

    def run_of(self, run: Run, replication: int) -> Run:
        """On hardware of its own, under the plan of the one that is named."""
        own = self.drawn(run.cluster.instance, run.seed_of(replication))
        hidden = HiddenCluster(own, run.cluster.n_gpus, run.cluster.pricing, known=run.cluster)
        return dataclasses.replace(run, cluster=hidden)

    def bounds(self, run: Run, bound: float, replications: int) -> list[float]:  # noqa: ARG002
        """R* on each replication's hardware."""
        instances = [self.drawn(run.cluster.instance, run.seed_of(k)) for k in range(replications)]
        return [dataclasses.replace(run.cluster, instance=i).bound(i) for i in instances]


@dataclass(frozen=True)
class HiddenCluster(Cluster):
    """A cluster whose policies plan for another one.

    Attributes:
        known: what they plan for.
    """

    known: Cluster | None = None

    @property
    def plan(self) -> FluidPlan:
        """The plan of the hardware as it is named."""
        assert self.known is not None
        return self.known.plan


class HiddenHardwareBatch(SimulationBatch):
    """Clusters that start with hardware of their own, drawn from the seed of the episode.

    Args:
        instance: as it is named, of all clusters; the rule goes by it.
        *settings: those of :class:`SimulationBatch`.
        law: of what is drawn.
        **more: likewise.
    """

    def __init__(
        self, instance: Instance, *settings: Any, law: HiddenHardware, **more: Any
    ) -> None:
        super().__init__(instance, *settings, **more)
        self._law = law
        self._recorded = len(self.workload.recorded.arrival_time) > 0

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        controls: np.ndarray,
        occupancy: np.ndarray | None = None,
    ) -> None:
        """Start cluster k anew at time 0, on hardware that its seed decides."""
        drawn = fresh_state(
            self._law.drawn(self.instance, seed),
            self.rule,
            self.n_gpus,
            latencies=False,
            recorded=self._recorded,
            own_tokens=False,
        )
        # All that the speed of a GPU decides.
        self._fresh.groups[...] = drawn.groups
        self._fresh.control["prefill_rate"] = drawn.control["prefill_rate"]
        super().start(k, seed, controls, occupancy)


class _Uninformed(WrappedPolicy):
    """A policy that is told of a cluster what everybody is told.

    Args:
        policy: which.
        cluster: as it is named.
    """

    def __init__(self, policy: PythonPolicy, cluster: Cluster) -> None:
        super().__init__(policy)
        self._cluster = cluster

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        del instance, plan
        self.policy.reset(self._cluster.instance, self._cluster.plan, n_gpus, rng)


def _two_speed(hardware: Hardware) -> Hardware:
    """The hardware, if its law is the one whose speeds are drawn."""
    if hardware.iteration_law != "two-speed":
        raise ConfigurationError(
            "iteration_law",
            hardware.iteration_law,
            "two-speed where hardware is hidden",
            "take an instance without measured hardware",
        )
    return hardware
