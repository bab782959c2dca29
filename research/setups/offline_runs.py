"""Behaviour cloning and implicit Q-learning on recorded data of bad, middling and good policies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.agents.offline_learning import (
    METHODS,
    OfflineConfiguration,
    learn,
    read_transitions,
)
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.offline.behaviour import Behaviour
from llm_sched_env.offline.datasets import datasets_root, made_environment, record_dataset
from llm_sched_env.offline.recording import episodes

TASK = "LLMSched-v0"
ARGUMENTS = {
    "instance": "overload",
    "n_gpus": 5,
    "horizon": 300.0,
    "start": "plan",
    "gate": "net-value",
    "router": "net-value",
    "pools": "dynamic",
    "controls": ["priority", "reserve"],
}
RULE = "trunk-reservation"
SOURCES = {"random": 1.0, "middling": 0.5, "best": 0.1}
"""Share of random actions in the place of the rule's, by the name of the data."""
EPISODES, DATA_SEED, STEPS = 40, 0, 2_000
RUNS, RUN_SEED, TRAININGS = 16, 1_000_001, 2
RESULTS = Path(__file__).parents[1] / "results" / "datasets.csv"
Row = dict[str, Any]


def measure(folder: Path) -> list[Row]:
    """Record, learn and run: a row for each policy that acted, and each that was learned.

    Args:
        folder: of the datasets; those that are there are not recorded again.
    """
    rows = [_row("trunk-reservation", "", "", _scores(*_acting(RULE, 0.0)))]
    for source, epsilon in SOURCES.items():
        rows.append(_row("data", source, "", _scores(*_acting(RULE, epsilon))))
        rows += _learned(source, _recorded(source, epsilon, folder))
    return rows


def _acting(policy: Any, epsilon: float) -> tuple[Any, Behaviour]:
    return made_environment(TASK, "random" if epsilon == 1.0 else policy, epsilon, ARGUMENTS)


def _recorded(source: str, epsilon: float, folder: Path) -> Any:
    """The dataset of a source, recorded unless it is there."""
    from minari import MinariDataset

    name = f"overload/{source}-v0"
    place = datasets_root(folder) / name
    if not place.exists():
        policy = "random" if epsilon == 1.0 else RULE
        record_dataset(
            name,
            TASK,
            policy,
            EPISODES,
            seed=DATA_SEED,
            epsilon=epsilon,
            arguments=ARGUMENTS,
            root=folder,
        )
    return MinariDataset(place / "data")


def _learned(source: str, dataset: Any) -> Iterator[Row]:
    data = read_transitions(dataset)
    for method in METHODS:
        for seed in range(TRAININGS):
            policy = learn(data, OfflineConfiguration(method=method, steps=STEPS, seed=seed))
            yield _row(method, source, str(seed), _scores(*_acting(policy, 0.0)))


def _scores(env: Any, acting: Behaviour) -> np.ndarray:
    """The mean reward of each of the same episodes, shape (RUNS,): the share of R*."""
    return np.array([e.rewards.mean() for e in episodes(env, acting, RUNS, RUN_SEED)])


def _row(learner: str, source: str, training: str, scores: np.ndarray) -> Row:
    estimate = Estimate.of(scores)
    return {
        "learner": learner,
        "data": source,
        "training": training,
        "score": estimate.mean,
        "score_low": estimate.ci95[0],
        "score_high": estimate.ci95[1],
    }
