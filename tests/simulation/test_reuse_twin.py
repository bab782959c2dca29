"""Caches of blocks and the routers that look at them: engine and twin do the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from block_streams import block_stream
from fleet_twin import ON_ARRIVAL
from reference_cases import assert_same_log
from reuse_twin import CachedLoopTwin, ReuseTwin

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.simulation.scheduling.scorers import SCORERS
from llm_sched_env.simulation.simulation import Simulation

GPU = replace(presets.QWEN_8B_A100, batch_slots=6, cache_tokens=24 * 512)
SLOW = replace(GPU, alpha=0.03, gamma=25.0, chunk_tokens=128, chunking="ceil", cache_tokens=9 * 512)
NOTHING = replace(GPU, alpha=0.0219, beta=4e-4, iteration_law="affine", cache_tokens=None)
KV_AWARE = lse.Hardware.kv_aware(
    SoloIteration(8e-3, 9e-5, 2e-7),
    MixedIteration(1.7e-2, 1e-5, 1.6e-4, 1e-7, 3e-8),
    chunk_tokens=512,
    batch_slots=5,
    starts="boundary",
    cache_tokens=20 * 512,
)
FLEETS = {
    "one kind": (("all", GPU, 1.0, "mixed"),),
    "roles": (("p", SLOW, 0.4, "prefill"), ("d", GPU, 0.4, "decode"), ("m", NOTHING, 0.2, "mixed")),
}
WEIGHTED = (
    (),
    (("prefix-affinity", 2.0), ("active-requests", 1.0)),
    (("precise-prefix-cache", 1.0), ("load-aware", 3.0), ("no-hit-lru", 0.5)),
    tuple((name, 0.25 * (1 + k)) for k, name in enumerate(SCORERS)),
)
RULES = [
    *(("weighted", {"scorers": s, "refresh_seconds": r}) for s in WEIGHTED for r in (0.0, 0.75)),
    *(("reuse-bid", {"refresh_seconds": r}) for r in (0.0, 0.75)),
    ("earliest-finish", {"refresh_seconds": 0.75}),
    ("session-affinity", {}),
    *((router, {}) for router in ON_ARRIVAL),
]


def instance_of(fleet: str, patience_rate: float = 0.0) -> lse.Instance:
    groups = tuple(lse.GpuGroup(*group) for group in FLEETS[fleet])
    classes = (
        lse.RequestClass("a", 1500.0, 30.0, 0.5, patience_rate),
        lse.RequestClass("b", 1500.0, 30.0, 0.5, patience_rate),
    )
    hardware = groups[0].hardware if len(groups) == 1 else lse.Fleet(groups)
    return lse.Instance(fleet, classes, hardware, presets.PAPER_PRICES)


@pytest.mark.parametrize(("router", "options"), RULES)
@pytest.mark.parametrize("fleet", FLEETS)
def test_engine_and_twin_do_the_same(fleet, router, options):
    n_gpus, patience = 5, 0.2 if router in {"weighted", "reuse-bid"} else 0.0
    instance, seed = instance_of(fleet, patience), np.random.SeedSequence(7)
    rule = lse.DispatchRule(gate="fcfs", router=router, pools="dynamic", **options)
    stream = block_stream(len(options), 400, 130.0 if fleet == "one kind" else 300.0)
    n_groups = len(instance.groups)
    controls = np.concatenate([np.ones(4 * n_groups), np.zeros(n_groups)])
    simulation = Simulation(
        instance, rule, controls, n_gpus, seed, stream=stream, log_events=20_000
    )
    twin = ReuseTwin(instance, rule, controls, n_gpus, seed, stream)
    simulation.run(np.inf)
    twin.run(1e9)
    assert_same_log(simulation, twin, at_least=1200)
    same_caches(simulation, twin)


def same_caches(simulation, twin) -> None:
    """As many blocks forgotten, and the same tokens found."""
    use = simulation.metrics().reuse
    assert use.evictions.tolist() == [cache.evictions for cache in twin.caches]
    assert use.blocks.tolist() == [len(cache.users) for cache in twin.caches]
    assert use.cached_tokens.sum() == sum(twin.cached.values()) == use.gpu_cached_tokens.sum()
    assert use.evictions.sum() > 0
    assert use.cached_tokens.sum() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_iterations_begin_behind_what_is_cached(padded):
    hardware = replace(KV_AWARE, padded_chunks=padded)
    instance = replace(instance_of("one kind"), hardware=hardware)
    rule = lse.DispatchRule(gate="fcfs", router="coupled", pools="dynamic")
    stream, seed = block_stream(11, 300, 40.0), np.random.SeedSequence(3)
    controls = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    simulation = Simulation(instance, rule, controls, 2, seed, stream=stream, log_events=20_000)
    twin = CachedLoopTwin(instance, rule, controls, 2, seed, stream)
    simulation.run(np.inf)
    twin.run(1e9)
    assert_same_log(simulation, twin, at_least=1200)
    same_caches(simulation, twin)


def test_decodes_that_move_leave_blocks_where_they_ran():
    instance, seed = instance_of("roles"), np.random.SeedSequence(3)
    rule = lse.DispatchRule(gate="fcfs", router="solo-first", pools="dynamic")
    stream = block_stream(2, 400, 300.0)
    controls = np.concatenate([np.ones(12), np.zeros(3)])
    simulation = Simulation(instance, rule, controls, 5, seed, stream=stream, log_events=20_000)
    twin = ReuseTwin(instance, rule, controls, 5, seed, stream)
    simulation.run(np.inf)
    twin.run(1e9)
    assert_same_log(simulation, twin, at_least=1200)
    same_caches(simulation, twin)
    assert simulation.metrics().reuse.blocks[2:4].min() > 0
