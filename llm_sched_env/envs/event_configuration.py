"""Arguments of an event-driven environment: their meaning, types and defaults, validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from llm_sched_env.envs.configuration import STARTS, require_choice, require_seconds
from llm_sched_env.envs.costs import Costs
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.scheduling.rules import EventDispatch

# Less might not move a clock of many hours.
_LEAST_WAKE_INTERVAL = 1e-6


class EventArguments(TypedDict, total=False):
    """Arguments of ``LLMSchedEvent-v0`` in all its forms, besides ``n_gpus`` and ``render_mode``.

    Args:
        instance: preset name, instance file, plain data or :class:`Instance`; default ``base``.
        pricing: ``bundled`` (default) or ``separate``.
        revenue: which completed requests are paid for: ``all`` (default), or ``goodput``: those
            that met the deadlines of their class, whole and at completion under either pricing.
        horizon: seconds per episode, default 300.
        router: ``agent`` (default): the agent sends each decode to a solo or a mixed GPU;
            ``randomized``: the plan's probability assigns each finished prefill to solo or mixed
            GPUs, the agent says when it starts there; ``coupled``: a decode stays where its
            prefill was, nothing is left to route.
        pools: ``static`` (default), the plan's mixed pool, or ``dynamic``: any GPU may prefill,
            and mixed are those with a prefill.
        wake_interval: longest wait, in seconds, while something else is possible; default none.
        start: ``empty`` (default) or ``plan``, near the fluid optimum.
        costs: names of costs in ``info["costs"]``, of :data:`.COST_NAMES` or import paths of
            service levels; default: those of ``budgets``, none without.
        budgets: by name, the greatest sum of a cost over an episode that a constrained agent is
            allowed; it changes neither rewards nor observations.
    """

    instance: Instance | str | Path | dict[str, Any]
    pricing: str
    revenue: str
    horizon: float
    router: str
    pools: str
    wake_interval: float | None
    start: str
    costs: Sequence[str]
    budgets: Mapping[str, float] | None


@dataclass(frozen=True)
class EventConfiguration:
    """Validated :class:`EventArguments`."""

    cluster: Cluster
    revenue: str
    horizon: float
    rule: EventDispatch
    wake_interval: float | None
    start: str
    costs: Costs | None

    @classmethod
    def validated(
        cls,
        instance: Instance | str | Path | dict[str, Any] = "base",
        n_gpus: int = 20,
        pricing: str = "bundled",
        revenue: str = "all",
        horizon: float = 300.0,
        router: str = "agent",
        pools: str = "static",
        wake_interval: float | None = None,
        start: str = "empty",
        costs: Sequence[str] = (),
        budgets: Mapping[str, float] | None = None,
    ) -> EventConfiguration:
        """Check every argument; raises ConfigurationError. The defaults are those of v0."""
        require_choice("revenue", revenue, REVENUES)
        require_choice("start", start, STARTS)
        require_seconds("horizon", horizon)
        if wake_interval is not None:
            require_seconds("wake_interval", wake_interval)
            if wake_interval < _LEAST_WAKE_INTERVAL:
                raise ConfigurationError(
                    "wake_interval", wake_interval, f"None or at least {_LEAST_WAKE_INTERVAL:g} s"
                )
        cluster = Cluster.of(instance, n_gpus, pricing)
        return cls(
            cluster=cluster,
            revenue=revenue,
            horizon=float(horizon),
            rule=EventDispatch(router, pools),
            wake_interval=None if wake_interval is None else float(wake_interval),
            start=start,
            costs=Costs.checked(costs, budgets, cluster),
        )

    @property
    def episode_seconds(self) -> float:
        """Seconds of a whole episode."""
        return self.horizon


EVENT_MEANING = ("router", "pools", "wake_interval")
"""Arguments that say what an action means: what a policy may ask for."""
