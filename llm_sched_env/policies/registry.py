"""Policies by name: a registry that other packages extend through an entry-point group.

A policy is a :class:`llm_sched_env.DispatchRule` (compiled), or any object with
``reset(instance, plan, n_gpus, rng)`` and ``act(observation, info) -> action``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.plugins.user_code import import_attribute, user_code
from llm_sched_env.policies.reuse_policies import is_reuse_policy, reuse_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule

POLICY_GROUP = "llm_sched_env.policies"
CHECKPOINT_GROUP = "llm_sched_env.checkpoints"
_DISTRIBUTION = "llm-sched-env"
_POLICY = "a DispatchRule or an object with reset(...) and act(...)"


@runtime_checkable
class PythonPolicy(Protocol):
    """A scheduler in Python, called once per interval or at each decision.

    An optional attribute ``environment`` holds keyword arguments of ``LLMSched-v0`` (``gate``,
    ``router``, ``pools``, ``controls``, ``interval``) that say what its actions mean. With
    ``"control": "event"`` among them they are those of ``LLMSchedEvent-v0`` (``router``,
    ``pools``, ``wake_interval``), with ``"control": "routing"`` those of ``LLMSchedRouting-v0``
    (``candidates``, ``load``, ``scheduler``, ``refresh_seconds``), and an action is one of its
    integers.
    """

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The action of the next interval, or of this decision."""


Policy = DispatchRule | PythonPolicy


@dataclass(frozen=True)
class RegisteredPolicy:
    """An entry of the registry.

    Args:
        description: one line for ``llmsched policies``.
        make: builds the policy.
        aliases: other names, such as the paper's abbreviation.
        source: where it is defined.
        trained: whether it was fitted to instances, unlike a rule.
    """

    description: str
    make: Callable[[], Policy]
    aliases: tuple[str, ...] = ()
    source: str = ""
    trained: bool = False


@cache
def registered_policies() -> dict[str, RegisteredPolicy]:
    """Every policy registered by an installed package, by name, in alphabetical order.

    Example:
        >>> "trunk-reservation" in registered_policies()
        True
    """
    found = {}
    for point in sorted(entry_points(group=POLICY_GROUP), key=lambda p: p.name):
        what = f"registered policy {point.name} ({point.value})"
        with user_code(what):
            loaded = point.load()
        if not isinstance(loaded, RegisteredPolicy):
            make = _maker(loaded, what)
            loaded = RegisteredPolicy(f"from {point.value}", make, source=point.value)
        found[point.name] = loaded
    return found


def _maker(loaded: Any, what: str) -> Callable[[], Policy]:
    """A function that builds the policy from a rule, a class, a factory or an instance."""
    if isinstance(loaded, DispatchRule):
        return lambda: loaded
    if not isinstance(loaded, type) and isinstance(loaded, PythonPolicy):
        return lambda: loaded
    if not callable(loaded):
        raise ConfigurationError(what, loaded, f"{_POLICY}, or a callable that returns one")

    def make() -> Policy:
        with user_code(what):
            made = loaded()
        return _checked(made, f"what {what} makes")

    return make


def _checked(policy: Any, what: str = "policy") -> Policy:
    if not isinstance(policy, type) and isinstance(policy, (DispatchRule, PythonPolicy)):
        return policy
    raise ConfigurationError(what, policy, _POLICY)


def resolve_policy(policy: Any) -> tuple[str, Policy]:
    """A policy and its name.

    Args:
        policy: a registered name or alias, a router of prefix caches with its options
            (:mod:`.reuse_policies`), ``package.module:attribute``, the path of a checkpoint, a
            rule, or an object with ``reset`` and ``act``.

    Raises:
        ConfigurationError: for a name that nothing answers to, or what is no policy.
        Exception: whatever a module or factory of the policy raises, with its own traceback.

    Example:
        >>> resolve_policy("GG-SP")[0]
        'gate-and-route'
    """
    if isinstance(policy, Path):
        policy = str(policy)
    if not isinstance(policy, str):
        named = _checked(policy)
        return str(getattr(policy, "name", None) or type(policy).__name__), named
    for name, entry in registered_policies().items():
        if policy.lower() in {name, *(alias.lower() for alias in entry.aliases)}:
            with user_code(f"policy {name}"):
                return name, entry.make()
    if is_reuse_policy(policy):
        return policy, reuse_policy(policy)
    if is_checkpoint(policy):
        return _checkpoint_name(policy), _load_checkpoint(policy)
    if ":" in policy:
        return policy.partition(":")[2], _import_policy(policy)
    raise ConfigurationError(
        "policy",
        policy,
        f"one of {', '.join(registered_policies())}",
        "or give package.module:Name, or the path of a checkpoint (.zip) or a trained rule (.json)",
    )


def is_checkpoint(text: str) -> bool:
    """Whether a text is the path of a file that is opened as a policy, by its suffix."""
    return Path(text).suffix.lstrip(".") in entry_points(group=CHECKPOINT_GROUP).names


def resolve_agent(path: str, instance: str | None) -> tuple[str, Policy]:
    """A competitor from a checkpoint, and its name.

    Those that compete on one ``instance`` each are one competitor together, such as ``ppo``.
    """
    name, policy = resolve_policy(path)
    return (name if instance is None else str(getattr(policy, "name", "tuned-rule"))), policy


def _checkpoint_name(path: str) -> str:
    """Its folder tells it where the training named the file: agent.zip, rule.json."""
    file = Path(path)
    told_by_folder = file.stem in {"agent", "rule"} and file.parent.name
    return file.parent.name if told_by_folder else file.stem


def _load_checkpoint(path: str) -> Policy:
    """The policy of a file, opened by what is registered for its suffix."""
    try:
        loader = entry_points(group=CHECKPOINT_GROUP)[Path(path).suffix.lstrip(".")]
        with user_code(f"checkpoint {path}"):
            policy = loader.load()(path)
    except ImportError as error:
        if loader.dist is None or loader.dist.name != _DISTRIBUTION:
            raise
        raise ConfigurationError(
            f"The policy {path!r} needs the extra 'agents' ({error}); install it with "
            "`pip install 'llm-sched-env[agents]' -c constraints.txt`."
        ) from error
    return _checked(policy, f"checkpoint {path}")


def _import_policy(path: str) -> Policy:
    return _maker(import_attribute(path, "policy"), f"policy {path}")()
