"""The trained rule that comes with the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import SHIPPED, LearnedRule
from llm_sched_env.policies.registry import resolve_policy


def instance_of(n_classes: int) -> lse.Instance:
    """The overload instance with its traffic shared by so many classes of different lengths."""
    overload = lse.presets.overload()
    factors = np.linspace(0.5, 1.5, n_classes) if n_classes > 1 else np.ones(1)
    classes = []
    for k, factor in enumerate(factors):
        model = overload.classes[k % 2]
        classes.append(
            replace(
                model,
                name=f"class-{k}",
                prompt_tokens=float(model.prompt_tokens * factor),
                arrival_rate=2.0 / n_classes,
            )
        )
    return replace(overload, classes=tuple(classes))


def test_the_file_is_whole() -> None:
    rule = LearnedRule.load(SHIPPED / "learned.json")
    assert rule.configuration["instance"] is None, "a generalist is trained on random instances"
    assert rule.configuration["generations"] == rule.generations
    assert all(row["gain"] > 2.0 * row["gain_error"] > 0.0 for row in rule.curve[-2:])
    assert np.abs(rule.network.gain).max() > 1.0
    assert set(rule.versions) >= {"llm-sched-env", "numpy", "numba"}


def test_the_name_is_the_file() -> None:
    name, policy = resolve_policy("learned")
    assert name == "learned"
    assert isinstance(policy, lse.DispatchRule)
    assert policy.correction is not None
    assert policy.foresight == 10.0
    shipped = LearnedRule.load(SHIPPED / "learned.json").network
    np.testing.assert_array_equal(policy.correction.parameters, shipped.parameters)


@pytest.mark.parametrize("n_classes", [1, 2, 8, 16])
@pytest.mark.parametrize("n_gpus", [1, 7, 300])
def test_it_runs_on_any_instance_and_cluster(n_classes: int, n_gpus: int) -> None:
    settings = {"horizon": 40.0 if n_gpus > 99 else 200.0, "warmup": 10.0, "replications": 1}
    instance = instance_of(n_classes)
    learned = lse.evaluate("learned", instance, n_gpus, **settings)
    trunk = lse.evaluate("trunk-reservation", instance, n_gpus, **settings)
    assert learned.requests["arrived"] == trunk.requests["arrived"] > 100
    assert learned.score.mean > 0.5 * trunk.score.mean > 0
