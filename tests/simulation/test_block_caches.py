"""Caches of blocks alone: what must always hold, Che's approximation, and shared texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from block_streams import block_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from reuse_twin import LruCache
from scipy.optimize import brentq

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.simulation.caches.block_cache import PRESENT, SEEN
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import RequestStream

GPU = replace(presets.QWEN_8B_A100, batch_slots=6, cache_tokens=16 * 512)


def simulation_of(stream, rule=None, n_gpus=3, hardware=GPU, **options) -> Simulation:
    classes = tuple(lse.RequestClass(name, 1500.0, 30.0, 0.5, 0.2) for name in "ab")
    instance = lse.Instance("blocks", classes, hardware, presets.PAPER_PRICES)
    rule = rule or lse.DispatchRule(gate="fcfs", router="reuse-bid", pools="dynamic")
    controls = np.array([1.0, 1.0, 1.0, 1.0, 0.0])
    seed = np.random.SeedSequence(5)
    return Simulation(instance, rule, controls, n_gpus, seed, stream=stream, **options)


def check_caches(simulation: Simulation) -> None:
    """Blocks are counted, those in use are there, and lists hold what nobody uses."""
    state = simulation.state
    n, refresh = len(state.gpus), state.settings[0]["refresh_seconds"]
    users = {c: {} for c in range(n)}
    for gpu in range(n):
        first = gpu * state.settings[0]["heap_slots"]
        requests = state.decode_requests[first : first + state.gpus[gpu]["decodes"]].tolist()
        requests.append(int(state.gpus[gpu]["prefill_request"]))
        for request in filter(lambda number: number >= 0, requests):
            own = state.reuse[request]
            first_block = own["first_block"]
            for key in state.block_ids[first_block : first_block + own["held"]].tolist():
                users[gpu][key] = users[gpu].get(key, 0) + 1
    for c, cache in enumerate(state.caches):
        present, idle, seen = {}, [], 0
        first, buckets = cache["first_bucket"], cache["bucket_mask"] + 1
        for head in state.cache_buckets[first : first + buckets].tolist():
            node = head
            while node >= 0:
                own = state.cache_nodes[node]
                assert own["state"] & (PRESENT | SEEN)
                seen += bool(own["state"] & SEEN)
                if own["state"] & PRESENT:
                    assert own["key"] not in present
                    present[int(own["key"])] = int(own["users"])
                node = int(own["chain"])
        node = int(cache["oldest"])
        while node >= 0:
            idle.append(int(state.cache_nodes[node]["key"]))
            node = int(state.cache_nodes[node]["newer"])
        assert len(present) == cache["blocks"] <= cache["capacity"]
        assert seen <= cache["capacity"]
        assert refresh or seen == len(present)
        assert {k for k, used in present.items() if not used} == set(idle)
        assert len(idle) == len(set(idle))
        if c < n:
            assert {k: used for k, used in present.items() if used} == users[c]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.4, 3.0]),
    st.sampled_from(["weighted", "reuse-bid"]),
    st.integers(1, 40),
)
def test_blocks_in_use_stay_and_tokens_are_conserved(seed, refresh, router, blocks):
    rule = lse.DispatchRule(gate="fcfs", router=router, pools="dynamic", refresh_seconds=refresh)
    stream = block_stream(seed, 150, 60.0, patience=5.0)
    hardware = replace(GPU, cache_tokens=512 * blocks)
    simulation = simulation_of(stream, rule, hardware=hardware)
    for time in np.linspace(3.0, 60.0, 12):
        simulation.run(time)
        check_caches(simulation)
    simulation.run(np.inf)
    check_caches(simulation)
    metrics = simulation.metrics()
    counts, use = metrics.counts, metrics.reuse
    assert (counts["arrived"] == counts["completed"] + counts["abandoned_prefill"]).all()
    assert use.prompt_tokens.sum() == pytest.approx(metrics.prompt_tokens.sum())
    infinite = BlockLists(stream.block_ids, stream.block_starts)
    assert use.cached_tokens.sum() < use.prompt_tokens.sum()
    assert use.evictions.sum() + use.blocks.sum() <= 4 * len(infinite.ids)


def test_a_run_that_is_cut_or_restored_goes_on_as_it_was():
    whole, cut = (simulation_of(block_stream(3, 200, 80.0), log_events=5000) for _ in range(2))
    whole.run(np.inf)
    cut.run(30.0)
    kept = cut.snapshot()
    cut.run(60.0)
    cut.restore(kept)
    cut.run(np.inf)
    assert whole.events().tobytes() == cut.events().tobytes()
    with pytest.raises(ConfigurationError, match="recorded blocks"):
        simulation_of(block_stream(4, 100, 80.0)).restore(kept)


def test_queues_that_grow_keep_what_caches_know():
    stream = block_stream(3, 600, 1.0)
    simulation = simulation_of(stream)
    simulation.run(np.inf)
    assert simulation.metrics().counts["arrived"].sum() == 600
    check_caches(simulation)


def test_a_prompt_of_less_than_a_block_has_nothing_to_reuse():
    stream = block_stream(3, 50, 50.0)._replace(prompt_tokens=np.full(50, 1.0))
    simulation = simulation_of(stream)
    simulation.run(np.inf)
    assert simulation.metrics().reuse.cached_tokens.sum() == 0.0


def test_without_caches_there_is_no_use_of_them():
    rule = lse.DispatchRule(gate="fcfs", router="random", pools="dynamic")
    stream, plain = block_stream(3, 50, 50.0), replace(GPU, cache_tokens=None)
    simulation = simulation_of(stream, rule, hardware=plain)
    simulation.run(np.inf)
    assert simulation.metrics().reuse is None
    assert simulation.state.caches.size == simulation.state.block_ids.size == 0


@pytest.mark.parametrize(("texts", "exponent", "blocks"), [(400, 0.8, 60), (400, 1.2, 25)])
def test_hit_rates_are_ches(texts, exponent, blocks):
    """Independent requests of one block each, on one GPU that is hardly busy.

    Che, Tung and Wang (2002): text k is found with probability 1 - exp(-q_k T), T such that these
    add up to the cache.
    """
    rng, count = np.random.default_rng(1), 60_000
    shares = np.arange(1.0, texts + 1) ** -exponent
    shares /= shares.sum()
    keys = rng.choice(texts, count, p=shares)
    stream = RequestStream(
        np.cumsum(rng.exponential(0.1, count)),
        np.zeros(count, np.int32),
        np.full(count, 513.0),
        np.full(count, 1e-3),
        np.full(count, 1e9),
        np.empty(0, np.int64),
        keys.astype(np.int64),
        np.arange(count + 1),
    )
    hardware = replace(GPU, cache_tokens=512 * blocks)
    rule = lse.DispatchRule(gate="fcfs", router="random", pools="dynamic")
    simulation = simulation_of(stream, rule, n_gpus=1, hardware=hardware)
    simulation.run(stream.arrival_time[count // 6])
    simulation.reset_metrics()
    simulation.run(np.inf)
    use = simulation.metrics().reuse
    hits = use.cached_tokens.sum() / use.prompt_tokens.sum() * 513.0 / 512.0
    time = brentq(lambda t: (1 - np.exp(-shares * t)).sum() - blocks, 1e-3, 1e9)
    expected = float((shares * (1 - np.exp(-shares * time))).sum())
    assert hits == pytest.approx(expected, abs=0.012)
    assert 0.2 < expected < 0.9


def test_the_plain_cache_of_the_twin_forgets_the_oldest():
    cache = LruCache(2)
    for block in (1, 2, 1, 3):
        cache.keep([block], 0)
    assert list(cache.users) == [1, 3]
