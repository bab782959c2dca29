"""The quadratic clock against a loop over iterations, and against contexts that grow evenly."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from continuous_twin import ContinuousTwin
from loop_twin import LoopTwin
from reference_cases import assert_same_log, each_rule, rule_name
from reference_simulator import ReferenceSimulator

from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import RequestStream

# Every term matters: a full batch triples a solo iteration, a cached prompt doubles a mixed one.
SOLO = SoloIteration(0.010, per_decode=0.0015, per_kv_token=4e-6)
MIXED = MixedIteration(
    0.016,
    per_prompt_token=3e-5,
    per_decode=0.002,
    per_kv_token=5e-6,
    per_prompt_token_context=6e-8,
)
N_GPUS, REQUESTS = 3, 160
KV_AWARE = Hardware.kv_aware(SOLO, MIXED, 256, 5, starts="boundary")
HARDWARE = {
    "kv-aware": KV_AWARE,
    "padded": dataclasses.replace(KV_AWARE, padded_chunks=True),
    "kv-limit": dataclasses.replace(KV_AWARE, kv_tokens=2500),
    # GPUs in step meet: times that are sums of powers of two make these ties exact.
    "two-speed": Hardware(2.0**-6, 2.0**-14, 64.0, 256, 5, starts="boundary"),
    "affine": Hardware(
        2.0**-6 - 2.0**-13, 2.0**-12, 64.0, 256, 5, iteration_law="affine", starts="boundary"
    ),
}
CLASSES = (
    RequestClass("chat", 300.0, 40.0, 1.0, 0.4, deadlines=Deadlines(ttft_seconds=3.0)),
    RequestClass("code", 900.0, 20.0, 1.0, 0.0, deadlines=Deadlines(ttft_seconds=0.5)),
    RequestClass("short", 100.0, 8.0, 1.0, 0.2),
)


def instance_on(hardware: Hardware) -> Instance:
    return Instance("loop", CLASSES, hardware, Prices(0.1, 0.2))


def whole_tokens(seed: int) -> RequestStream:
    """More than the cluster can serve, then a pause in which it runs empty, then more."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(0.06, REQUESTS)
    gaps[REQUESTS // 2] = 60.0
    classes = rng.integers(0, 3, REQUESTS).astype(np.int32)
    prompts = np.array([c.prompt_tokens for c in CLASSES])[classes]
    outputs = np.array([c.output_tokens for c in CLASSES])[classes]
    return RequestStream(
        np.round(np.cumsum(gaps) * 2**20) / 2**20,
        classes,
        np.floor(rng.exponential(prompts)),
        np.floor(rng.exponential(outputs)),
    )


def assert_same_events(
    twin_class: type[ReferenceSimulator],
    hardware: Hardware,
    rule: DispatchRule,
    stream: RequestStream,
    seed: int,
) -> None:
    instance = instance_on(hardware)
    pool = 2 if rule.pools == "static" else N_GPUS
    controls = np.array([1.0, 0.6, 1.0, 0.7, 0.4, 1.0, pool])
    order = SlotRanks(*np.array([[0.0, 1, 2], [0, 4.5, 2], [1, 1, 0], [0, 2, 0], [0, 1, 0]]))
    lots = np.array([[0.7, 0.0, 0.3], [0.2, 0.0, 0.0]])
    key = np.random.SeedSequence(seed)
    twin = twin_class(instance, rule, controls, N_GPUS, key, stream, order, lots)
    twin.run(80.0)
    engine = Simulation(
        instance, rule, controls, N_GPUS, key, stream=stream, ranks=order, weights=lots,
        log_events=8 * REQUESTS,
    )  # fmt: skip
    engine.run(7.0)
    engine.run(80.0)
    assert_same_log(engine, twin, at_least=3 * REQUESTS)


@each_rule()
def test_same_events_for_every_rule(rule: DispatchRule) -> None:
    assert_same_events(LoopTwin, KV_AWARE, rule, whole_tokens(1), seed=5)


some_rules = pytest.mark.parametrize(
    "rule",
    [
        DispatchRule("fcfs", "coupled", "dynamic"),
        DispatchRule("fcfs", "solo-first", "dynamic", prefill_first=True),
        DispatchRule("earliest-deadline", "coupled", "dynamic"),
        DispatchRule("credit", "randomized", "static"),
        DispatchRule("bid-price", "bid-price", "dynamic"),
    ],
    ids=rule_name,
)


@some_rules
@pytest.mark.parametrize("kind", HARDWARE)
def test_same_events_for_every_law(kind: str, rule: DispatchRule) -> None:
    for seed in (2, 3):
        assert_same_events(LoopTwin, HARDWARE[kind], rule, whole_tokens(seed), seed)


@some_rules
@pytest.mark.parametrize("chunking", ["exact", "ceil"])
def test_same_events_with_immediate_starts(chunking: str, rule: DispatchRule) -> None:
    hardware = dataclasses.replace(KV_AWARE, starts="immediate", chunking=chunking)
    for seed in (2, 3):
        stream = whole_tokens(seed)
        fractions = RequestStream(*stream[:2], stream.prompt_tokens * 0.7, stream[3] * 0.7)
        assert_same_events(ContinuousTwin, hardware, rule, fractions, seed)


@pytest.mark.parametrize(
    "rule",
    [
        DispatchRule(
            "static-priority",
            "coupled",
            "dynamic",
            priority=("short", "code", "chat"),
            reserves={"chat": 3, "code": 1},
        )
    ],
    ids=["reserves"],
)
def test_same_events_with_static_priorities(rule: DispatchRule) -> None:
    assert_same_events(LoopTwin, KV_AWARE, rule, whole_tokens(4), seed=4)
