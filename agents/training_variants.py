"""The named training variants, each a few fields of the configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.plugins.deprecated_names import renamed_choice


@dataclass(frozen=True)
class Variant:
    """A way of training.

    Args:
        name: of the table and of ``llmsched train --variant``.
        description: one line.
        fields: of :class:`TrainingConfiguration` that differ from the defaults.
    """

    name: str
    description: str
    fields: dict[str, Any]

    def configuration(self, instance: dict[str, Any], **more: Any) -> TrainingConfiguration:
        """The training configuration; what is given by name comes on top."""
        return TrainingConfiguration(instance, **{**self.fields, **more})


_FROM_SCRATCH = {"center": "middle"}
# The action space that `gym.make("LLMSched-v0")` gives.
_RATES = {
    "gate": "token-bucket",
    "router": "randomized",
    "pools": "static",
    "controls": ("admission", "routing", "pool"),
}
_EVENT = {
    "control": "event",
    "algorithm": "maskable-ppo",
    "router": "agent",
    "imitate": "trunk-reservation",
    "imitation_steps": 64_000,
    # Ten times as many decisions per second as with fixed-step control, each as dear.
    "evaluation_every": 100,
    "evaluation_warmup": 20.0,
    "evaluation_horizon": 100.0,
}
_ROUTING = {
    "control": "routing",
    "algorithm": "maskable-ppo",
    "imitate": "earliest-finish",
    "imitation_steps": 32_000,
    "references": ("reuse-bid", "earliest-finish", "weighted"),
    "evaluation_every": 50,
}
_TOKEN_BUCKET = {"gate": "token-bucket", "router": "prefill-aware", "controls": ("admission",)}
VARIANTS = (
    Variant(
        "ppo-residual",
        "PPO that learns corrections of trunk reservation's priorities and reserves (default)",
        {},
    ),
    Variant(
        "ppo",
        "PPO from scratch on priorities and reserves: the action 0 is the middle of their ranges",
        _FROM_SCRATCH,
    ),
    Variant(
        "ppo-rates",
        "PPO from scratch on admission, routing and pool, the action space of `LLMSched-v0`",
        {**_RATES, **_FROM_SCRATCH},
    ),
    Variant(
        "plan",
        "PPO around the fluid plan's admission, routing and pool; token bucket, static pools",
        _RATES,
    ),
    Variant(
        "token-bucket",
        "PPO around the token bucket's admission rates; dynamic pools",
        _TOKEN_BUCKET,
    ),
    Variant(
        "imitation",
        "ppo, after cloning trunk reservation",
        {**_FROM_SCRATCH, "imitate": "trunk-reservation"},
    ),
    Variant(
        "imitation-mpc",
        "ppo, after cloning fluid-mpc",
        {**_FROM_SCRATCH, "imitate": "fluid-mpc"},
    ),
    Variant("frame-stack", "ppo-residual, seeing the last four observations", {"frame_stack": 4}),
    Variant(
        "recurrent",
        "ppo-residual with an LSTM",
        {"algorithm": "recurrent-ppo", "hidden_units": (64,)},
    ),
    Variant(
        "per-class",
        "ppo-residual with one network shared by the classes, which serves any number of them",
        {"network": "per-class"},
    ),
    Variant("sac", "ppo-residual, learned with SAC", {"algorithm": "sac"}),
    Variant("tqc", "ppo-residual, learned with TQC", {"algorithm": "tqc"}),
    Variant(
        "ars",
        "ppo-residual, a linear policy learned by random search",
        {
            "algorithm": "ars",
            "n_envs": 8,
            "rollout_steps": 400,
            "hidden_units": (),
            "learning_rate": 0.02,
        },
    ),
    Variant(
        "common-random-numbers",
        "ppo-residual, paid for what it earns beyond trunk reservation on the same requests",
        {"reward_reference": "center"},
    ),
    Variant(
        "crn-returns",
        "common-random-numbers, crediting an action with all that follows (lambda 1)",
        {"reward_reference": "center", "gae_lambda": 1.0},
    ),
    Variant(
        "group-relative",
        "ppo-residual, paid for what it earns beyond three others on the same requests",
        {"reward_reference": "group"},
    ),
    Variant(
        "per-class-crn",
        "per-class with common-random-numbers",
        {"network": "per-class", "reward_reference": "center"},
    ),
    Variant(
        "ppo-lagrangian",
        "token-bucket that keeps budgets of costs: their multipliers follow the observed costs",
        # Multipliers change when episodes end: with every rollout.
        {**_TOKEN_BUCKET, "constraint": "lagrangian", "horizon": 100.0, "evaluation_every": 10},
    ),
    Variant(
        "event",
        "masked PPO at events, after cloning trunk reservation",
        _EVENT,
    ),
    Variant(
        "routing",
        "masked PPO that routes arrivals, after cloning earliest-finish",
        _ROUTING,
    ),
)


_FORMER_NAMES = {"credit-gate": "token-bucket", "trunk": "ppo-residual", "raw": "ppo"}


def variant(name: str) -> Variant:
    """The variant of this name; raises ConfigurationError."""
    name = renamed_choice("variant", name, _FORMER_NAMES)
    for found in VARIANTS:
        if found.name == name:
            return found
    raise ConfigurationError("variant", name, f"one of {', '.join(v.name for v in VARIANTS)}")
