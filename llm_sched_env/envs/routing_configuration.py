"""Arguments of an environment that routes arrivals: meaning, types and defaults, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from llm_sched_env.envs.configuration import STARTS, require_choice, require_seconds
from llm_sched_env.envs.costs import Costs
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.model.drawn_conversations import with_turns
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.scheduling.rules import RoutedDispatch

LOADS = ("work", "requests")
_MOST_CANDIDATES = 1024


class RoutingArguments(TypedDict, total=False):
    """Arguments of ``LLMSchedRouting-v0`` in all its forms, besides ``n_gpus`` and ``render_mode``.

    Args:
        instance: preset name, instance file, plain data or :class:`Instance`; default ``base``.
        pricing: ``bundled`` (default) or ``separate``.
        revenue: which completed requests are paid for: ``all`` (default), or ``goodput``: those
            that met the deadlines of their class, whole and at completion under either pricing.
        horizon: seconds per episode, default 300.
        candidates: k, default 4: of each group of GPUs that may prefill the agent chooses among
            the k with the longest match and the k with the least load.
        load: what the least is of: ``work`` (default), seconds of prefills that a GPU has to do, or
            ``requests``, those that wait and those in service, per slot.
        scheduler: of each GPU, what it admits next of its queue: ``fcfs`` (default),
            ``static-priority`` (classes in the order of the instance) or ``shortest-prompt``.
        refresh_seconds: between refreshes of what the agent is shown of GPUs, default 0: always
            true. What it has sent itself it is shown at once.
        start: ``empty`` (default) or ``plan``, near the fluid optimum, with empty caches.
        costs: names of costs in ``info["costs"]``, of :data:`.COST_NAMES` or import paths of
            service levels; default: those of ``budgets``, none without.
        budgets: by name, the greatest sum of a cost over an episode that a constrained agent is
            allowed; it changes neither rewards nor observations.
    """

    instance: Instance | str | Path | dict[str, Any]
    pricing: str
    revenue: str
    horizon: float
    candidates: int
    load: str
    scheduler: str
    refresh_seconds: float
    start: str
    costs: Sequence[str]
    budgets: Mapping[str, float] | None


@dataclass(frozen=True)
class RoutingConfiguration:
    """Validated :class:`RoutingArguments`.

    ``conversations`` is the instance as given where its requests share prefixes: they are drawn
    for each episode, and the instance of the cluster has the lengths of all turns. Else None.
    """

    cluster: Cluster
    conversations: Instance | None
    revenue: str
    horizon: float
    candidates: int
    load: str
    rule: RoutedDispatch
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
        candidates: int = 4,
        load: str = "work",
        scheduler: str = "fcfs",
        refresh_seconds: float = 0.0,
        start: str = "empty",
        costs: Sequence[str] = (),
        budgets: Mapping[str, float] | None = None,
    ) -> RoutingConfiguration:
        """Check every argument; raises ConfigurationError. The defaults are those of v0."""
        require_choice("revenue", revenue, REVENUES)
        require_choice("start", start, STARTS)
        require_choice("load", load, LOADS)
        require_seconds("horizon", horizon)
        if checked_integer("candidates", candidates) > _MOST_CANDIDATES:
            raise ConfigurationError("candidates", candidates, f"at most {_MOST_CANDIDATES}")
        rule = RoutedDispatch(scheduler, refresh_seconds)
        cluster, conversations = Cluster.of(instance, n_gpus, pricing), None
        if cluster.instance.shares_prefixes:
            conversations = cluster.instance
            cluster = dataclasses.replace(cluster, instance=with_turns(conversations))
        return cls(
            cluster=cluster,
            conversations=conversations,
            revenue=revenue,
            horizon=float(horizon),
            candidates=candidates,
            load=load,
            rule=rule,
            start=start,
            costs=Costs.checked(costs, budgets, cluster),
        )

    @property
    def episode_seconds(self) -> float:
        """Seconds of a whole episode."""
        return self.horizon


ROUTING_MEANING = ("candidates", "load", "scheduler", "refresh_seconds")
"""Arguments that say what an action means: what a policy may ask for."""
