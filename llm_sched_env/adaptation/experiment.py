"""The whole comparison: simulate real and wrong clusters, then let every method choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.adaptation.adapt import METHODS, SIMULATOR_BEST, DayOfRuns
from llm_sched_env.adaptation.cases import DAY, LOADS, simulator_of
from llm_sched_env.adaptation.operating_points import OperatingPoint, grid
from llm_sched_env.adaptation.simulated_hours import HourRuns, simulated_hours
from llm_sched_env.bandits import Assumptions
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan

HARMLESS_LOSS = 0.01
"""A wrong simulator is harmless if its best point loses at most this share on the real cluster."""
# Settings that a result repeats.
_TOLD = (
    *("n_gpus", "hour_seconds", "warmup", "runs", "days"),
    *("repetitions", "revenue", "noise", "seed"),
)
# Of the real cluster's runs and of a simulator's: never the same requests.
_SEEDS = 2


@dataclass(frozen=True)
class Adaptation:
    """What is compared.

    Attributes:
        real: the cluster as it is, of load 1.
        simulators: names, as :func:`llm_sched_env.adaptation.cases.simulator_of` takes them.
        points: that can be chosen.
        n_gpus: cluster size.
        hour_seconds: simulated for an hour, warm-up included.
        warmup: seconds of it that are not measured.
        runs: of each point and load; an hour is one of them, drawn by lot.
        days: played.
        repetitions: of the play, with other draws; the intervals are over them.
        revenue: ``goodput`` or ``all``.
        noise: sigma that the policies assume, as a share of R* at the busiest hour.
        seed: of everything.
    """

    real: Instance
    simulators: tuple[str, ...]
    points: tuple[OperatingPoint, ...]
    n_gpus: int = 8
    hour_seconds: float = 180.0
    warmup: float = 60.0
    runs: int = 4
    days: int = 30
    repetitions: int = 10
    revenue: str = "goodput"
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_gpus", "runs", "days", "repetitions"):
            checked_integer(name, getattr(self, name))
        checked_integer("seed", self.seed, least=0)
        if not (0 < self.warmup < self.hour_seconds) or self.hour_seconds % self.warmup:
            raise ConfigurationError(
                "hour_seconds", self.hour_seconds, f"a multiple of the warm-up of {self.warmup:g} s"
            )
        if self.revenue == "goodput" and not self.real.has_deadlines:
            raise ConfigurationError(
                "revenue", self.revenue, "all, for classes without deadlines", "give them deadlines"
            )

    @property
    def evaluations(self) -> int:
        """How many simulations :meth:`run` needs."""
        return (1 + len(self.simulators)) * len(LOADS) * len(self.points)

    def run(
        self,
        executor: Executor,
        cache: Path | None = None,
        on_result: Callable[[], None] | None = None,
    ) -> AdaptationResult:
        """Simulate what is not cached, then play; the same arguments give the same result."""
        unit = plan(self.real.scaled(max(LOADS))).value

        def revenue(instance: Instance, seed: int) -> np.ndarray:
            found: np.ndarray = (
                simulated_hours(
                    instance,
                    LOADS,
                    self.points,
                    self._hour(seed),
                    executor=executor,
                    cache=cache,
                    on_result=on_result,
                )
                / unit
            )
            return found

        # Resolved first: a hardware that does not exist is found before anything runs.
        wrong = [simulator_of(self.real, name) for name in self.simulators]
        real = revenue(self.real, _SEEDS * self.seed)
        simulated = [revenue(instance, _SEEDS * self.seed + 1) for instance in wrong]
        assumed = Assumptions(noise=self.noise, parameter_norm=1.0)
        cases = [
            _case(name, DayOfRuns(self.points, LOADS, DAY, real, runs, assumed), self)
            for name, runs in zip(self.simulators, simulated, strict=True)
        ]
        return AdaptationResult(self, unit, tuple(cases))

    def _hour(self, seed: int) -> HourRuns:
        return HourRuns(self.n_gpus, self.hour_seconds, self.warmup, self.runs, self.revenue, seed)


@dataclass(frozen=True)
class AdaptationCase:
    """One simulator.

    Attributes:
        simulator: its name.
        best_point: the fixed point that earns most on the real cluster.
        simulated_best_point: that earns most in the simulator.
        loss: share of the best fixed point's revenue that the simulator's best loses.
        gain_of_hourly_choice: share that the best point of each load would add.
        misfit: root mean square error of the linear model on the real cluster, share of R*.
        bias: length of the difference of the linear fits.
        lost: by method, share of the best fixed point's revenue lost up to each hour, mean over
            repetitions, shape (T,) each.
        at: by method, that share after a week and at the end.
    """

    simulator: str
    best_point: OperatingPoint
    simulated_best_point: OperatingPoint
    loss: float
    gain_of_hourly_choice: float
    misfit: float
    bias: float
    lost: dict[str, np.ndarray]
    at: dict[str, dict[str, Estimate]]

    @property
    def kind(self) -> str:
        """``right``, ``harmless`` or ``harmful``, by the loss of the simulator's best point."""
        if self.simulator == "right":
            return "right"
        return "harmless" if self.loss <= HARMLESS_LOSS else "harmful"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "simulator": self.simulator,
            "kind": self.kind,
            "best_point": asdict(self.best_point),
            "simulated_best_point": asdict(self.simulated_best_point),
            "loss_of_simulated_best": self.loss,
            "gain_of_hourly_choice": self.gain_of_hourly_choice,
            "misfit": self.misfit,
            "bias": self.bias,
            "lost": {
                method: {when: estimate.to_dict() for when, estimate in found.items()}
                for method, found in self.at.items()
            },
        }


@dataclass(frozen=True)
class AdaptationResult:
    """Every case.

    Attributes:
        adaptation: what was compared.
        unit: R* at the busiest hour, currency per GPU and second.
        cases: one a simulator.
    """

    adaptation: Adaptation
    unit: float
    cases: tuple[AdaptationCase, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        settings = {name: getattr(self.adaptation, name) for name in _TOLD}
        return {
            "instance": self.adaptation.real.name,
            **settings,
            "points": len(self.adaptation.points),
            "loads": list(LOADS),
            "unit": self.unit,
            "cases": [case.to_dict() for case in self.cases],
        }


def default_points() -> tuple[OperatingPoint, ...]:
    """72 points around what an operator might set."""
    return tuple(
        grid(
            reserve_scales=(0.0, 1.0),
            prefill_shares=(0.5, 0.625, 0.75, 0.875),
            chunk_tokens=(512, 1024, 2048),
            batch_slots=(96, 128, 160),
        )
    )


def _case(simulator: str, runs: DayOfRuns, adaptation: Adaptation) -> AdaptationCase:
    """Let every method play."""
    hours = np.tile(runs.day, adaptation.days)
    earned = np.cumsum(runs.means[hours, runs.best_point])
    marks = {"week": min(7 * len(runs.day), len(hours)), "end": len(hours)}
    lost, at = {}, {}
    for method in METHODS:
        # What does not learn does the same every time.
        count = 1 if method == SIMULATOR_BEST else adaptation.repetitions
        seeds = _play_seeds(adaptation.seed, count)
        shares = np.stack([runs.regret(method, adaptation.days, seed) / earned for seed in seeds])
        lost[method] = shares.mean(axis=0)
        at[method] = {when: Estimate.of(shares[:, mark - 1]) for when, mark in marks.items()}
    return AdaptationCase(
        simulator,
        runs.points[runs.best_point],
        runs.points[runs.simulated_best_point],
        runs.loss_of_the_simulated_best,
        runs.gain_of_hourly_choice,
        runs.misfit,
        float(np.linalg.norm(runs.difference)),
        lost,
        at,
    )


def _play_seeds(seed: int, count: int) -> Sequence[int]:
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(count)]
