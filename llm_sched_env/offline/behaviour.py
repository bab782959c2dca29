"""Policies that collect data: any policy, in the actions of one Gymnasium environment."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import gymnasium as gym
import numpy as np

from llm_sched_env.baselines.event_rules import EventRule
from llm_sched_env.baselines.routing_rules import ROUTING_RULES, RoutingRule
from llm_sched_env.envs.cluster_control import ClusterControl
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.policies.registry import PythonPolicy, resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule

CONTROL_BY_TASK = {
    "LLMSched-v0": "interval",
    "LLMSchedEvent-v0": "event",
    "LLMSchedRouting-v0": "routing",
}
"""Environments whose arguments follow from the policy where nobody gave them."""
OWN_POLICIES = ("random", "plan", "wait")
"""Policies that need no name in the registry."""

# The environment's gate and router by the compiled rule's.
_GATES = {
    "occupancy": "occupancy",
    "credit": "token-bucket",
    "largest-credit": "token-bucket",
    "bid-price": "net-value",
}
_ROUTERS = {"bid-price": "net-value"}
# What an action means: fields of each validated configuration.
_MEANING = {
    "interval": ("interval", "gate", "router", "pools", "controls"),
    "event": ("rule", "wake_interval"),
    "routing": ("candidates", "load", "rule"),
}
_CONFIGURATIONS: dict[str, type[Any]] = {
    "interval": IntervalConfiguration,
    "event": EventConfiguration,
    "routing": RoutingConfiguration,
}


class HeldPlan:
    """The plan as one action held for ever: what a compiled rule does in ``LLMSched-v0``.

    Args:
        rule: what the environment has to dispatch by; None: whatever it dispatches by.
    """

    def __init__(self, rule: DispatchRule | None = None) -> None:
        self.rule = rule
        self._action = np.zeros(0, np.float32)

    def begin(self, control: IntervalControl) -> None:
        """Find the plan's action of an episode."""
        self._action = control.plan_action

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The same action in every interval."""
        del observation, info
        return self._action


class _Meaning(NamedTuple):
    """What a held plan needs: a rule."""

    rule: DispatchRule


class Behaviour:
    """A policy that acts in an environment, now and then at random.

    Args:
        name: of the policy.
        policy: what acts; None: every action is random.
        epsilon: probability of a random action, each step anew.
    """

    def __init__(self, name: str, policy: PythonPolicy | HeldPlan | None, epsilon: float) -> None:
        self.name = name
        self._policy = policy
        self._epsilon = epsilon if policy is not None else 1.0
        self._rng = np.random.default_rng()

    @property
    def environment(self) -> dict[str, Any]:
        """Arguments of a base environment under which the policy's actions are what it means.

        Raises:
            ConfigurationError: for a compiled rule that is no constant action there.
        """
        if isinstance(self._policy, HeldPlan):
            return _held_environment(self.name, self._policy.rule)
        needed = dict(getattr(self._policy, "environment", {}))
        needed.pop("control", None)
        return needed

    def require_meaning(self, env: gym.Env[Any, Any]) -> None:
        """Raise ConfigurationError unless actions mean in an environment what the policy means."""
        control = control_of(env)
        kind, cluster = kind_of(control), control.cluster
        fields, wanted = _MEANING[kind], control.configuration
        if isinstance(self._policy, HeldPlan):
            # It sets what is controlled to the plan, and the rest is there already.
            fields, rule = ("rule",), self._policy.rule
            wanted = wanted if rule is None else _Meaning(rule)
        elif needed := self.environment:
            arguments = (cluster.instance, cluster.n_gpus)
            wanted = _CONFIGURATIONS[kind].validated(*arguments, **needed)
        for field in fields:
            got, expected = getattr(control.configuration, field), getattr(wanted, field)
            if got != expected:
                raise ConfigurationError(
                    f"{field} of the task", got, f"{expected!r}, as the policy {self.name} needs"
                )

    def reset(self, env: gym.Env[Any, Any], seed: np.random.SeedSequence) -> None:
        """Prepare for the episode that the environment has just begun."""
        own, other = seed.spawn(2)
        self._rng = np.random.default_rng(own)
        env.action_space.seed(int(self._rng.integers(2**31)))
        if self._policy is None:
            return
        control: Any = control_of(env)
        if isinstance(self._policy, HeldPlan):
            self._policy.begin(control)
        else:
            cluster, rng = control.cluster, np.random.default_rng(other)
            self._policy.reset(cluster.instance, control.plan, cluster.n_gpus, rng)

    def act(self, env: gym.Env[Any, Any], observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The action of this step, as the environment takes it."""
        # A policy is asked also where its action is not taken: it may keep count.
        chosen = None if self._policy is None else self._policy.act(observation, info)
        if chosen is None or self._rng.random() < self._epsilon:
            return env.action_space.sample()
        space = env.action_space
        return np.asarray(chosen, space.dtype) if isinstance(space, gym.spaces.Box) else int(chosen)


def control_of(env: gym.Env[Any, Any]) -> ClusterControl[Any, Any, Any]:
    """What an environment of this package runs; raises ConfigurationError for another's."""
    control = getattr(env.unwrapped, "control", None)
    if not isinstance(control, ClusterControl):
        raise ConfigurationError("task", env.unwrapped, "an environment of llm_sched_env")
    return control


def kind_of(control: ClusterControl[Any, Any, Any]) -> str:
    """The kind of control of an environment: ``interval``, ``event`` or ``routing``."""
    if isinstance(control, IntervalControl):
        return "interval"
    return "routing" if isinstance(control, RoutingControl) else "event"


def behaviour(policy: Any, kind: str, epsilon: float = 0.0) -> Behaviour:
    """A policy that collects data.

    Args:
        policy: ``random``; ``plan``, the fluid plan as a constant action (``LLMSched-v0``);
            ``wait``, that never starts anything (``LLMSchedEvent-v0``); a name of
            :data:`.ROUTING_RULES` in ``LLMSchedRouting-v0``; or whatever
            :func:`.resolve_policy` takes. Compiled rules act where their decisions are actions.
        kind: of control whose actions are meant, ``interval``, ``event`` or ``routing``.
        epsilon: probability of a random action instead.

    Raises:
        ConfigurationError: for a policy that cannot act under this kind of control.

    Example:
        >>> behaviour("trunk-reservation", "interval").environment["gate"]
        'net-value'
    """
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon <= 1:
        raise ConfigurationError("epsilon", epsilon, "a probability from 0 to 1")
    if policy == "random":
        return Behaviour("random", None, 1.0)
    name, found = _found(policy, kind)
    means = getattr(found, "environment", {"control": kind})
    if not isinstance(found, HeldPlan) and dict(means).get("control", "interval") != kind:
        raise ConfigurationError(
            "policy", name, f"one whose actions are those of {kind} control, as the task's are"
        )
    return Behaviour(name, found, epsilon)


def _found(policy: Any, kind: str) -> tuple[str, PythonPolicy | HeldPlan]:
    """What acts under a kind of control, and its name."""
    if policy == "plan" and kind == "interval":
        return "plan", HeldPlan()
    if policy == "wait" and kind == "event":
        return "wait", _Waiting()
    if kind == "routing" and policy in ROUTING_RULES:
        return str(policy), RoutingRule(policy)
    if isinstance(policy, str) and policy in OWN_POLICIES:
        raise ConfigurationError("policy", policy, f"one that acts under {kind} control")
    name, found = resolve_policy(policy)
    if not isinstance(found, DispatchRule):
        return name, found
    if kind == "event":
        return name, EventRule(found)
    if kind == "interval":
        return name, HeldPlan(found)
    raise ConfigurationError("policy", name, f"one of {', '.join(ROUTING_RULES)}, or an agent")


def _held_environment(name: str, rule: DispatchRule | None) -> dict[str, Any]:
    """Arguments under which the plan as a constant action is a rule; raises ConfigurationError."""
    if rule is None:
        return {}
    environment: dict[str, Any] = {
        "gate": _GATES.get(rule.gate, ""),
        "router": _ROUTERS.get(rule.router, rule.router),
        "pools": rule.pools,
    }
    expected = "a rule that is a constant action, such as gate-and-route or trunk-reservation"
    try:
        played = IntervalConfiguration.validated(**environment).rule
    except ConfigurationError as error:
        raise ConfigurationError("policy", name, expected) from error
    if played != rule:
        raise ConfigurationError("policy", name, expected)
    return environment


class _Waiting:
    """Nothing is ever started, whatever the other actions mean."""

    name = "wait"
    environment: ClassVar[dict[str, Any]] = {"control": "event"}

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Nothing to prepare."""

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """Wait for the next event."""
        del observation, info
        return 0
