"""What an evaluation runs, resolved from its arguments once and before anything has run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, checked_integer, one_of
from llm_sched_env.evaluation.measurement import Measurement
from llm_sched_env.evaluation.scenario import GeneratedConversations, scenario
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import ServiceLevel
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.policies.runs import CompiledRuns, PythonRuns, Run, runs_of
from llm_sched_env.simulation.machine import Machine
from llm_sched_env.workloads.trace import Trace


@dataclass(frozen=True)
class PreparedRun:
    """A policy and the run that all its replications share.

    Attributes:
        name: of the policy.
        runs: how the policy is run.
        run: cluster, times, seed and requests.
        measured: what counts, and what bounds it.
    """

    name: str
    runs: CompiledRuns | PythonRuns
    run: Run
    measured: Measurement

    def bound(self) -> float:
        """R* of what is measured, currency per GPU and second; raises PlanError."""
        return self.run.cluster.bound(self.measured.bounded)


def prepared_run(
    policy: Any,
    instance: Instance | str | Path | dict[str, Any] | None = None,
    n_gpus: int = 20,
    *,
    pricing: str = "bundled",
    revenue: str = "all",
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
    horizon: float | None = None,
    warmup: float | None = None,
    seed: int = 0,
    trace: Trace | str | Path | Sequence[str | Path] | None = None,
    speed: float = 1.0,
    match_trace: bool = True,
    planned_on: Trace | None = None,
    billing: str | None = None,
    machine: Machine | None = None,
) -> PreparedRun:
    """What :func:`llm_sched_env.evaluate` runs, where the arguments are explained.

    Raises:
        ConfigurationError: for an argument that is not allowed.
    """
    if revenue not in REVENUES:
        raise ConfigurationError("revenue", revenue, one_of(REVENUES))
    seed = checked_integer("seed", seed, least=0)
    name, resolved = resolve_policy(policy)
    runs = runs_of(resolved)
    served = scenario(
        instance,
        n_gpus,
        pricing,
        slos,
        trace=trace,
        speed=speed,
        match_trace=match_trace,
        planned_on=planned_on,
        billing=billing,
    )
    measured = served.measured(horizon, warmup, runs.interval)
    run = Run(
        served.planned(measured),
        measured.horizon,
        measured.warmup,
        seed,
        served.stream(measured.horizon),
        billing,
        measured.pays_earlier_arrivals,
        revenue,
        served.conversations if isinstance(served, GeneratedConversations) else None,
        machine,
    )
    return PreparedRun(name, runs, run, measured)
