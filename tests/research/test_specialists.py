"""Rules trained for one instance and size: their weights, and who names them."""

from __future__ import annotations

import pytest

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import LearnedRule
from llm_sched_env.errors import ConfigurationError
from research.rule_training import specialists
from research.setups.traffic_scenarios import REPLAY
from research.studies import learned_rules, time_varying_arrivals


@pytest.mark.parametrize("name", specialists.names())
def test_a_specialist_is_what_its_name_says(name: str) -> None:
    file = LearnedRule.load(specialists.WEIGHTS / f"{name}.json")
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
    named = {**learned_rules.SPECIALISTS, **time_varying_arrivals.SPECIALISTS}
    assert {path.rpartition(":")[2] for path in named.values()} == set(specialists.names())
    for (instance, n_gpus), path in named.items():
        assert path.endswith(f":{instance.replace('-', '_')}_{n_gpus}")


def test_a_specialist_that_does_not_ship_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no_such_5"):
        lse.evaluate("research.rule_training.specialists:no_such_5", "base", 5, horizon=10.0)
