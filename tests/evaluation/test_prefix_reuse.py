"""Prefix caches in evaluations: results, policies by name, bounds, and bad input in a line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from block_streams import block_stream

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.model.conversations import Sessions, SharedPrefix
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.simulation.scheduling.scorers import DEFAULT_SCORERS
from llm_sched_env.workloads.trace import Trace

GPU = dataclasses.replace(presets.QWEN_8B_A100, cache_tokens=60_000)
ROUTERS = ("weighted", "session-affinity", "earliest-finish", "reuse-bid")


def talk(rate: float = 1.0, hardware=GPU, patience_rate: float = 0.05) -> lse.Instance:
    classes = (
        lse.RequestClass(
            "chat", 1200.0, 150.0, 0.5 * rate, patience_rate, sessions=Sessions(3.0, 20.0, 200.0)
        ),
        lse.RequestClass(
            "tools",
            2500.0,
            60.0,
            0.2 * rate,
            patience_rate,
            shared_prefix=SharedPrefix(2048, 4, 1.0),
        ),
    )
    return lse.Instance("talk", classes, hardware, presets.PAPER_PRICES)


def run_of(policy, instance, **more):
    options = {"n_gpus": 4, "horizon": 200.0, "warmup": 50.0, "replications": 2} | more
    return lse.evaluate(policy, instance, **options)


def trace_of(seed: int, count: int = 600, seconds: float = 100.0) -> Trace:
    stream = block_stream(seed, count, seconds)
    columns = stream.arrival_time, stream.request_class, stream.prompt_tokens, stream.output_tokens
    blocks = BlockLists(stream.block_ids, stream.block_starts)
    return Trace(("a", "b"), *columns, session=stream.session, blocks=blocks)


@pytest.mark.parametrize("policy", ["random", *ROUTERS])
def test_conversations_are_served_from_caches(policy):
    result = run_of(policy, talk())
    assert result.caches is not None
    assert 0.05 < result.caches.cached_token_share < 0.9
    assert len(result.caches.by_gpu) == 4
    assert result.caches.evictions > 0
    shares = [c.cached_token_share for c in result.classes]
    assert min(shares) <= result.caches.cached_token_share <= max(shares)
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["caches"]["cached_token_share"] == result.caches.cached_token_share
    assert plain["classes"][0]["cached_token_share"] == shares[0]
    assert result.score.mean <= 1.03


def test_every_policy_faces_the_same_conversations():
    arrived = {
        tuple(c.arrived for c in run_of(policy, talk()).classes)
        for policy in ("random", "weighted", "token-bucket")
    }
    assert len(arrived) == 1


def test_without_caches_results_say_nothing_of_them():
    result = run_of("random", talk(hardware=presets.QWEN_8B_A100))
    assert result.caches is None
    assert "caches" not in result.to_dict()
    assert "cached_token_share" not in result.to_dict()["classes"][0]


def test_routers_that_look_find_more_than_random():
    found = {p: run_of(p, talk()).caches.cached_token_share for p in ("random", *ROUTERS)}
    assert min(found[router] for router in ROUTERS) > found["random"]


@pytest.mark.extended
def test_no_score_is_above_what_an_infinite_cache_allows():
    rng = np.random.default_rng(3)
    for k in range(8):
        hardware = dataclasses.replace(
            GPU,
            cache_tokens=int(rng.integers(1000, 10**6)),
            chunking=str(rng.choice(["exact", "ceil"])),
        )
        instance = talk(float(rng.uniform(6.0, 14.0)), hardware, float(rng.choice([0.02, 0.2])))
        for pricing in ("bundled", "separate"):
            times = {"horizon": 500.0, "warmup": 200.0, "replications": 4}
            result = run_of(ROUTERS[k % 4], instance, n_gpus=8, pricing=pricing, seed=k, **times)
            noise = result.score.ci95[1] - result.score.mean
            assert noise < 0.08
            assert 0.4 < result.score.mean <= 1.0 + noise


def test_a_trace_is_bounded_by_what_is_left_of_it():
    trace, plain = trace_of(5), lse.presets.base()
    cached = dataclasses.replace(plain, hardware=GPU)
    with_caches = lse.evaluate("reuse-bid", cached, n_gpus=2, trace=trace, replications=1)
    without = lse.evaluate("reuse-bid", plain, n_gpus=2, trace=trace, replications=1)
    assert with_caches.bound > without.bound
    assert with_caches.score.mean <= 1.0
    assert with_caches.ttft.mean < without.ttft.mean
    most = trace.reused_tokens.sum() / trace.prompt_tokens.sum()
    assert with_caches.caches.cached_token_share <= most + 0.02


def test_names_say_what_is_weighed():
    name, rule = resolve_policy("weighted:prefix-affinity=2, load-aware=0.5,refresh_seconds=0.05")
    assert name.startswith("weighted:prefix-affinity")
    assert dict(rule.scorers) == {"prefix-affinity": 2.0, "load-aware": 0.5}
    assert rule.refresh_seconds == 0.05
    assert resolve_policy("weighted")[1].scorers == DEFAULT_SCORERS
    assert resolve_policy("reuse-bid:refresh_seconds=1")[1].refresh_seconds == 1.0


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("weighted:speed=1", "scorer: got 'speed'"),
        ("weighted:queue-depth=-1", "weight of queue-depth"),
        ("weighted:queue-depth=0", "at least one > 0"),
        ("weighted:queue-depth", "options as in"),
        ("weighted:refresh_seconds=-1", "refresh_seconds"),
        ("session-affinity:refresh_seconds=1", "refresh_seconds"),
        ("reuse-bid:queue-depth=1", "refresh_seconds"),
    ],
)
def test_wrong_options_are_named(policy, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        resolve_policy(policy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{"scorers": {"queue-depth": 1.0}}, {"refresh_seconds": 1.0}])
def test_other_routers_have_neither_scorers_nor_signals(more):
    with pytest.raises(ConfigurationError):
        lse.DispatchRule(gate="fcfs", router="random", pools="dynamic", **more)


def test_environments_need_the_requests_as_a_stream():
    with pytest.raises(ConfigurationError, match="sessions and shared_prefix"):
        _environment()


def _environment():
    import gymnasium as gym

    gym.make("LLMSched-v0", n_gpus=2, instance=talk(), horizon=10.0).reset(seed=0)


def test_the_commands_show_and_refuse(run, tmp_path):
    path = tmp_path / "talk.toml"
    talk().save(path)
    options = ("--gpus", 2, "--horizon", 40, "--warmup", 10, "--replications", 1)
    code, out, _ = run("evaluate", "--instance", path, "--policy", "reuse-bid", *options)
    assert code == 0
    assert "blocks evicted per GPU and second" in out
    listed = "random,weighted:queue-depth=1,prefix-affinity=2,reuse-bid"
    code, out, _ = run("evaluate", "--instance", path, "--policies", listed, *options, "--json")
    assert code == 0
    results = json.loads(out)["results"] if "results" in json.loads(out) else json.loads(out)
    assert len(results) == 3
    code, _, err = run("evaluate", "--instance", path, "--policy", "weighted:x=1", *options)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
