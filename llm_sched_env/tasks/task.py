"""What a task is: a base environment with its arguments, and how policies are measured on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_sched_env.envs.configuration import CONTROL_MEANING
from llm_sched_env.envs.event_configuration import EVENT_MEANING
from llm_sched_env.envs.routing_configuration import ROUTING_MEANING
from llm_sched_env.tasks.forms import Form

INTERVAL, EVENT, ROUTING = "LLMSched-v0", "LLMSchedEvent-v0", "LLMSchedRouting-v0"
CONTROLS = {INTERVAL: "interval", EVENT: "event", ROUTING: "routing"}
"""Base environments, and what policies in Python call their control."""
_MEANING = {INTERVAL: CONTROL_MEANING, EVENT: EVENT_MEANING, ROUTING: ROUTING_MEANING}

FLUID, HINDSIGHT = "fluid", "hindsight"
"""Bounds: R* of the measured requests, and the most that who knows all arrivals can earn."""
SOLVED = 0.01
"""A task whose best rule is so near its bound is for checking an algorithm."""


@dataclass(frozen=True)
class HeldOut:
    """The runs on which policies are measured: no agent may train on their requests.

    Attributes:
        horizon: simulated seconds, warm-up included; of a trace: None, the whole held-out part.
        warmup: seconds that are not measured.
        replications: independent runs.
        seed: of all of them.
    """

    horizon: float | None = 900.0
    warmup: float = 300.0
    replications: int = 16
    seed: int = 2026


@dataclass(frozen=True, eq=False)
class Task:
    """A registered task.

    Attributes:
        name: of ``LLMSched/NAME-v0``.
        title: in a few words.
        purpose: what it asks of a learner, in sentences.
        environment: base environment, :data:`INTERVAL`, :data:`EVENT` or :data:`ROUTING`.
        settings: arguments of the base environment; who makes the task may give others.
        serving: registered policies that do what serving systems do.
        rules: further rules that it is measured against.
        learned: trained policies that ship, as registered names, import paths or files.
        form: what it adds to the base environment.
        bound: :data:`FLUID` or :data:`HINDSIGHT`.
        held_out: how policies are measured.

    Example:
        >>> from llm_sched_env.tasks import task
        >>> found = task("Overload5")
        >>> found.id, found.n_gpus
        ('LLMSched/Overload5-v0', 5)
    """

    name: str
    title: str
    purpose: str
    environment: str
    settings: Mapping[str, Any]
    serving: tuple[str, ...]
    rules: tuple[str, ...]
    learned: tuple[str, ...] = ()
    form: Form = field(default_factory=Form)
    bound: str = FLUID
    held_out: HeldOut = field(default_factory=HeldOut)

    @property
    def id(self) -> str:
        """What ``gym.make`` takes."""
        return f"LLMSched/{self.name}-v0"

    @property
    def n_gpus(self) -> int:
        """Cluster size n."""
        return int(self.settings["n_gpus"])

    @property
    def revenue(self) -> str:
        """Which requests are paid for."""
        return str(self.settings.get("revenue", "all"))

    def arguments(self, **given: Any) -> dict[str, Any]:
        """Arguments of the environment; those given come in the place of the task's own."""
        return self.form.arguments({**self.settings, **given})

    @property
    def meaning(self) -> dict[str, Any]:
        """What an action means, as the attribute ``environment`` of a policy says it."""
        names = _MEANING[self.environment]
        own = {name: self.settings[name] for name in names if name in self.settings}
        return {"control": CONTROLS[self.environment], **own}

    def run_arguments(self, seed: int | None = None) -> dict[str, Any]:
        """Arguments of :func:`llm_sched_env.evaluate` but policy and replications."""
        held_out = self.held_out
        return {
            "instance": self.settings.get("instance"),
            "n_gpus": self.n_gpus,
            "revenue": self.revenue,
            "horizon": held_out.horizon,
            "warmup": held_out.warmup,
            "seed": held_out.seed if seed is None else seed,
            **self.form.requests(self.n_gpus),
        }
