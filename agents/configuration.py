"""All knobs of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.planning import PRICINGS


@dataclass(frozen=True)
class TrainingConfiguration:
    """PPO on ``LLMSched-v0``; every default was chosen on ``overload`` at 20 GPUs."""

    instance: dict[str, Any]  # plain data of an Instance, so that a checkpoint is self-contained
    n_gpus: int = 20
    pricing: str = "bundled"
    total_steps: int = 250_000  # environment steps over all parallel environments
    seed: int = 0

    # What the agent controls: trunk reservation's ranks and reserves, around those of the plan.
    gate: str = "bid-price"
    router: str = "bid-price"
    pools: str = "dynamic"
    controls: tuple[str, ...] = ("priority", "reserve")
    interval: float = 1.0  # seconds between decisions
    horizon: float = 200.0  # seconds per training episode
    start: str = "plan"  # episodes start near stationarity, not empty
    residual_scale: float = 1.0  # 1: the agent can move each control through its whole range

    # PPO
    n_envs: int = 32
    rollout_steps: int = 100  # per environment and update
    batch_size: int = 800
    epochs: int = 6
    learning_rate: float = 1e-3
    half_life: float = 20.0  # seconds after which revenue counts half
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    entropy_coefficient: float = 0.0
    initial_log_std: float = -1.5  # exploration of about 0.2 of a control's range
    hidden_units: tuple[int, ...] = field(default=(64, 64))

    checkpoint_every: int = 20  # updates between saved checkpoints
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.pricing not in PRICINGS:
            raise ConfigurationError("pricing", self.pricing, " or ".join(PRICINGS))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise ConfigurationError("seed", self.seed, "an integer >= 0")
        for name in ("total_steps", "n_envs", "rollout_steps", "batch_size", "epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(name, value, "an integer >= 1")
        if not is_finite_number(self.half_life, positive=True):
            raise ConfigurationError("half_life", self.half_life, "a finite number of seconds > 0")

    @property
    def discount(self) -> float:
        """PPO's discount per step, from the half-life in seconds."""
        return float(0.5 ** (self.interval / self.half_life))

    @property
    def environment(self) -> dict[str, Any]:
        """Keyword arguments of the environment that say what an action means."""
        return {
            "gate": self.gate,
            "router": self.router,
            "pools": self.pools,
            "controls": list(self.controls),
            "interval": self.interval,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TrainingConfiguration:
        """Read back :meth:`to_dict`, also after a trip through JSON."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigurationError("training configuration", unknown, ", ".join(sorted(known)))
        tuples: dict[str, Any] = {
            k: tuple(data[k]) for k in ("controls", "hidden_units") if k in data
        }
        return cls(**{**data, **tuples})
