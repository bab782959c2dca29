"""A cluster and what it is planned for: requests, GPUs, pricing, service levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llm_sched_env.errors import ConfigurationError, checked_integer, one_of
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.fluid import plan
from llm_sched_env.planning.fluid_plan import PRICINGS, FluidPlan
from llm_sched_env.planning.reuse_bound import by_reuse
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.planning.service_levels import ServiceLevel
from llm_sched_env.presets import resolve_instance


@dataclass(frozen=True)
class Cluster:
    """GPUs that serve the requests of an instance; :meth:`of` checks what users give.

    Attributes:
        instance: request classes, hardware and prices; groups have the shares that they have
            among n GPUs.
        n_gpus: cluster size n.
        pricing: ``bundled`` or ``separate``.
        slos: service-level objectives of the plan.
    """

    instance: Instance
    n_gpus: int
    pricing: str = "bundled"
    slos: tuple[ServiceLevel, ...] = ()

    @classmethod
    def of(
        cls,
        instance: Instance | str | Path | dict[str, Any],
        n_gpus: int,
        pricing: str = "bundled",
        slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
    ) -> Cluster:
        """The cluster of arguments as :func:`llm_sched_env.evaluate` takes them.

        Raises:
            ConfigurationError: for an argument that is not allowed.
        """
        n_gpus = checked_integer("n_gpus", n_gpus)
        if not isinstance(pricing, str) or pricing not in PRICINGS:
            raise ConfigurationError("pricing", pricing, one_of(PRICINGS))
        # The bound holds for the GPUs that there are: shares of groups are those of n GPUs.
        known = resolve_instance(instance).of_size(n_gpus)
        return cls(known, n_gpus, pricing, checked_service_levels(slos))

    @cached_property
    def plan(self) -> FluidPlan:
        """The fluid plan with the service levels, solved once; raises PlanError."""
        return plan(self.instance, self.pricing, slos=self.slos)

    def bound(self, measured: Instance) -> float:
        """R* of the requests that are measured, currency per GPU and second; raises PlanError.

        Where prompts are reused, of a policy that may choose among them (:mod:`.reuse_bound`).
        """
        bounded = by_reuse(measured)
        if bounded is self.instance:
            return self.plan.value
        return plan(bounded, self.pricing).value
