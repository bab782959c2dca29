"""Policies on clusters with several groups of GPUs: shares of R* by instance and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.model.catalog import PATIENCE_RATE
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.presets import disaggregated, mixed_fleet

SIZES = (5, 20, 100)
SEED, HORIZON, WARMUP, RUNS = 0, 900.0, 300.0, 8
RESULTS = Path(__file__).parents[1] / "results" / "groups.csv"
BY_PLAN = (
    "gate-and-route",
    "strict-gate-and-route",
    "token-bucket",
    "token-bucket-static",
    "trunk-reservation",
    "prioritize-and-route",
)
"""Policies that go by the plan of the groups."""
SERVING = (
    "fcfs-and-route",
    "fcfs-immediate",
    "round-robin",
    "least-loaded",
    "join-shortest-queue",
    "power-of-two-choices",
    "priority-fcfs",
    "sjf",
)
"""What serving systems do."""
_COUPLED = ("fcfs-immediate",)
Row = dict[str, Any]

_FAST = Hardware.kv_aware(
    SoloIteration(8.04e-3, per_decode=8.69e-5, per_kv_token=1.36e-8),
    MixedIteration(1.66e-2, per_decode=1.64e-4),
    chunk_tokens=512,
    batch_slots=32,
)
_SLOW = Hardware.kv_aware(
    SoloIteration(1.4e-2, per_decode=1.2e-4, per_kv_token=4e-8),
    MixedIteration(4.0e-2, per_decode=2e-4, per_kv_token=4e-8),
    chunk_tokens=512,
    batch_slots=32,
)


def _two_classes(name: str, *groups: GpuGroup) -> Instance:
    return Instance(
        name,
        (
            RequestClass("chat", 300.0, 500.0, 6.0, PATIENCE_RATE),
            RequestClass("reading", 900.0, 120.0, 18.0, PATIENCE_RATE),
        ),
        Fleet(groups),
        Prices(prefill=0.1, decode=0.2),
    )


def instances() -> dict[str, Instance]:
    """The presets, fast GPUs beside slow ones, and roles with moves that are free."""
    return {
        "mixed-fleet": mixed_fleet(),
        "disaggregated": disaggregated(),
        "half-slow": _two_classes(
            "half-slow", GpuGroup("fast", _FAST, 0.5), GpuGroup("slow", _SLOW, 0.5)
        ),
        "split-roles": _two_classes(
            "split-roles",
            GpuGroup("prefill", _FAST, 0.4, "prefill"),
            GpuGroup("decode", _FAST, 0.6, "decode"),
        ),
    }


def policies(name: str) -> tuple[str, ...]:
    """Those that can run on an instance."""
    known = (*BY_PLAN, *SERVING)
    stays = all(group.role == "mixed" for group in instances()[name].groups)
    return known if stays else tuple(p for p in known if p not in _COUPLED)


def measure(cache: Path | None = None) -> list[Row]:
    """Run everything: a row per instance, size and policy.

    Args:
        cache: folder of finished evaluations, which are not run again.
    """
    rows = list[Row]()
    for name, instance in instances().items():
        results = compare(
            [ComparedWorkload(instance, n) for n in SIZES],
            [Competitor(*resolve_policy(policy)) for policy in policies(name)],
            horizon=HORIZON,
            warmup=WARMUP,
            replications=RUNS,
            seed=SEED,
            executor=Executor(),
            cache=cache,
            on_result=print,
        )
        for label, result in results:
            low, high = result.score.ci95
            run = {"instance": name, "n_gpus": result.n_gpus, "policy": label}
            rows.append(run | {"score": result.score.mean, "score_low": low, "score_high": high})
    return rows
