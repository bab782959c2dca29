"""Train the network of a router. Read this file from top to bottom.

python -m research train-router --task SessionRouting --out runs/session-router

An evolution strategy (arXiv 1703.03864): antithetic pairs of networks route the same requests, all
pairs side by side in one batch of clusters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.agents.learned_router import (
    FEATURES,
    CandidateFeatures,
    LearnedRouter,
    RouterNetwork,
    scores,
)
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.envs.routing_space import CANDIDATE_NUMBERS
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.files.atomic import make_folder
from llm_sched_env.tasks.task import Task
from research.rule_training.evolution import Momentum

ROUTER_NAME = "router.json"
# Streams of the seed: noise, requests to learn from, requests to validate on.
_NOISE, _TRAINING, _VALIDATION = range(3)
_STREAM = 6_120_551
_AVERAGED = 20.0
_SMALL = 0.002
_GREATEST_DIFFERENCE = 3.0
# At first the GPU where the prefill ends first, and no hidden unit has an effect.
_FIRST_FINISH = -4.0


@dataclass(frozen=True)
class RouterTraining:
    """All knobs of a training.

    Attributes:
        task: its name.
        generations: steps of the evolution strategy.
        pairs: antithetic pairs in a generation.
        units: of the hidden layer.
        noise: standard deviation of each weight in a population.
        step: of each weight in a generation, in units of the noise; falls to a tenth.
        horizon: seconds of a run.
        warmup: of these, seconds that do not count: caches fill.
        validate_every: generations.
        seed: of everything.
    """

    task: str
    generations: int = 60
    pairs: int = 16
    units: int = 8
    noise: float = 0.5
    step: float = 0.3
    horizon: float = 200.0
    warmup: float = 60.0
    validate_every: int = 30
    seed: int = 0

    def step_size(self, generation: int) -> float:
        """Of a generation (0, 1, ...)."""
        part = 0.5 * (1.0 + math.cos(math.pi * generation / self.generations))
        return self.step * (0.1 + 0.9 * part)


def train_router(
    settings: RouterTraining,
    task: Task,
    out: Path,
    on_generation: Callable[[dict[str, float]], None] | None = None,
) -> Path:
    """Train a router on a task and write ``out/router.json``.

    Args:
        settings: all knobs.
        task: which; of its traces only the first half is seen.
        out: folder of the run.
        on_generation: called after each with its number, mean score and, when it was validated,
            the gain over where the prefill ends first.
    """
    make_folder(out)
    clusters = _Clusters(settings, task)
    weights = clusters.first_weights()
    average, momentum = weights.copy(), Momentum(np.zeros(len(weights)))
    curve: list[dict[str, float]] = []
    started = time.perf_counter()
    for g in range(settings.generations):
        noise = _rng(settings, _NOISE, g).normal(size=(settings.pairs, len(weights)))
        moved = settings.noise * noise
        population = np.stack([weights + moved, weights - moved], axis=1)
        earned = clusters.earned(population.reshape(-1, len(weights)), _TRAINING, g)
        pairs = earned.reshape(settings.pairs, 2)
        differences = pairs[:, 0] - pairs[:, 1]
        unit = np.sqrt(np.mean(differences**2)) + _SMALL
        limited = np.clip(differences / unit, -_GREATEST_DIFFERENCE, _GREATEST_DIFFERENCE)
        direction = momentum.step(limited @ noise / settings.pairs)
        weights = weights + settings.step_size(g) * settings.noise * direction
        average += (weights - average) / min(_AVERAGED, g + 1.0)
        row = {"generation": g + 1.0, "score": float(earned.mean())}
        if (g + 1) % settings.validate_every == 0:
            row |= clusters.gain(average)
            curve.append({**row, "seconds": round(time.perf_counter() - started, 1)})
            _save(settings, task, clusters, average, curve, out)
        if on_generation is not None:
            on_generation(row)
    _save(settings, task, clusters, average, curve, out)
    return out / ROUTER_NAME


class _Clusters:
    """The clusters of a population, and what networks earn on them."""

    def __init__(self, settings: RouterTraining, task: Task) -> None:
        self._settings = settings
        self._rows = 2 * settings.pairs
        chosen = task.arguments(horizon=settings.horizon)
        configuration = RoutingConfiguration.validated(**chosen)
        self.control: RoutingControl = task.form.routing_control(configuration, self._rows, 1)
        self._features = CandidateFeatures(configuration.cluster.instance)
        self.n_classes = configuration.cluster.instance.n_classes
        self.steps = 0

    def first_weights(self) -> np.ndarray:
        """Where the prefill ends first; hidden weights are random, without effect."""
        shapes = RouterNetwork.shapes(self.n_classes, self._settings.units)
        rng = _rng(self._settings, _NOISE, 1_000_000)
        parts = {name: np.zeros(shape) for name, shape in shapes.items()}
        parts["direct"][:, FEATURES.index("finish")] = _FIRST_FINISH
        parts["hidden"] = rng.normal(size=shapes["hidden"]) / np.sqrt(len(FEATURES))
        return np.concatenate([part.ravel() for part in parts.values()])

    def earned(self, weights: np.ndarray, stream: int, number: int) -> np.ndarray:
        """Shares of R* after the warm-up of networks, two by two on the same requests; (N,)."""
        network = RouterNetwork.of(weights, self.n_classes, self._settings.units)
        for k in range(self._rows):
            key = (self._settings.seed, stream, number, k // 2)
            self.control.start(k, np.random.SeedSequence([_STREAM, *key]))
        report, total = self.control.report(), np.zeros(self._rows)
        active = ~self.control.truncated()
        while active.any():
            actions = self._actions(network, report)
            report_after = self.control.empty_report()
            self.control.step(actions, report_after, active)
            counted = active & (report_after.times > self._settings.warmup)
            total[counted] += report_after.rewards[counted]
            self.steps += int(active.sum())
            report = report_after
            active = ~self.control.truncated()
        return total / (self._settings.horizon - self._settings.warmup)

    def _actions(self, network: RouterNetwork, report: Any) -> np.ndarray:
        known = {name: report.known[:, row] for row, name in enumerate(CANDIDATE_NUMBERS)}
        classes = np.maximum(report.classes, 0)
        features = self._features(known, classes, report.prompts)
        found = scores(network, features, classes)
        actions: np.ndarray = np.where(report.masks > 0, found, -np.inf).argmax(axis=1)
        return actions

    def gain(self, weights: np.ndarray) -> dict[str, float]:
        """Mean gain over the first network, in shares of R*, on requests not trained on."""
        both = np.stack([weights, self.first_weights()])
        found = [
            self.earned(np.tile(both, (self._settings.pairs, 1)), _VALIDATION, k) for k in range(2)
        ]
        differences = np.concatenate([own.reshape(-1, 2) @ [1.0, -1.0] for own in found])
        error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
        return {"gain": float(differences.mean()), "gain_error": error}


def _rng(settings: RouterTraining, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([settings.seed, stream, number]))


def _save(
    settings: RouterTraining,
    task: Task,
    clusters: _Clusters,
    weights: np.ndarray,
    curve: list[dict[str, float]],
    out: Path,
) -> None:
    network = RouterNetwork.of(weights, clusters.n_classes, settings.units)
    training = {
        **asdict(settings),
        "command": f"python -m research train-router --task {task.name} "
        f"--generations {settings.generations} --seed {settings.seed}",
        "steps": clusters.steps,
        "seconds": curve[-1]["seconds"] if curve else 0.0,
        "curve": curve,
        "versions": versions(),
    }
    LearnedRouter(network, task.meaning, training).save(out / ROUTER_NAME)
