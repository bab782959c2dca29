"""The compared workloads: presets with other means, rates or length distributions."""

from __future__ import annotations

from llm_sched_env.model.instance import Instance
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.presets import resolve_instance
from research.setups.changed_instances import with_classes

MEANS = {"prompt_tokens": "P", "output_tokens": "D", "arrival_rate": "rates"}
"""What is scaled for all classes, with its name in labels."""

LAWS = {
    "exponential": LengthDistribution(),
    "deterministic": LengthDistribution("deterministic"),
    "gamma, cv 0.5": LengthDistribution("gamma", cv=0.5),
    "gamma, cv 2": LengthDistribution("gamma", cv=2.0),
    "log-normal, cv 1": LengthDistribution("log-normal", cv=1.0),
    "log-normal, cv 2": LengthDistribution("log-normal", cv=2.0),
}
"""Output lengths around the same means; the first is the Markov model."""


def scaled_workload(instance: str, mean: str, factor: float) -> Instance:
    """A preset whose classes have ``factor`` times the prompts, outputs or arrival rates."""
    return with_classes(
        resolve_instance(instance), lambda found: {mean: factor * getattr(found, mean)}
    )


def with_output_law(instance: str, law: str) -> Instance:
    """A preset with other output lengths around the same means."""
    return with_classes(resolve_instance(instance), lambda _: {"output_lengths": LAWS[law]})
