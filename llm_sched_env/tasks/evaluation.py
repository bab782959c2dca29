"""Measure policies on a task: shares of its bound, and how much of the headroom they close."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.preparation import prepared_run
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.policies.registry import PythonPolicy, resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.tasks.bounds import task_bounds
from llm_sched_env.tasks.reference import best_rule
from llm_sched_env.tasks.reference_policies import NOTHING, RANDOM, NoActions, RandomActions
from llm_sched_env.tasks.suite import task as named_task
from llm_sched_env.tasks.task import SOLVED, Task
from llm_sched_env.tasks.wrapped_policies import WrappedPolicy

_ONE_BY_ONE = Executor(jobs=1)


@dataclass(frozen=True)
class TaskRuns:
    """What a policy earned in the runs of a task.

    Attributes:
        task: its name.
        policy: its name.
        revenue: of each replication, currency per GPU and second.
        bound: of each replication.
    """

    task: str
    policy: str
    revenue: tuple[float, ...]
    bound: tuple[float, ...]

    @property
    def share(self) -> Estimate:
        """Of the bound."""
        return ratio(self.revenue, self.bound)

    def closed(self, rule: TaskRuns) -> Estimate:
        """How much of the headroom above a rule is closed: 0 is the rule, 1 the bound.

        Paired: both policies met the same requests.
        """
        own, its = np.array(self.revenue), np.array(rule.revenue)
        return ratio(own - its, np.array(self.bound) - its)

    def gain(self, rule: TaskRuns) -> Estimate:
        """What it earns more than a rule on the same requests, as a share of the bound."""
        return ratio(np.array(self.revenue) - np.array(rule.revenue), self.bound)

    @property
    def solves(self) -> bool:
        """Whether it is so near the bound that the task is for checking an algorithm."""
        return self.share.mean > 1.0 - SOLVED


@dataclass(frozen=True)
class TaskResult:
    """A policy on a task, beside the best rule.

    Attributes:
        task: its name.
        policy: its name.
        share: of the bound, with its 95% interval.
        closed: the headroom that it closes: 0 is the best rule, 1 the bound.
        gain: over the best rule on the same requests, as a share of the bound.
        best_rule: its name.
        best_rule_share: of the bound.
        replications: runs of each.
        seed: of the runs.
    """

    task: str
    policy: str
    share: Estimate
    closed: Estimate
    gain: Estimate
    best_rule: str
    best_rule_share: Estimate
    replications: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        estimates = ("share", "closed", "gain", "best_rule_share")
        plain = {name: getattr(self, name) for name in ("task", "policy", "best_rule")}
        plain |= {name: getattr(self, name).to_dict() for name in estimates}
        return plain | {"replications": self.replications, "seed": self.seed}


def evaluate_task(
    task: str | Task,
    policy: Any,
    *,
    against: Any = None,
    replications: int | None = None,
    seed: int | None = None,
    executor: Executor = _ONE_BY_ONE,
) -> TaskResult:
    """Measure a policy on the held-out runs of a task.

    Args:
        task: a name, or a task.
        policy: whatever :func:`llm_sched_env.evaluate` takes. A policy in Python that does not say
            what its actions mean acts in the action space of the task.
        against: the rule that headroom is counted from; default: the best one of the task.
        replications: default: the task's.
        seed: default: the task's, whose requests no agent may train on.
        executor: where runs are simulated; the result does not depend on it.

    Raises:
        ConfigurationError: for an argument that is not allowed, or a trace that is not there.

    Example:
        >>> result = evaluate_task("Overload5", "trunk-reservation", replications=2)
        >>> result.closed.mean <= 0.0 < result.share.mean < 1.1
        True
    """
    chosen = named_task(task) if isinstance(task, str) else task
    settings: dict[str, Any] = {"replications": replications, "seed": seed, "executor": executor}
    own = run_task(chosen, policy, **settings)
    rule = best_rule(chosen.name) if against is None else against
    if rule is None:
        its = best_of([run_task(chosen, name, **settings) for name in playable_rules(chosen)])
    else:
        its = run_task(chosen, rule, **settings)
    return TaskResult(
        chosen.name,
        own.policy,
        own.share,
        own.closed(its),
        own.gain(its),
        its.policy,
        its.share,
        len(own.revenue),
        chosen.held_out.seed if seed is None else seed,
    )


def run_task(
    task: Task,
    policy: Any,
    *,
    replications: int | None = None,
    seed: int | None = None,
    executor: Executor = _ONE_BY_ONE,
) -> TaskRuns:
    """What a policy earns in each run of a task; see :func:`evaluate_task`."""
    held_out = task.held_out
    count = checked_integer(
        "replications", held_out.replications if replications is None else replications
    )
    seed = checked_integer("seed", held_out.seed if seed is None else seed, 0)
    runs = executor.in_order(partial(_replication, task, policy, seed), range(count))
    name = runs[0][0]
    bound = task_bounds(task, count, seed)
    return TaskRuns(task.name, name, tuple(r for _, r in runs), tuple(bound.tolist()))


def _replication(task: Task, policy: Any, seed: int, k: int) -> tuple[str, float]:
    """Name and revenue rate of a policy in run k; runs in a worker."""
    label, resolved = _resolved(task, policy)
    arguments = task.run_arguments(seed)
    prepared = prepared_run(resolved, **arguments)
    if not isinstance(resolved, DispatchRule):
        shown = task.form.agent(resolved, prepared.run.cluster)
        prepared = prepared_run(shown, **arguments)
    run = task.form.run_of(prepared.run, k)
    metrics = prepared.runs.replication(run, k).metrics[0]
    return label, metrics.revenue_rate(run.cluster.pricing, run.revenue)


def _resolved(task: Task, policy: Any) -> tuple[str, DispatchRule | PythonPolicy]:
    """A policy and its name, acting in the task's action space unless it says otherwise."""
    if policy == RANDOM:
        return RANDOM, RandomActions(task.meaning)
    if policy == NOTHING:
        return NOTHING, NoActions(task.meaning)
    label, resolved = resolve_policy(policy)
    if isinstance(resolved, DispatchRule) or hasattr(resolved, "environment"):
        return label, resolved
    return label, WrappedPolicy(resolved, task.meaning)


def playable_rules(task: Task) -> list[str]:
    """Rules of a task, serving systems' first, that can run on its cluster."""
    return [name for name in dict.fromkeys((*task.serving, *task.rules)) if can_play(task, name)]


def can_play(task: Task, policy: Any) -> bool:
    """Whether a policy knows the kind of cluster that a task has."""
    try:
        _, resolved = _resolved(task, policy)
        arguments = task.run_arguments(0)
        short = {**arguments, "horizon": 2.0, "warmup": 0.0}
        prepared = prepared_run(resolved, **short)
        prepared.runs.replication(prepared.run, 0)
    except ConfigurationError:
        return False
    return True


def best_of(runs: Sequence[TaskRuns]) -> TaskRuns:
    """Those of the greatest mean revenue."""
    return max(runs, key=lambda own: float(np.mean(own.revenue)))


def ratio(parts: Sequence[float] | np.ndarray, wholes: Sequence[float] | np.ndarray) -> Estimate:
    """The ratio of two means over replications, with its 95% interval.

    The interval is Student's, of the deviations of the parts from the ratio's share of the wholes.
    """
    part, whole = np.asarray(parts, float), np.asarray(wholes, float)
    mean = float(part.mean() / whole.mean()) if whole.mean() != 0.0 else math.nan
    around = Estimate.of((part - mean * whole) / whole.mean(), requests_given=True)
    low, high = around.ci95
    return Estimate(mean, (mean + low, mean + high))
