"""All settings of a training run."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from llm_sched_env.envs.costs import COST_NAMES
from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number, one_of
from llm_sched_env.planning import PRICINGS

ALGORITHMS = ("ppo", "recurrent-ppo", "maskable-ppo", "sac", "tqc", "ars")
_CHOICES = {
    "pricing": PRICINGS,
    "control": ("interval", "event", "routing"),
    "center": ("plan", "middle"),
    "algorithm": ALGORITHMS,
    "network": ("mlp", "per-class"),
    "reward_reference": ("none", "center", "group"),
    "constraint": ("none", "lagrangian"),
}
_COUNTS = (
    "n_gpus",
    "total_steps",
    "n_envs",
    "rollout_steps",
    "batch_size",
    "epochs",
    "gradient_steps",
    "buffer_steps",
    "frame_stack",
    "group_size",
    "imitation_steps",
    "evaluation_every",
    "checkpoint_every",
    "candidates",
)
# What seeds NumPy and Torch has 32 bits, and a resumed run adds its steps.
_GREATEST_SEED = 2**31 - 1
_TEXTS = ("task", "gate", "router", "pools", "start", "load", "scheduler")
_NUMBERS = (
    "residual_scale",
    "learning_rate",
    "gae_lambda",
    "clip_range",
    "entropy_coefficient",
    "evaluation_warmup",
    "refresh_seconds",
    "multiplier_gain",
    "multiplier_rate",
)
_POSITIVE_NUMBERS = ("interval", "horizon", "half_life", "evaluation_horizon")
_MOST_LAYERS, _MOST_UNITS, _MOST_FRAMES = 16, 8192, 100
# A name of a registered policy: no import path and no file, since checkpoints hold it too.
_POLICY_NAME = re.compile(r"[\w.+-]+")
# Gates and routers in checkpoints of earlier versions.
_FORMER_NAMES = {"credit": "token-bucket", "bid-price": "net-value"}
_TUPLES = ("controls", "hidden_units", "references")
# Rows times GPUs of an evaluation: what a cluster earns varies like one over their root.
_EVALUATED_GPUS = 1600
_LEAST_RUNS, _MOST_RUNS = 8, 32


@dataclass(frozen=True)
class TrainingConfiguration:
    """Training on ``LLMSched-v0`` or, by ``control``, on one of the others.

    With ``"event"`` it is on ``LLMSchedEvent-v0``, with ``"routing"`` on ``LLMSchedRouting-v0``.

    The defaults are PPO around trunk reservation, chosen on ``overload`` at 20 GPUs; variants.py
    names other combinations.
    """

    instance: dict[str, Any]  # plain data of an Instance, so that a checkpoint is self-contained
    task: str = ""  # the registered task whose environment this is; "": none
    n_gpus: int = 20
    pricing: str = "bundled"
    total_steps: int = 250_000  # environment steps over all parallel environments
    seed: int = 0

    # What the agent controls: trunk reservation's ranks and reserves, around those of the plan.
    control: str = "interval"
    gate: str = "net-value"
    router: str = "net-value"  # with event-driven control: "agent"
    pools: str = "dynamic"
    drop_late: bool = False
    controls: tuple[str, ...] = ("priority", "reserve")
    # Routing: how many GPUs by match and by load, what the load is, and how fresh signals are.
    candidates: int = 4
    load: str = "work"
    scheduler: str = "fcfs"
    refresh_seconds: float = 0.0
    interval: float = 1.0  # seconds between decisions; not fixed: their mean, for the discount
    horizon: float = 200.0  # seconds per training episode
    start: str = "plan"  # episodes start near stationarity, not empty
    center: str = "plan"  # what the action 0 is: the plan's controls, or the middle of each range
    residual_scale: float = 1.0  # 1: the agent can move each control through its whole range

    # What learns, from what
    algorithm: str = "ppo"
    network: str = "mlp"
    hidden_units: tuple[int, ...] = field(default=(64, 64))
    frame_stack: int = 1  # observations that the network sees, the newest last
    reward_reference: str = "none"  # whose reward on the same requests is taken off the agent's
    group_size: int = 4  # environments that share their requests, with reward_reference="group"
    imitate: str = ""  # policy whose actions are cloned before learning
    imitation_steps: int = 6_400  # decisions of that policy

    # Constraints: budgets of costs by name, and the gains by which their multipliers follow costs
    constraint: str = "none"  # "lagrangian": costs have a price, which keeps their budgets
    budgets: dict[str, float] = field(default_factory=dict)
    multiplier_gain: float = 1.0  # R* per unit of the cost by which an episode is beyond its budget
    multiplier_rate: float = 0.01  # the same, added up over episodes

    # PPO; n_envs, learning rate, discount and initial noise also of the others
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

    # SAC and TQC
    gradient_steps: int = 4  # per step of all environments
    buffer_steps: int = 200_000

    # Evaluation during training: the greedy policy on the same requests as the references
    references: tuple[str, ...] = ("trunk-reservation", "token-bucket", "gate-and-route")
    evaluation_every: int = 20  # updates, also at the start and at the end
    evaluation_warmup: float = 50.0  # seconds that are not measured
    evaluation_horizon: float = 300.0  # seconds, warm-up included

    checkpoint_every: int = 20  # updates between saved checkpoints
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigurationError(name, getattr(self, name), one_of(allowed))
        if checked_integer("seed", self.seed, 0) > _GREATEST_SEED:
            raise ConfigurationError("seed", self.seed, f"at most {_GREATEST_SEED}")
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(name, value, "an integer >= 1")
        for name in (*_NUMBERS, *_POSITIVE_NUMBERS):
            value, positive = getattr(self, name), name in _POSITIVE_NUMBERS
            if not is_finite_number(value, positive=positive):
                bound = "> 0" if positive else ">= 0"
                raise ConfigurationError(name, value, f"a finite number {bound}")
        self._check_texts()
        self._check_network()
        self._check_combinations()

    def _check_texts(self) -> None:
        if not isinstance(self.instance, dict):
            raise ConfigurationError(
                "instance", self.instance, "a dict, as Instance.to_dict() returns it"
            )
        for name in _TEXTS:
            if not isinstance(getattr(self, name), str):
                raise ConfigurationError(name, getattr(self, name), "a string")
        for name in ("controls", "references"):
            values = getattr(self, name)
            if not _is_list(values) or not all(isinstance(value, str) for value in values):
                raise ConfigurationError(name, values, "a tuple of strings")
        policies = [*self.references, *([self.imitate] if self.imitate != "" else [])]
        for policy in policies:
            if not isinstance(policy, str) or not _POLICY_NAME.fullmatch(policy):
                raise ConfigurationError(
                    "policy of a training",
                    policy,
                    "the name of a registered policy",
                    "register it in the entry-point group llm_sched_env.policies",
                )
        for name in ("drop_late", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(name, getattr(self, name), "True or False")

    def _check_network(self) -> None:
        units = self.hidden_units
        if (
            not _is_list(units)
            or len(units) > _MOST_LAYERS
            or (self.network == "per-class" and not units)
            or not all(type(n) is int and 0 < n <= _MOST_UNITS for n in units)
        ):
            raise ConfigurationError(
                "hidden_units", units, f"up to {_MOST_LAYERS} integers from 1 to {_MOST_UNITS}"
            )
        if self.frame_stack > _MOST_FRAMES:
            raise ConfigurationError("frame_stack", self.frame_stack, f"at most {_MOST_FRAMES}")
        log_std = self.initial_log_std
        if (
            isinstance(log_std, bool)
            or not isinstance(log_std, (int, float))
            or not -100 <= log_std <= 100
        ):
            raise ConfigurationError("initial_log_std", log_std, "a number from -100 to 100")

    def _check_combinations(self) -> None:
        at_events = self.control != "interval"
        if (self.algorithm == "maskable-ppo") != at_events:
            wanted = "maskable-ppo" if at_events else "ppo, sac or tqc"
            raise ConfigurationError(
                "algorithm", self.algorithm, f"{wanted} with control={self.control!r}"
            )
        if at_events and (self.reward_reference != "none" or self.frame_stack > 1):
            raise ConfigurationError(
                '`reward_reference` and `frame_stack` need control="interval", '
                f'got control="{self.control}".'
            )
        if self.network == "per-class" and (self.algorithm != "ppo" or self.frame_stack > 1):
            raise ConfigurationError(
                'network="per-class" needs algorithm="ppo" and frame_stack=1; otherwise use "mlp".'
            )
        if self.network == "per-class" and not set(self.controls) <= {
            "admission",
            "routing",
            "priority",
            "reserve",
        }:
            raise ConfigurationError(
                "controls", self.controls, 'controls per class, without "pool"', 'use network="mlp"'
            )
        if self.imitate and (self.algorithm not in {"ppo", "maskable-ppo"} or self.frame_stack > 1):
            raise ConfigurationError(
                "`imitate` needs one of the algorithms ppo and maskable-ppo, and frame_stack=1."
            )
        if self.task and (at_events or self.reward_reference == "group" or self.budgets):
            raise ConfigurationError(
                "task",
                self.task,
                'none with control="event" or "routing", the rewards of a group, or budgets',
            )
        self._check_constraint()
        if self.reward_reference == "group" and (
            self.group_size < 2 or self.n_envs % self.group_size
        ):
            raise ConfigurationError("group_size", self.group_size, "a divisor >= 2 of n_envs")

    def _check_constraint(self) -> None:
        budgets = self.budgets
        if not isinstance(budgets, dict) or not all(
            isinstance(name, str) and name in COST_NAMES and is_finite_number(budget)
            for name, budget in budgets.items()
        ):
            names = ", ".join(COST_NAMES)
            raise ConfigurationError("budgets", budgets, f"numbers >= 0 by name, of {names}")
        if (self.constraint == "lagrangian") != bool(budgets):
            remedy = "give --budget NAME=NUMBER with --variant ppo-lagrangian, and only there"
            raise ConfigurationError("budgets", budgets, "some with a constraint", remedy)
        if budgets and (self.control != "interval" or self.reward_reference != "none"):
            raise ConfigurationError(
                '`budgets` need control="interval" and reward_reference="none", '
                f'got control="{self.control}" and reward_reference="{self.reward_reference}".'
            )

    @property
    def discount(self) -> float:
        """The discount per step, from the half-life in seconds."""
        return float(0.5 ** (self.interval / self.half_life))

    @property
    def steps_per_update(self) -> int:
        """Environment steps between two updates of PPO, a unit of time for every algorithm."""
        return self.n_envs * self.rollout_steps

    @property
    def evaluation_runs(self) -> int:
        """Independent runs of an evaluation: fewer of large clusters, which vary less."""
        return min(_MOST_RUNS, max(_LEAST_RUNS, _EVALUATED_GPUS // self.n_gpus))

    @property
    def environment(self) -> dict[str, Any]:
        """Keyword arguments of the environment that say what an action means."""
        if self.control == "event":
            return {"router": self.router, "pools": self.pools}
        if self.control == "routing":
            names = ("candidates", "load", "scheduler", "refresh_seconds")
            return {name: getattr(self, name) for name in names}
        return {
            "gate": self.gate,
            "router": self.router,
            "pools": self.pools,
            "controls": list(self.controls),
            "interval": self.interval,
            **({"drop_late": True} if self.drop_late else {}),
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
            raise ConfigurationError(
                "training configuration keys",
                unknown,
                f"some of {', '.join(sorted(known))}",
            )
        # What is no list stays as it is, and is refused.
        tuples = {k: tuple(data[k]) for k in _TUPLES if isinstance(data.get(k), list)}
        former = {k: data[k] for k in ("gate", "router") if data.get(k) in [*_FORMER_NAMES]}
        present = {k: _FORMER_NAMES[name] for k, name in former.items()}
        return cls(**{**data, **tuples, **present})


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))
