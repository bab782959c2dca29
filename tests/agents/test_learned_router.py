"""The trained router: one function of every candidate, the same single and batched; its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.agents.learned_router import (
    FEATURES,
    CandidateFeatures,
    LearnedRouter,
    RouterNetwork,
    load_router,
    scores,
)
from llm_sched_env.agents.learned_rule import load_rule
from llm_sched_env.baselines.routing_rules import RoutingRule
from llm_sched_env.envs.routing_space import CANDIDATE_NUMBERS
from llm_sched_env.errors import CheckpointError
from llm_sched_env.tasks.task_instances import sessions

ENVIRONMENT = {"control": "routing", "candidates": 4}
TIMES = {"horizon": 20.0, "warmup": 5.0, "replications": 1}


def network(seed: int, n_classes: int = 2, units: int = 3) -> RouterNetwork:
    shapes = RouterNetwork.shapes(n_classes, units)
    size = sum(int(np.prod(shape)) for shape in shapes.values())
    return RouterNetwork.of(np.random.default_rng(seed).normal(size=size), n_classes, units)


def earliest_finish() -> RouterNetwork:
    shapes = RouterNetwork.shapes(2, 1)
    parts = {name: np.zeros(shape) for name, shape in shapes.items()}
    parts["direct"][:, FEATURES.index("finish")] = -1.0
    return RouterNetwork(**parts)


def numbers(seed: int, rows: int, actions: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.0, 2.0, (rows, actions)) for name in CANDIDATE_NUMBERS}


def test_networks_of_a_population_score_as_each_alone() -> None:
    features, rows = CandidateFeatures(sessions()), 5
    known, rng = numbers(0, rows), np.random.default_rng(1)
    classes, prompts = rng.integers(0, 2, rows), rng.uniform(1.0, 9000.0, rows)
    nets = [network(k) for k in range(rows)]
    stacked = RouterNetwork(
        *(np.stack([getattr(n, name) for n in nets]) for name in RouterNetwork.shapes(1, 1))
    )
    together = scores(stacked, features(known, classes, prompts), classes)
    for k, own in enumerate(nets):
        one = {name: values[k] for name, values in known.items()}
        alone = scores(own, features(one, classes[k], prompts[k]), int(classes[k]))
        assert alone == pytest.approx(together[k])


def test_a_candidate_has_the_score_that_it_has_anywhere() -> None:
    features = CandidateFeatures(sessions())
    one = {name: values[0] for name, values in numbers(2, 1).items()}
    turned = {name: values[::-1] for name, values in one.items()}
    straight, reverse = (scores(network(0), features(k, 1, 500.0), 1) for k in (one, turned))
    assert straight == pytest.approx(reverse[::-1])


def test_the_first_network_is_the_rule_that_it_starts_from() -> None:
    router = LearnedRouter(earliest_finish(), ENVIRONMENT, {})
    own = lse.evaluate(router, sessions(), 4, revenue="goodput", **TIMES)
    rule = lse.evaluate(RoutingRule("earliest-finish"), sessions(), 4, revenue="goodput", **TIMES)
    assert own.score.mean == pytest.approx(rule.score.mean, abs=0.03)


def test_a_file_is_read_back_and_another_is_refused(tmp_path: Path) -> None:
    router = LearnedRouter(network(0), ENVIRONMENT, {"steps": 3, "seconds": 1.0})
    router.save(tmp_path / "own.json")
    loaded = load_rule(tmp_path / "own.json")
    assert isinstance(loaded, LearnedRouter)
    assert loaded.name == "own"
    assert loaded.training == router.training
    assert loaded.network.hidden == pytest.approx(router.network.hidden, abs=1e-5)
    with pytest.raises(CheckpointError, match="of 3 classes, expected 2"):
        loaded.require_classes(3)
    content = json.loads((tmp_path / "own.json").read_text())
    content["weights"]["output"] = [float("nan")] * 3
    (tmp_path / "spoilt.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="got no router"):
        load_router(tmp_path / "spoilt.json")
    with pytest.raises(CheckpointError, match="no such file"):
        load_router(tmp_path / "absent.json")
