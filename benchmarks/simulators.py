"""The benchmarked simulators: the engine, baselines of the same model, and a lower bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan

# Above this many GPUs the warm-up alone takes Ciw minutes: its cost of an event grows with n.
_CIW_MOST_GPUS = 100


class Cluster(Protocol):
    """A simulated cluster that starts empty."""

    def advance(self, seconds: float) -> int:
        """Simulate this many seconds more; how many events happened.

        An event is an arrival, a completion of a prefill or decode, or an abandonment.
        """
        ...


@dataclass(frozen=True)
class Simulator:
    """One way to simulate gate-and-route.

    Attributes:
        name: on the command line and in tables.
        model: what it simulates.
        build: makes an empty cluster from instance, plan, number of GPUs and seed.
        package: what must be installed for it, if anything.
        most_gpus: larger clusters are not measured.
    """

    name: str
    model: str
    build: Callable[[Instance, FluidPlan, int, int], Cluster]
    package: str = ""
    most_gpus: float = float("inf")

    def obstacle(self, n_gpus: int) -> str:
        """Why this simulator is not measured here; empty if it is."""
        if not self.available():
            return f"not installed: pip install {self.package}"
        if n_gpus > self.most_gpus:
            return f"not run above {self.most_gpus:.0f} GPUs: an event costs O(n)"
        return ""

    def available(self) -> bool:
        """Whether its package is installed."""
        return not self.package or find_spec(self.package) is not None

    def prepare(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, seed: int, warmup: float
    ) -> Callable[[float], int]:
        """A cluster after its warm-up (seconds), as a function that advances it."""
        cluster = self.build(instance, plan, n_gpus, seed)
        cluster.advance(warmup)
        return cluster.advance


def _engine(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.engine_cluster import EngineCluster

    return EngineCluster(instance, plan, n_gpus, seed)


def _kv_aware(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.engine_cluster import EngineCluster
    from llm_sched_env.benchmarks.kv_aware_analogue import kv_aware_analogue

    return EngineCluster(kv_aware_analogue(instance), plan, n_gpus, seed)


def _heapq(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.heapq_loop import HeapqCluster

    return HeapqCluster(instance, plan, n_gpus, seed)


def _simpy(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.simpy_model import SimpyCluster

    return SimpyCluster(instance, plan, n_gpus, seed)


def _ciw(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.ciw_model import CiwCluster

    return CiwCluster(instance, plan, n_gpus, seed)


def _floor(instance: Instance, plan: FluidPlan, n_gpus: int, seed: int) -> Cluster:
    from llm_sched_env.benchmarks.floor import Floor

    return Floor(instance, plan, n_gpus, seed)


ENGINE = Simulator("llm-sched-env", "gate-and-route", _engine)
FLOOR = Simulator("floor", "two draws and a scan of the rates", _floor)
SIMULATORS = (
    ENGINE,
    Simulator("llm-sched-env-kv", "the same, KV-aware iterations", _kv_aware),
    Simulator("heapq", "gate-and-route", _heapq),
    Simulator("simpy", "gate-and-route", _simpy, "simpy"),
    Simulator("ciw", "speeds fixed during service", _ciw, "ciw", _CIW_MOST_GPUS),
    FLOOR,
)


def chosen_simulators(names: Sequence[str]) -> tuple[Simulator, ...]:
    """Simulators by name; the engine, which all others are compared with, is always first.

    Raises:
        ConfigurationError: for a name that does not exist.
    """
    known = {simulator.name: simulator for simulator in SIMULATORS}
    for name in names:
        if name not in known:
            raise ConfigurationError("--simulators", name, f"some of {', '.join(known)}")
    return (ENGINE, *(c for c in SIMULATORS if c is not ENGINE and c.name in names))
