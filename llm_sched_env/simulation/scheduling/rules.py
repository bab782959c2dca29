"""Dispatch rules: combinations of a gate, a router, a kind of pools and a priority."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.priority_network import RankCorrection
from llm_sched_env.simulation.scheduling.scorers import (
    Scorers,
    checked_pairs,
    checked_scorers,
    weights_of,
)

(
    OCCUPANCY_GATE,
    STRICT_OCCUPANCY_GATE,
    CREDIT_GATE,
    LARGEST_CREDIT_GATE,
    FCFS_GATE,
    PRIORITY_GATE,
    EARLIEST_DEADLINE_GATE,
    SHORTEST_PROMPT_GATE,
) = range(8)
(
    SOLO_FIRST_ROUTER,
    RANDOMIZED_ROUTER,
    COUPLED_ROUTER,
    WEIGHTED_RANDOMIZED_ROUTER,
    PREFILL_AWARE_ROUTER,
    BID_PRICE_ROUTER,
    CORRECTED_BID_PRICE_ROUTER,
    RANDOM_ROUTER,
    ROUND_ROBIN_ROUTER,
    LEAST_LOADED_ROUTER,
    JOIN_SHORTEST_QUEUE_ROUTER,
    POWER_OF_TWO_ROUTER,
    WEIGHTED_ROUTER,
    SESSION_AFFINITY_ROUTER,
    EARLIEST_FINISH_ROUTER,
    REUSE_BID_ROUTER,
) = range(16)
AGENT_GATE = AGENT_ROUTER = -1
AGENT_ARRIVAL_ROUTER = -2
STATIC_POOLS, DYNAMIC_POOLS = range(2)

GATES = {
    "occupancy": OCCUPANCY_GATE,
    "strict-occupancy": STRICT_OCCUPANCY_GATE,
    "credit": CREDIT_GATE,
    "largest-credit": LARGEST_CREDIT_GATE,
    "fcfs": FCFS_GATE,
    "bid-price": PRIORITY_GATE,
    "decode-per-prompt": PRIORITY_GATE,
    "static-priority": PRIORITY_GATE,
    "earliest-deadline": EARLIEST_DEADLINE_GATE,
    "shortest-prompt": SHORTEST_PROMPT_GATE,
}
ROUTERS = {
    "solo-first": SOLO_FIRST_ROUTER,
    "randomized": RANDOMIZED_ROUTER,
    "coupled": COUPLED_ROUTER,
    "weighted-randomized": WEIGHTED_RANDOMIZED_ROUTER,
    "prefill-aware": PREFILL_AWARE_ROUTER,
    "bid-price": BID_PRICE_ROUTER,
}
ARRIVAL_ROUTERS = {
    "random": RANDOM_ROUTER,
    "round-robin": ROUND_ROBIN_ROUTER,
    "least-loaded": LEAST_LOADED_ROUTER,
    "join-shortest-queue": JOIN_SHORTEST_QUEUE_ROUTER,
    "power-of-two-choices": POWER_OF_TWO_ROUTER,
    "weighted": WEIGHTED_ROUTER,
    "session-affinity": SESSION_AFFINITY_ROUTER,
    "earliest-finish": EARLIEST_FINISH_ROUTER,
    "reuse-bid": REUSE_BID_ROUTER,
}
"""Routers that send a request to a GPU when it arrives: it waits there (on_arrival.py)."""
REUSE_ROUTERS = ("weighted", "session-affinity", "earliest-finish", "reuse-bid")
"""Of these, those that look at blocks or conversations (reuse_routers.py)."""
SIGNAL_ROUTERS = ("weighted", "earliest-finish", "reuse-bid")
"""Of these, those that look at signals of GPUs."""
ARRIVAL_GATES = ("fcfs", "static-priority", "shortest-prompt")
"""Schedulers of a GPU with queues of its own."""
ROUTERS_BY_PROBABILITY = ("randomized", "weighted-randomized")
"""Routers that choose a pool for a finished prefill by its class's solo probability."""
_ROUTERS_WITH_CLASS_LINES = ("weighted-randomized", "bid-price")
POOLS = {"static": STATIC_POOLS, "dynamic": DYNAMIC_POOLS}


@dataclass(frozen=True)
class DispatchRule:
    """A compiled scheduler: gate x router x pools x priority (docs/model.md).

    gate: which waiting class is admitted when a GPU can start a prefill.
        ``occupancy``: smallest X_i / x_i* (printed gate-and-route, work-conserving);
        ``strict-occupancy``: the same, but a class at or above n x_i* waits;
        ``credit``: of the classes with credit, the longest waiting head;
        ``largest-credit``: most credit first, ties by the longest waiting head;
        ``fcfs``: the longest waiting head of all;
        ``bid-price``: the class of the highest bid price of those whose reserve of free slots of
        the cluster is there (trunk reservation);
        ``decode-per-prompt``: the largest D/P (section 4.2);
        ``static-priority``: the first class of ``priority`` that waits and whose reserve is free;
        ``shortest-prompt``: the shortest prompt that waits at a GPU, with a router on arrival;
        ``earliest-deadline``: the head whose first token is due first, at its arrival plus the
        ``ttft_seconds`` of its class; classes without that deadline come last, by arrival.
    router: where a finished prefill decodes. ``solo-first``, ``randomized`` (by the plan's solo
        probability, one line per pool), ``weighted-randomized`` (the same, but a line per pool
        and class, of which a free slot picks one by the plan's weights: section 13),
        ``coupled`` (in the slot of its prefill), ``prefill-aware`` (mixed GPUs first while the
        gate would admit somebody, so that GPUs without a prefill stay free for one, or if decodes
        are faster beside a prefill; else solo GPUs first) or ``bid-price`` (a line per class, the
        highest bid of those whose reserve is there; GPUs as ``prefill-aware``). Or where a request
        is sent when it arrives, to wait and decode there: ``random``, ``round-robin``,
        ``least-loaded`` (fewest requests per slot), ``join-shortest-queue`` (fewest seconds of
        prefills), ``power-of-two-choices`` (the less loaded of two random GPUs), ``weighted`` (the
        greatest sum of ``scorers``), ``earliest-finish`` (where its prefill ends first),
        ``reuse-bid`` (where its cost is least, for itself and those that come later) or
        ``session-affinity`` (consistent hashing of conversations).
    pools: ``static`` (the plan's mixed pool) or ``dynamic`` (any GPU may prefill).
    prefill_first: a freed slot takes a new prefill before a waiting decode; with the router
        ``bid-price`` the ranks say which does.
    credit_cap: admissions for which a class can save credit, under a gate that runs on it.
    priority: names of all classes, first come those that are admitted first, for the gate
        ``static-priority``; None takes the order of the instance.
    reserves: for the same gate, by class name the free slots R of the cluster that an admission
        of the class must leave: it waits unless more than R are free. 0 where none is given.
    correction: of the ranks of the gate and the router ``bid-price``, a trained network that
        adapts them to the moment (corrected_dispatch.py); None leaves them as the plan has them.
    scorers: of the router ``weighted``, names of :data:`.SCORERS` with weights >= 0; empty: llm-d's
        default of 2, 1, 1.
    refresh_seconds: between refreshes of what ``weighted``, ``earliest-finish`` and ``reuse-bid``
        know of GPUs; 0: always true. What they sent themselves they know at once.
    foresight: seconds over which arrival profiles are known in advance: whoever runs the rule
        gives it the plan of the mean rates of so many seconds from now on, once a second
        (planning/look_ahead_plans.py). None keeps one plan, that of the long-run rates.
    drop_late: whether a request that waits for its prefill is rejected once a mean prefill of its
        class would end after its ``ttft_seconds``: what is served has a chance to be good.

    Example:
        >>> import llm_sched_env as lse
        >>> rule = lse.DispatchRule(gate="fcfs", router="coupled", pools="dynamic")
        >>> result = lse.evaluate(rule, "base", n_gpus=2, horizon=20.0, warmup=0.0)
        >>> 0.0 < result.score.mean < 1.0
        True
    """

    gate: str = "occupancy"
    router: str = "solo-first"
    pools: str = "static"
    prefill_first: bool = False
    credit_cap: float = 3.0
    correction: RankCorrection | None = None
    foresight: float | None = None
    priority: tuple[str, ...] | None = None
    reserves: Mapping[str, float] | tuple[tuple[str, float], ...] = ()
    drop_late: bool = False
    scorers: Scorers = ()
    refresh_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._check_names()
        self._check_dispatch_on_arrival()
        if self.router == "coupled" and self.pools == "static":
            raise ConfigurationError(
                "router",
                self.router,
                "solo-first, randomized or weighted-randomized with static pools",
                'use pools="dynamic": a coupled decode stays on the GPU of its prefill',
            )
        if self.router == "coupled" and self.prefill_first:
            raise ConfigurationError(
                "prefill_first",
                self.prefill_first,
                "False with the coupled router",
                "its decodes never wait, so there is no priority to give",
            )
        if self.router == "bid-price" and (self.gate != "bid-price" or self.prefill_first):
            raise ConfigurationError(
                "router",
                self.router,
                'a router that has no ranks with this gate or with "prefill_first"',
                'use gate="bid-price" and prefill_first=False: its ranks say what goes first',
            )
        if not (is_finite_number(self.credit_cap) and self.credit_cap >= 1.0):
            raise ConfigurationError("credit_cap", self.credit_cap, "a finite number >= 1")
        if self.correction is not None and self.router != "bid-price":
            raise ConfigurationError(
                "correction",
                f"one with the router {self.router}",
                "a correction with the router bid-price",
                "no other rule has ranks of prefills and decodes to correct",
            )
        if self.foresight is not None and not is_finite_number(self.foresight, positive=True):
            raise ConfigurationError("foresight", self.foresight, "a finite number > 0, or None")
        self._check_priority()
        self._check_scorers()

    def _check_names(self) -> None:
        """Gate, router and pools that exist, switches that are such, reserves as pairs."""
        for field, value, table in (
            ("gate", self.gate, GATES),
            ("router", self.router, ROUTERS | ARRIVAL_ROUTERS),
            ("pools", self.pools, POOLS),
        ):
            if not isinstance(value, str) or value not in table:
                raise ConfigurationError(field, value, f"one of {', '.join(table)}")
        for field in ("prefill_first", "drop_late"):
            if not isinstance(getattr(self, field), bool):
                raise ConfigurationError(field, getattr(self, field), "True or False")
        object.__setattr__(self, "reserves", checked_pairs("reserves", self.reserves))

    def _check_scorers(self) -> None:
        """Scorers as tuples, and signals, of the routers that have them."""
        object.__setattr__(self, "scorers", checked_scorers(self.router, self.scorers))
        if not is_finite_number(self.refresh_seconds):
            raise ConfigurationError(
                "refresh_seconds", self.refresh_seconds, "a finite number of seconds >= 0"
            )
        if self.refresh_seconds and self.router not in SIGNAL_ROUTERS:
            raise ConfigurationError(
                "refresh_seconds",
                self.refresh_seconds,
                f"0 with the router {self.router}",
                f"its choice needs no signal, or true ones; use {' or '.join(SIGNAL_ROUTERS)}",
            )

    @property
    def scorer_weights(self) -> tuple[float, ...]:
        """Of all scorers, in the order of :data:`.SCORERS`; empty with other routers."""
        return weights_of(tuple(dict(self.scorers).items()))

    @property
    def routes_on_arrival(self) -> bool:
        """Whether requests are sent to a GPU when they arrive, and wait there."""
        return self.router in ARRIVAL_ROUTERS

    @property
    def looks_at_blocks(self) -> bool:
        """Whether the router looks at blocks or conversations."""
        return self.router in REUSE_ROUTERS

    @property
    def sees_signals(self) -> bool:
        """Whether the router looks at signals of GPUs."""
        return self.router in SIGNAL_ROUTERS

    @property
    def remembers_sent(self) -> bool:
        """Whether the router remembers which blocks it sent where."""
        bids = self.router in ("earliest-finish", "reuse-bid")
        return bids or dict(self.scorers).get("prefix-affinity", 0.0) > 0.0

    def _check_dispatch_on_arrival(self) -> None:
        """Queues at GPUs: schedulers that look at one GPU, whose slots are all alike."""
        if self.router not in ARRIVAL_ROUTERS:
            if self.gate == "shortest-prompt":
                raise ConfigurationError(
                    "gate",
                    self.gate,
                    "one that admits from queues of the cluster",
                    f"use it with a router on arrival: {', '.join(ARRIVAL_ROUTERS)}",
                )
            return
        if self.gate not in ARRIVAL_GATES:
            allowed = f"{', '.join(ARRIVAL_GATES)} with the router {self.router}"
            raise ConfigurationError("gate", self.gate, allowed, "requests wait at GPUs")
        if self.pools != "dynamic" or self.prefill_first or dict(self.reserves):
            raise ConfigurationError(
                "rule",
                f'pools="{self.pools}", prefill_first={self.prefill_first}, '
                f"reserves={dict(self.reserves)}",
                f'pools="dynamic" alone with the router {self.router}',
                "a decode stays in the slot of its prefill",
            )

    def _check_priority(self) -> None:
        """A static priority and its reserves as tuples, so that rules are hashable."""
        if self.priority is not None:
            several = isinstance(self.priority, (list, tuple))
            if not several or not all(isinstance(name, str) for name in self.priority):
                raise ConfigurationError("priority", self.priority, "None or a list of class names")
            object.__setattr__(self, "priority", tuple(self.priority))
        for name, slots in dict(self.reserves).items():
            if not is_finite_number(slots):
                raise ConfigurationError(f"reserve of {name!r}", slots, "a finite number >= 0")
        if self.gate != "static-priority" and (self.priority is not None or self.reserves):
            raise ConfigurationError(
                "priority and reserves",
                (self.priority, self.reserves),
                f"none with the gate {self.gate}",
                'use gate="static-priority"',
            )

    @property
    def settings(self) -> dict[str, int | float]:
        """The rule as the engine's settings."""
        return {
            "gate": GATES[self.gate],
            "router": (
                (ROUTERS | ARRIVAL_ROUTERS)[self.router]
                if self.correction is None
                else CORRECTED_BID_PRICE_ROUTER
            ),
            "pools": POOLS[self.pools],
            "prefill_first": int(self.prefill_first),
            "drop_late": int(self.drop_late),
            "class_lines": int(self.router in _ROUTERS_WITH_CLASS_LINES),
            "credit_cap": self.credit_cap,
        }


EVENT_ROUTERS = {
    "agent": AGENT_ROUTER,
    "randomized": RANDOMIZED_ROUTER,
    "coupled": COUPLED_ROUTER,
}


@dataclass(frozen=True)
class EventDispatch:
    """An agent admits and routes, one request at a time (docs/event_control.md).

    router: where a finished prefill may decode. ``agent``: it waits in a line of its class until
        the agent sends it to a solo or a mixed GPU; ``randomized``: the plan's solo probability
        puts it in the line of its class of one pool, the agent says when it is served;
        ``coupled``: in the slot of its prefill.
    pools: as in :class:`DispatchRule`.
    """

    router: str = "agent"
    pools: str = "static"
    gate: ClassVar[str] = "agent"
    correction: ClassVar[None] = None
    routes_on_arrival: ClassVar[bool] = False
    looks_at_blocks: ClassVar[bool] = False
    sees_signals: ClassVar[bool] = False
    scorer_weights: ClassVar[tuple[float, ...]] = ()
    remembers_sent: ClassVar[bool] = False
    refresh_seconds: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        for field, value, table in (
            ("router", self.router, EVENT_ROUTERS),
            ("pools", self.pools, POOLS),
        ):
            if not isinstance(value, str) or value not in table:
                raise ConfigurationError(field, value, f"one of {', '.join(table)}")
        if self.router == "coupled" and self.pools == "static":
            raise ConfigurationError(
                "router",
                self.router,
                "agent or randomized with static pools",
                'use pools="dynamic": a coupled decode stays on the GPU of its prefill',
            )

    @property
    def settings(self) -> dict[str, int | float]:
        """The rule as the engine's settings."""
        return {
            "gate": AGENT_GATE,
            "router": EVENT_ROUTERS[self.router],
            "pools": POOLS[self.pools],
            "prefill_first": 0,
            "drop_late": 0,
            "class_lines": 1,
        }


@dataclass(frozen=True)
class RoutedDispatch:
    """An agent sends each request to a GPU when it arrives, where it waits (docs/routing.md).

    gate: the scheduler of each GPU, as in :class:`DispatchRule` with a router on arrival:
        ``fcfs``, ``static-priority`` (classes in the order of the instance) or
        ``shortest-prompt``.
    refresh_seconds: between refreshes of what the agent is shown of GPUs; 0: always true. What it
        sent itself it is shown at once.
    """

    gate: str = "fcfs"
    refresh_seconds: float = 0.0
    router: ClassVar[str] = "agent on arrival"
    pools: ClassVar[str] = "dynamic"
    priority: ClassVar[None] = None
    reserves: ClassVar[tuple[tuple[str, float], ...]] = ()
    correction: ClassVar[None] = None
    routes_on_arrival: ClassVar[bool] = True
    looks_at_blocks: ClassVar[bool] = True
    sees_signals: ClassVar[bool] = True
    scorer_weights: ClassVar[tuple[float, ...]] = ()
    remembers_sent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.gate, str) or self.gate not in ARRIVAL_GATES:
            raise ConfigurationError("scheduler", self.gate, f"one of {', '.join(ARRIVAL_GATES)}")
        if not is_finite_number(self.refresh_seconds):
            raise ConfigurationError(
                "refresh_seconds", self.refresh_seconds, "a finite number of seconds >= 0"
            )

    @property
    def settings(self) -> dict[str, int | float]:
        """The rule as the engine's settings."""
        return {
            "gate": GATES[self.gate],
            "router": AGENT_ARRIVAL_ROUTER,
            "pools": POOLS[self.pools],
            "prefill_first": 0,
            "drop_late": 0,
            "class_lines": 0,
        }


Rule = DispatchRule | EventDispatch | RoutedDispatch
"""What runs a cluster: a compiled scheduler, or an agent."""
