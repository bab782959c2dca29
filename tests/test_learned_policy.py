"""The trained rule that comes with the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import SHIPPED, LearnedRule
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.policies.registry import resolve_policy
from research.rule_training import specialists
from research.setups.traffic_scenarios import REPLAY
from research.studies import changing_traffic, learned_rules


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


@pytest.mark.parametrize("name", specialists.names())
def test_a_specialist_is_what_its_name_says(name: str) -> None:
    file = LearnedRule.load(SHIPPED / "specialists" / f"{name}.json")
    instance, n_gpus = file.configuration["instance"], file.configuration["n_gpus"]
    traffic = REPLAY if file.configuration["trace"] else instance["name"]
    assert name == f"{traffic.replace('-', '_')}_{n_gpus}"
    # Some went on from a specialist of the same traffic.
    assert file.configuration["initial"] in {"learned", f"agents/rules/specialists/{name}.json"}
    settings = {"horizon": 60.0, "warmup": 10.0, "replications": 1}
    policy = f"research.rule_training.specialists:{name}"
    by_path = lse.evaluate(policy, instance, n_gpus, **settings)
    assert by_path.scores == lse.evaluate(file.rule, instance, n_gpus, **settings).scores


def test_the_studies_name_the_specialists_that_ship() -> None:
    named = {**learned_rules.SPECIALISTS, **changing_traffic.SPECIALISTS}
    assert {path.rpartition(":")[2] for path in named.values()} == set(specialists.names())
    for (instance, n_gpus), path in named.items():
        assert path.endswith(f":{instance.replace('-', '_')}_{n_gpus}")


def test_a_specialist_that_does_not_ship_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no_such_5"):
        lse.evaluate("research.rule_training.specialists:no_such_5", "base", 5, horizon=10.0)
