"""Evaluate the greedy policy during training, against references on the same requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from llm_sched_env.agents.algorithms import (
    decision_control,
    event_configuration,
    interval_configuration,
    routing_configuration,
)
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.controller import Controller
from llm_sched_env.envs.cluster_vector import default_threads
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.costs import Costs
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.evaluation.episode_costs import run_costs
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.measurement import measured_arrivals
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import FluidPlan
from llm_sched_env.simulation.events.metrics import Metrics
from llm_sched_env.simulation.events.random_streams import replication_seed

SELECTION_SEED, HELD_OUT_SEED = 2_000_001, 2_000_002
"""Seeds of :func:`llm_sched_env.evaluate` on which agents are chosen, and on which none was."""

_LEAST_ROWS_PER_THREAD = 8
# A budget of 0 in the place of a divisor.
_NO_BUDGET = 1e-9
_ENVIRONMENTS: dict[str, Callable[[TrainingConfiguration], Any]] = {
    "interval": interval_configuration,
    "event": event_configuration,
    "routing": routing_configuration,
}

Row = dict[str, float]


class PairedEvaluation:
    """Runs of an agent and of references that see the same requests.

    A row has ``score``, ``score_low`` and ``score_high``, and for each reference R the mean paired
    difference ``minus R`` with its ends ``minus R low`` and ``minus R high``: 95% intervals
    (Student t over the runs). With budgets it has each ``cost NAME`` with its ends, too.

    Args:
        configuration: of the training: environment, references, length of a run.
        seed: of :func:`llm_sched_env.evaluate`.
        runs: default: ``configuration.evaluation_runs``.
    """

    def __init__(
        self, configuration: TrainingConfiguration, seed: int, runs: int | None = None
    ) -> None:
        self._configuration = configuration
        self._seed = seed
        self._runs = runs or configuration.evaluation_runs
        self._environment = _ENVIRONMENTS[configuration.control](configuration)
        self._cluster = self._environment.cluster
        self._instance = self._cluster.instance
        if isinstance(self._environment, RoutingConfiguration):
            self._instance = self._environment.conversations or self._instance
        self.plan: FluidPlan = self._cluster.plan
        self._measured = measured_arrivals(
            self._cluster.instance,
            configuration.evaluation_horizon,
            configuration.evaluation_warmup,
        )
        self._bound = self._cluster.bound(self._measured.bounded)
        budgets = configuration.budgets
        self._costs = Costs.checked((), budgets, self._cluster) if budgets else None
        self._references: dict[str, np.ndarray] = {}

    def row(self, controller: Controller) -> Row:
        """The agent's score and its differences to the references."""
        metrics = self._metrics(controller)
        row = row_of_scores(self._scores(metrics), self.references())
        if self._costs is not None:
            measured = self._configuration.evaluation_horizon - self._warmup_seconds
            costs = run_costs(self._costs, self._cluster, metrics, measured)
            for name, values in zip(self._costs.names, costs, strict=True):
                row |= _ends(f"cost {name}", values)
        return row

    def references(self) -> dict[str, np.ndarray]:
        """Scores of the references by name, each of shape (K,); computed once."""
        if not self._references:
            self._references = {
                name: np.array(self._reference(name)) for name in self._configuration.references
            }
        return self._references

    def _reference(self, name: str) -> tuple[float, ...]:
        return evaluate(
            name,
            self._instance,
            self._cluster.n_gpus,
            pricing=self._cluster.pricing,
            horizon=self._configuration.evaluation_horizon,
            warmup=self._configuration.evaluation_warmup,
            replications=self._runs,
            seed=self._seed,
        ).scores

    def scores(self, controller: Controller) -> np.ndarray:
        """The agent's score in each run, shape (K,): what ``evaluate`` gives one by one."""
        return self._scores(self._metrics(controller))

    def _metrics(self, controller: Controller) -> list[Metrics]:
        """What the agent's runs measured."""
        controller.begin(self._runs)
        control: Any
        if isinstance(self._environment, IntervalConfiguration):
            control = self._run_intervals(controller, self._environment)
        else:
            control = self._run_decisions(controller)
        return [control.batch.metrics(k) for k in range(self._runs)]

    def _scores(self, metrics: list[Metrics]) -> np.ndarray:
        pricing, bound = self._cluster.pricing, self._bound
        return np.array([m.revenue_rate(pricing) / bound for m in metrics])

    @property
    def _warmup_seconds(self) -> float:
        """The warm-up of fixed steps, in whole ones."""
        interval = self._configuration.interval
        return round(self._configuration.evaluation_warmup / interval) * interval

    def _run_intervals(
        self, controller: Controller, configuration: IntervalConfiguration
    ) -> IntervalControl:
        threads = default_threads(self._runs, _LEAST_ROWS_PER_THREAD)
        control = IntervalControl(configuration, self._runs, threads=threads)
        for k in range(self._runs):
            control.start(k, replication_seed(self._seed, k))
        report = control.report()
        warmup_steps = round(self._configuration.evaluation_warmup / configuration.interval)
        for step in range(configuration.steps):
            if step == warmup_steps and step > 0:
                self._end_warmup(control)
            actions = controller.act(report.observations)
            report = control.empty_report()
            control.step(actions, report)
        return control

    def _run_decisions(self, controller: Controller) -> Any:
        control: Any = decision_control(self._configuration, self._runs)
        warmup = self._configuration.evaluation_warmup
        for k in range(self._runs):
            seed = replication_seed(self._seed, k)
            control.start(k, seed, end=warmup if warmup > 0 else None)
        if warmup > 0:
            self._decide_to_the_end(control, controller)
            self._end_warmup(control)
            for k in range(self._runs):
                control.end_at(k, self._configuration.evaluation_horizon)
            control.resume(control.empty_report())
        self._decide_to_the_end(control, controller)
        decided: EventControl | RoutingControl = control
        return decided

    @staticmethod
    def _decide_to_the_end(control: Any, controller: Controller) -> None:
        report = control.report()
        while not (ended := control.truncated()).all():
            masks = control.action_masks()
            # Clusters whose run has ended stand still, whatever their action is.
            actions = controller.act(report.observations, masks)
            report = control.empty_report()
            control.step(actions, report, ~ended)

    def _end_warmup(self, control: IntervalControl | EventControl | RoutingControl) -> None:
        for k in range(self._runs):
            control.reset_metrics(k, pay_earlier_arrivals=self._measured.pays_earlier_arrivals)


def row_of_scores(scores: np.ndarray, references: dict[str, np.ndarray]) -> Row:
    """A row of :class:`PairedEvaluation`.

    Args:
        scores: of the agent, shape (K,).
        references: scores on the same requests by name, each of shape (K,).
    """
    row = _ends("score", scores)
    for name, reference in references.items():
        row |= _ends(f"minus {name}", scores - reference)
    return row


def difference(row: Row, reference: str) -> tuple[float, float]:
    """Mean paired difference to a reference and the half-width of its interval."""
    mean = row[f"minus {reference}"]
    return mean, row[f"minus {reference} high"] - mean


def rank(row: Row, budgets: Mapping[str, float]) -> tuple[float, float]:
    """How good an evaluation is, greatest best: what keeps the budgets first, then the score.

    Of those that do not, the least excess over a budget, as a share of it.
    """
    excess = max(
        (row[f"cost {name}"] / max(budget, _NO_BUDGET) - 1.0 for name, budget in budgets.items()),
        default=0.0,
    )
    return -max(excess, 0.0), row["score"]


def _ends(name: str, values: np.ndarray) -> Row:
    estimate = Estimate.of(values)
    ends = [end if math.isfinite(end) else estimate.mean for end in estimate.ci95]
    suffixes = ("_low", "_high") if name == "score" else (" low", " high")
    return {name: estimate.mean} | dict(
        zip((f"{name}{suffix}" for suffix in suffixes), ends, strict=True)
    )
