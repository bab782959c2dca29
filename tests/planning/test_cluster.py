"""The record of a cluster: what it takes, and the plan that it solves once."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import gymnasium as gym
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning import TPOT, PrefillFairness
from llm_sched_env.planning import cluster as module
from llm_sched_env.planning.cluster import Cluster

LEVELS = ["tpot@price=3000", {"name": "prefill-fairness", "limit": 0.1}]


def test_arguments_of_users_are_resolved() -> None:
    found = Cluster.of("overload", 5, "separate", LEVELS)
    levels = (TPOT(price=3000.0), PrefillFairness(limit=0.1))
    assert found == Cluster(lse.presets.overload(), 5, "separate", levels)
    assert Cluster.of("base", 5) == Cluster.of(lse.presets.base().to_dict(), 5, "bundled", ())


WRONG = [
    ({"n_gpus": 0}, "n_gpus: got 0, expected an integer >= 1"),
    ({"n_gpus": 2.5}, "n_gpus: got 2.5, expected an integer >= 1"),
    ({"pricing": "free"}, "pricing: got 'free', expected bundled or separate"),
    ({"pricing": ["bundled"]}, r"pricing: got \['bundled'\], expected bundled or separate"),
    ({"instance": "nowhere"}, "nowhere"),
    ({"slos": 5}, "service levels: got 5, expected a list of service levels, such as"),
    ({"slos": None}, "service levels: got None, expected a list of service levels, such as"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_what_cannot_be_is_the_same_line_everywhere(wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"instance": "base", "n_gpus": 5, **wrong}
    for use in (
        lambda: Cluster.of(**given),
        lambda: lse.evaluate("trunk-reservation", **given),
        lambda: gym.make("LLMSched-v0", **given),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_the_plan_is_solved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[lse.Instance] = []

    def counted(instance: lse.Instance, *arguments: Any, **more: Any) -> lse.FluidPlan:
        solved.append(instance)
        return lse.plan(instance, *arguments, **more)

    monkeypatch.setattr(module, "plan", counted)
    cluster = Cluster.of("base", 5, slos=LEVELS)
    assert not solved
    assert cluster.plan is cluster.plan
    assert cluster.plan.slos.keys() == {"tpot", "prefill-fairness"}
    assert cluster.bound(cluster.instance) == lse.plan("base").value > cluster.plan.revenue_rate
    assert pickle.loads(pickle.dumps(cluster)).plan.value == cluster.plan.value
    assert len(solved) == 1
    other = lse.presets.base().scaled(0.5)
    assert cluster.bound(other) == lse.plan(other).value
    assert replace(cluster, instance=other).plan.given is other


def test_it_is_frozen_and_hashable() -> None:
    cluster = Cluster.of("base", 5, slos=LEVELS)
    planned = Cluster.of("base", 5, slos=LEVELS)
    assert planned.plan.value > 0
    assert {cluster, planned} == {cluster}
    with pytest.raises(FrozenInstanceError):
        cluster.n_gpus = 6  # type: ignore[misc]
