"""Routers on the Mooncake conversation trace, on GPUs with prefix caches: docs/reuse.md."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.block_lists import BLOCK_TOKENS
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.workloads.locations import data_folders
from llm_sched_env.workloads.traces import Trace, instance_from_trace, load_traces

TRACE = "mooncake_conversation_trace.jsonl"
HARDWARE = "h100-llama3-8b-b128"
SIZES = (8, 16, 32, 64)
CACHES = (800, 4000)
"""Blocks of a GPU: about what is left of 80 GB beside the weights, and five times as much."""
BUSY = 1.5
"""At n GPUs the trace runs n/8 times as fast as recorded, and so many times as that."""
LOADS = (0.5, 1.0, 1.5, 2.0)
REFRESHES = (0.0, 0.05, 1.0, 5.0)
STALE_SIZE = 16
SEEDS = 4
RESULTS = Path(__file__).parents[1] / "results" / "reuse.csv"
AFFINITY = "weighted:prefix-affinity=2,queue-depth=1,kv-utilization=1"
POLICIES = (
    "random",
    "join-shortest-queue",
    "session-affinity",
    "weighted",
    AFFINITY,
    "earliest-finish",
    "reuse-bid",
)
WITH_SIGNALS = ("weighted", "earliest-finish", "reuse-bid")
# A simpler system beside it: prefill alone, so many prompt tokens a second and GPU.
PREFILL_ALONE = 25_000.0
ALONE_SIZE = 8
ALONE = ("random", "join-shortest-queue", "weighted", "earliest-finish", "reuse-bid")
Row = dict[str, Any]


@cache
def mooncake() -> Trace:
    """The trace, with the conversations that its blocks tell."""
    path = next((p for f in data_folders() if (p := f / TRACE).is_file()), Path(TRACE))
    trace = load_traces(path)
    return dataclasses.replace(trace, session=conversations(trace))


def conversations(trace: Trace) -> np.ndarray:
    """Conversation of each request: with whom it shares a block other than its first, (K,).

    All prompts of this trace begin with the same block.
    """
    assert trace.blocks is not None
    owner: dict[int, int] = {}
    found = np.empty(len(trace), np.int64)
    ids, starts = trace.blocks.ids.tolist(), trace.blocks.starts.tolist()
    for k in range(len(trace)):
        own = ids[starts[k] + 1 : starts[k + 1]]
        known = next((owner[block] for block in reversed(own) if block in owner), k)
        found[k] = known
        for block in own:
            owner.setdefault(block, known)
    return found


def infinite_share() -> float:
    """Prompt tokens that one infinite cache has, over all."""
    trace = mooncake()
    return float(trace.reused_tokens.sum() / trace.prompt_tokens.sum())


def measure() -> list[Row]:
    """Run everything: a row a policy, cluster, cache, load and refresh."""
    parts = (_alone(), _recorded(), _busy(), _stale(), spread())
    return [_facts(), *(row for part in parts for row in part)]


def _facts() -> Row:
    """What the trace is like."""
    trace = mooncake()
    assert trace.blocks is not None
    assert trace.session is not None
    return {
        "part": "trace",
        "cached": infinite_share(),
        "requests": len(trace),
        "prompt_tokens": float(trace.prompt_tokens.mean()),
        "request_blocks": float(trace.blocks.counts.mean()),
        "conversations": len(np.unique(trace.session)),
    }


def _alone() -> Iterator[Row]:
    """Prefill alone at so many tokens a second, as in a loop over the trace."""
    for blocks in CACHES:
        for name in ALONE:
            runs = [prefill_alone(name, blocks, seed) for seed in range(SEEDS)]
            yield _row("alone", name, ALONE_SIZE, blocks, 1.0, 0.0, runs)


def _recorded() -> Iterator[Row]:
    """As recorded, whatever the size."""
    for blocks in CACHES:
        for n_gpus in SIZES:
            for name in POLICIES:
                yield _measured("recorded", name, n_gpus, blocks, 1.0)


def _busy() -> Iterator[Row]:
    """As much for each GPU at every size; at the smallest one also with other loads."""
    for n_gpus in SIZES:
        for name in POLICIES:
            yield _measured("busy", name, n_gpus, CACHES[0], BUSY * n_gpus / SIZES[0])
    for load in LOADS:
        for name in POLICIES:
            yield _measured("load", name, SIZES[0], CACHES[0], load)


def _stale() -> Iterator[Row]:
    """Signals that are refreshed now and then."""
    speed = BUSY * STALE_SIZE / SIZES[0]
    for refresh in REFRESHES:
        for name in WITH_SIGNALS:
            yield _measured("stale", name, STALE_SIZE, CACHES[0], speed, refresh)


def spread() -> Iterator[Row]:
    """How many GPUs are never used, where there are many."""
    n_gpus = SIZES[-1]
    for name in WITH_SIGNALS:
        yield _measured("spread", name, n_gpus, CACHES[0], BUSY * n_gpus / SIZES[0])


def _measured(
    part: str, name: str, n_gpus: int, blocks: int, speed: float, refresh: float = 0.0
) -> Row:
    runs = [served(name, n_gpus, blocks, speed, seed, refresh) for seed in range(SEEDS)]
    print(part, name, n_gpus, blocks, speed, refresh, runs[0], flush=True)
    return _row(part, name, n_gpus, blocks, speed, refresh, runs)


def served(
    name: str, n_gpus: int, blocks: int, speed: float, seed: int, refresh: float = 0.0
) -> dict[str, float]:
    """What a policy does with the whole trace on the measured hardware."""
    hardware = dataclasses.replace(load_hardware(HARDWARE), cache_tokens=blocks * BLOCK_TOKENS)
    own = RequestClass("trace", 1.0, 1.0, 1.0, 0.0)
    instance = Instance("mooncake", (own,), hardware, PAPER_PRICES)
    policy = f"{name}:refresh_seconds={refresh}" if refresh else name
    result = evaluate(
        policy, instance, n_gpus, trace=mooncake(), speed=speed, replications=1, seed=seed
    )
    caches = result.caches
    assert caches is not None
    assert caches.cached_token_share is not None
    shares = [share for share in caches.by_gpu if share is not None]
    return {
        "ttft": result.ttft.mean,
        "ttft_p99": result.ttft.p99,
        "cached": caches.cached_token_share,
        "cached_least": min(shares),
        "cached_most": max(shares),
        "unused": float(n_gpus - len(shares)),
        "evictions": caches.evictions,
        "score": result.score.mean,
        "seconds": result.simulation_seconds,
    }


def prefill_alone(name: str, blocks: int, seed: int) -> dict[str, float]:
    """The same where a prefill takes its tokens over 25,000 a second, and nothing is decoded."""
    trace = mooncake()
    hardware = Hardware(
        alpha=BLOCK_TOKENS / PREFILL_ALONE,
        beta=0.0,
        gamma=1e6,
        chunk_tokens=BLOCK_TOKENS,
        batch_slots=64,
        cache_tokens=blocks * BLOCK_TOKENS,
    )
    instance = instance_from_trace(trace, ALONE_SIZE, 0.0, hardware)
    _, rule = resolve_policy(name)
    assert isinstance(rule, DispatchRule)
    stream = trace.stream._replace(output_tokens=np.zeros(len(trace)))
    streams = np.random.SeedSequence(seed)
    simulation = Simulation(instance, rule, np.zeros(3), ALONE_SIZE, streams, stream=stream)
    simulation.run(math.inf)
    metrics, total = simulation.metrics(), float(trace.prompt_tokens.sum())
    assert metrics.reuse is not None
    assert trace.blocks is not None
    cached = float(metrics.reuse.cached_tokens.sum())
    return {
        "ttft": float(metrics.latency_sums[0].sum() / len(trace)),
        "cached": cached / total,
        "cached_blocks": cached / BLOCK_TOKENS / len(trace.blocks.ids),
    }


def _row(
    part: str,
    name: str,
    n_gpus: int,
    blocks: int,
    speed: float,
    refresh: float,
    runs: list[dict[str, float]],
) -> Row:
    """Means over the seeds, with half an interval of what differs."""
    row: Row = {
        "part": part,
        "policy": name,
        "n_gpus": n_gpus,
        "blocks": blocks,
        "speed": speed,
        "refresh": refresh,
    }
    for key in runs[0]:
        values = np.array([run[key] for run in runs])
        row[key] = float(values.mean())
        if key in {"ttft", "cached"}:
            found = Estimate.of(values, requests_given=True)
            row[f"{key}_half"] = max(0.0, found.ci95[1] - found.mean)
    return row
