"""Policies on the presets with deadlines: what they earn, and who is good."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare
from llm_sched_env.evaluation.deadline_attainment import REASONS
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.results import Estimate, Evaluation
from llm_sched_env.policies.registry import registered_policies, resolve_policy
from llm_sched_env.presets import resolve_instance

INSTANCE = "chat-deadlines"
"""Every registered policy runs on it."""
OTHERS = ("deadlines", "deadlines-bursts")
POLICIES = (
    "slo-reserve",
    "trunk-reservation",
    "earliest-deadline-first",
    "static-priority",
    "gate-prefill-first",
    "prioritize-and-route",
    "fcfs-and-route",
    "fcfs-immediate",
    "priority-fcfs",
    "join-shortest-queue",
    "token-bucket",
)
"""Those that run on the others."""
SERVING = (
    "static-priority",
    "fcfs-and-route",
    "fcfs-immediate",
    "priority-fcfs",
    "join-shortest-queue",
    "earliest-deadline-first",
)
"""Of these, what serving systems do."""
SIZES = (5, 20, 200)
SEED, HORIZON, WARMUP, RUNS = 0, 1200.0, 300.0, 8
RESULTS = Path(__file__).parents[1] / "results" / "deadlines.csv"
Row = dict[str, Any]


def measure(cache: Path | None = None) -> list[Row]:
    """Run everything: a row an instance, policy and size, then one for each class.

    Args:
        cache: folder of finished evaluations, which are not run again.
    """
    rows = list(measured(INSTANCE, registered_policies(), cache))
    for instance in OTHERS:
        rows += measured(instance, POLICIES, cache)
    return rows


def measured(instance: str, policies: Iterable[str], cache: Path | None) -> Iterator[Row]:
    """The rows of one instance."""
    results = compare(
        [ComparedWorkload(instance, n) for n in SIZES],
        # Rules, not their names: results of names are not kept.
        [Competitor(*resolve_policy(name)) for name in policies],
        revenue="goodput",
        horizon=HORIZON,
        warmup=WARMUP,
        replications=RUNS,
        seed=SEED,
        executor=Executor(),
        cache=cache,
        on_result=print,
    )
    for label, result in results:
        yield from _rows(label, result)


def _rows(label: str, result: Evaluation) -> Iterator[Row]:
    """Of one evaluation: all classes together, then each."""
    run = {"instance": result.instance, "policy": label, "n_gpus": result.n_gpus}
    every = result.bundled_revenue_rate
    money = _interval("goodput", result.score) | {"all_revenue": every.mean / result.bound}
    found = [(c.name, c.deadlines) for c in result.classes]
    for name, of in [("all", result.deadlines), *found]:
        assert of is not None
        shares = {part: of.share(part) for part in ("good", *REASONS)}
        yield run | {"class": name, **(money if name == "all" else {}), **shares}


def _interval(name: str, estimate: Estimate) -> Row:
    low, high = estimate.ci95
    return {name: estimate.mean, f"{name}_low": low, f"{name}_high": high}


def class_names(instance: str = INSTANCE) -> list[str]:
    """Of a preset."""
    return [c.name for c in resolve_instance(instance).classes]
