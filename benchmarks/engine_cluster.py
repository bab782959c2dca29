"""The compiled engine under gate-and-route, with the interface of the baselines."""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

GATE_AND_ROUTE = DispatchRule(gate="occupancy", router="solo-first", pools="static")


class EngineCluster:
    """One cluster of the engine, empty at time 0, or near the plan where a run must be short.

    Attributes:
        simulation: the engine's handle.
    """

    def __init__(
        self,
        instance: Instance,
        plan: FluidPlan,
        n_gpus: int,
        seed: int,
        *,
        at_plan: bool = False,
    ) -> None:
        occupancy = np.where(np.isfinite(plan.occupancy), plan.occupancy, 0.0)
        self.simulation = Simulation(
            instance,
            GATE_AND_ROUTE,
            plan.controls(n_gpus),
            n_gpus,
            np.random.SeedSequence(seed),
            occupancy if at_plan else None,
        )
        self._until = 0.0

    @property
    def events(self) -> int:
        """Arrivals, completions of prefills and decodes, and abandonments so far."""
        return self.simulation.metrics().events

    def advance(self, seconds: float) -> int:
        """Simulate this many seconds more; how many events happened."""
        before = self.events
        self._until += seconds
        self.simulation.run(self._until)
        return self.events - before
