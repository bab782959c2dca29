"""Settings of an event-driven environment, validated once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_sched_env.envs.configuration import STARTS, require_choice, require_seconds
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import PRICINGS
from llm_sched_env.presets import resolve_instance
from llm_sched_env.simulation.scheduling.rules import EventDispatch

# Less might not move a clock of many hours.
_LEAST_WAKE_INTERVAL = 1e-6


@dataclass(frozen=True)
class EventConfiguration:
    """Arguments of ``LLMSchedEvent-v0``, explained in event_env.py."""

    instance: Instance
    n_gpus: int
    pricing: str
    horizon: float
    rule: EventDispatch
    wake_interval: float | None
    start: str

    @classmethod
    def validated(
        cls,
        instance: Instance | str | Path | dict[str, Any] = "base",
        n_gpus: int = 20,
        pricing: str = "bundled",
        horizon: float = 300.0,
        router: str = "agent",
        pools: str = "static",
        wake_interval: float | None = None,
        start: str = "empty",
    ) -> EventConfiguration:
        """Check every argument; raises ConfigurationError. The defaults are those of v0."""
        require_choice("pricing", pricing, PRICINGS)
        require_choice("start", start, STARTS)
        require_seconds("horizon", horizon)
        if wake_interval is not None:
            require_seconds("wake_interval", wake_interval)
            if wake_interval < _LEAST_WAKE_INTERVAL:
                raise ConfigurationError(
                    "wake_interval", wake_interval, f"None or at least {_LEAST_WAKE_INTERVAL:g} s"
                )
        return cls(
            instance=resolve_instance(instance),
            n_gpus=checked_integer("n_gpus", n_gpus),
            pricing=pricing,
            horizon=float(horizon),
            rule=EventDispatch(router, pools),
            wake_interval=None if wake_interval is None else float(wake_interval),
            start=start,
        )


EVENT_MEANING = ("router", "pools", "wake_interval")
"""Arguments that say what an action means: what a policy may ask for."""
