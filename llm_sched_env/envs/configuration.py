"""Arguments of a fixed-step environment: their meaning, types and defaults, validated once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from llm_sched_env.envs.actions import rank_shares
from llm_sched_env.envs.costs import Costs
from llm_sched_env.errors import ConfigurationError, is_finite_number, one_of
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan, ServiceLevel
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.plugins.deprecated_names import renamed_choice
from llm_sched_env.simulation.scheduling.rules import ROUTERS, ROUTERS_BY_PROBABILITY, DispatchRule

CONTROLS = ("admission", "routing", "pool", "priority", "reserve")
STARTS = ("empty", "plan")
# The compiled dispatcher's names.
_GATES = {
    ("token-bucket", "static"): "credit",
    ("token-bucket", "dynamic"): "largest-credit",
    ("occupancy", "static"): "occupancy",
    ("occupancy", "dynamic"): "occupancy",
    ("net-value", "static"): "bid-price",
    ("net-value", "dynamic"): "bid-price",
}
_ROUTERS = {{"bid-price": "net-value"}.get(name, name): name for name in ROUTERS}
_GATE_NAMES = ("token-bucket", "occupancy", "net-value")
_FORMER_NAMES = {"credit": "token-bucket", "bid-price": "net-value"}
_POOLS = ("static", "dynamic")


class _Default(str):
    """A value that nobody gave: groups of GPUs have another default."""


_DEFAULT_ROUTER = _Default("randomized")


class IntervalArguments(TypedDict, total=False):
    """Arguments of ``LLMSched-v0`` in all its forms, besides ``n_gpus`` and ``render_mode``.

    Args:
        instance: preset name, instance file, plain data or :class:`Instance`; default ``base``.
        pricing: ``bundled`` (default) or ``separate``.
        revenue: which completed requests are paid for: ``all`` (default), or ``goodput``: those
            that met the deadlines of their class, whole and at completion under either pricing.
        interval: seconds an action is held, default 1.
        horizon: seconds per episode, default 300.
        gate: how the dispatcher admits. ``token-bucket`` (default) and ``occupancy`` follow the
            admission rates of the action, ``net-value`` follows priorities and reserves of free
            slots (trunk reservation).
        router: ``randomized`` (default), ``solo-first`` (that of groups of GPUs), ``coupled``,
            ``weighted-randomized``, ``prefill-aware`` or, with ``gate="net-value"``, ``net-value``.
        pools: ``static`` (default): a fixed share of the GPUs prefills; ``dynamic``: any may.
        controls: ``"all"`` (default) or some of ``admission``, ``routing``, ``pool``,
            ``priority``, ``reserve``, of those that the gate has.
        start: ``empty`` (default) or ``plan``, near the fluid optimum.
        slos: service-level objectives as in :func:`llm_sched_env.plan`, for example
            ``["tpot@price=3000"]``; the plan is the one with them, the bound stays R*.
        drop_late: whether the dispatcher rejects who cannot have a first token in time, as
            :class:`llm_sched_env.DispatchRule` says; default False.
        costs: names of costs in ``info["costs"]``, of :data:`.COST_NAMES` or import paths of
            service levels; default: those of ``budgets``, none without.
        budgets: by name, the greatest sum of a cost over an episode that a constrained agent is
            allowed; it changes neither rewards nor observations.
    """

    instance: Instance | str | Path | dict[str, Any]
    pricing: str
    revenue: str
    interval: float
    horizon: float
    gate: str
    router: str
    pools: str
    controls: str | Sequence[str]
    start: str
    slos: Sequence[ServiceLevel | str | Mapping[str, Any]]
    drop_late: bool
    costs: Sequence[str]
    budgets: Mapping[str, float] | None


@dataclass(frozen=True)
class IntervalConfiguration:
    """Validated :class:`IntervalArguments`."""

    cluster: Cluster
    revenue: str
    interval: float
    horizon: float
    gate: str
    router: str
    pools: str
    controls: tuple[str, ...]
    start: str
    costs: Costs | None
    drop_late: bool = False

    @classmethod
    def validated(
        cls,
        instance: Instance | str | Path | dict[str, Any] = "base",
        n_gpus: int = 20,
        pricing: str = "bundled",
        revenue: str = "all",
        interval: float = 1.0,
        horizon: float = 300.0,
        gate: str = "token-bucket",
        router: str = _DEFAULT_ROUTER,
        pools: str = "static",
        controls: str | Sequence[str] = "all",
        start: str = "empty",
        slos: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
        drop_late: bool = False,
        costs: Sequence[str] = (),
        budgets: Mapping[str, float] | None = None,
    ) -> IntervalConfiguration:
        """Check every argument; raises ConfigurationError. The defaults are those of v0."""
        gate = renamed_choice("gate", gate, _FORMER_NAMES)
        cluster = Cluster.of(instance, n_gpus, pricing, slos)
        several_groups = len(cluster.instance.groups) > 1
        if isinstance(router, _Default):
            router = "solo-first" if several_groups else str(router)
        router = renamed_choice("router", router, _FORMER_NAMES)
        require_choice("revenue", revenue, REVENUES)
        require_choice("gate", gate, _GATE_NAMES)
        require_choice("router", router, tuple(_ROUTERS))
        require_choice("pools", pools, _POOLS)
        require_choice("start", start, STARTS)
        require_seconds("interval", interval)
        require_seconds("horizon", horizon)
        if horizon < interval:
            raise ConfigurationError("horizon", horizon, f"at least the interval of {interval:g} s")
        configuration = cls(
            cluster=cluster,
            revenue=revenue,
            interval=float(interval),
            horizon=float(horizon),
            gate=gate,
            router=router,
            pools=pools,
            controls=_checked_controls(controls, gate, router, pools, has_groups=several_groups),
            start=start,
            drop_late=drop_late,
            costs=Costs.checked(costs, budgets, cluster),
        )
        _ = configuration.rule
        return configuration

    @property
    def rule(self) -> DispatchRule:
        """The compiled dispatcher that works inside an interval."""
        gate, router = _GATES[self.gate, self.pools], _ROUTERS[self.router]
        return DispatchRule(gate, router, self.pools, drop_late=self.drop_late)

    @property
    def steps(self) -> int:
        """Intervals in an episode; the last may reach past the horizon."""
        return int(np.ceil(self.horizon / self.interval - 1e-9))

    @property
    def episode_seconds(self) -> float:
        """Seconds of a whole episode."""
        return self.steps * self.interval

    @property
    def controlled(self) -> np.ndarray:
        """Places among the engine's controls (simulation/control.py) that the agent sets."""
        groups = len(self.cluster.instance.groups)
        pairs = self.cluster.instance.n_classes * groups
        ends = np.cumsum([pairs, pairs, groups, pairs, pairs])
        places = dict(zip(CONTROLS, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
        return np.concatenate([places[part] for part in CONTROLS if part in self.controls])

    def plan_action(self, fluid_plan: FluidPlan) -> np.ndarray:
        """The fluid plan as a constant action; float32, shape (A,)."""
        shares = fluid_plan.action
        if self.gate == "net-value":
            planned = slot_ranks(fluid_plan, self.cluster.n_gpus)
            ranks = rank_shares(np.stack([planned.priority, planned.reserve]))
            shares = np.concatenate([shares, ranks])
        action: np.ndarray = shares[self.controlled].astype(np.float32)
        return action


CONTROL_MEANING = ("interval", "gate", "router", "pools", "controls", "drop_late")
"""Arguments that say what an action means: what a policy may ask for."""


def require_choice(field: str, got: Any, allowed: Sequence[str]) -> None:
    """Raise ConfigurationError unless the value is one of the allowed ones."""
    if not isinstance(got, str) or got not in allowed:
        raise ConfigurationError(field, got, one_of(allowed))


def require_seconds(field: str, got: Any) -> None:
    """Raise ConfigurationError unless the value is a finite number > 0."""
    if not is_finite_number(got, positive=True):
        raise ConfigurationError(field, got, "a finite number of seconds > 0")


def _checked_controls(
    controls: str | Sequence[str],
    gate: str,
    router: str,
    pools: str,
    *,
    has_groups: bool,
) -> tuple[str, ...]:
    """The controlled parts; those named one by one must have an effect."""
    other_gates = ("admission",) if gate == "net-value" else ("priority", "reserve")
    if isinstance(controls, str) and controls == "all":
        return tuple(part for part in CONTROLS if part not in other_gates)
    several = isinstance(controls, Iterable) and not isinstance(controls, (str, Mapping))
    parts: tuple[Any, ...] = tuple(controls) if several else (controls,)
    if not parts or any(part not in CONTROLS for part in parts) or len(set(parts)) < len(parts):
        raise ConfigurationError(
            "controls", controls, f'"all" or some of {", ".join(CONTROLS)}, each once'
        )
    for part in parts:
        if part in other_gates:
            needed = '"net-value"' if gate != "net-value" else '"token-bucket" or "occupancy"'
            raise ConfigurationError(f'controls: "{part}" needs gate={needed}, got gate={gate!r}.')
    if "routing" in parts and router not in ROUTERS_BY_PROBABILITY and not has_groups:
        raise ConfigurationError(
            f'controls: "routing" needs a router with probabilities '
            f"({one_of(ROUTERS_BY_PROBABILITY)}), got router={router!r}."
        )
    if "pool" in parts and pools != "static":
        raise ConfigurationError(f'controls: "pool" needs pools="static", got pools={pools!r}.')
    return parts
