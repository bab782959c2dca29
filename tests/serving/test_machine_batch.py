"""A cluster on a machine takes the simulator's decisions; only time and ends are the machine's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from event_agents import AtEvents
from law_machine import LawMachine

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.hardware import load_hardware
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.trace import Trace

SECONDS, N = 12.0, 3
HARDWARE = dataclasses.replace(
    load_hardware("h100-llama3-8b-b32"), batch_slots=4, padded_chunks=False
)
INSTANCE = Instance(
    classes=(
        RequestClass("long", 1400.0, 60.0, arrival_rate=3.0, patience_rate=0.2),
        RequestClass("short", 300.0, 150.0, arrival_rate=3.0, patience_rate=0.2),
    ),
    hardware=HARDWARE,
    prices=PAPER_PRICES,
    name="small",
)


def whole_trace(seed: int = 0) -> Trace:
    trace = requests_of_run(INSTANCE, N, SECONDS, seed)
    rng = np.random.default_rng(seed)
    return dataclasses.replace(
        trace,
        prompt_tokens=np.ceil(trace.prompt_tokens),
        output_tokens=np.ceil(trace.output_tokens),
        patience_seconds=rng.exponential(2.0, len(trace)),
    )


OPTIONS = {
    "instance": INSTANCE,
    "n_gpus": N,
    "trace": whole_trace(),
    "match_trace": False,
    "horizon": SECONDS,
    "warmup": 2.0,
    "replications": 1,
}


@pytest.mark.parametrize("policy", sorted(registered_policies()))
def test_under_the_law_a_machine_gives_the_simulated_run(policy: str) -> None:
    if policy == "static-priority":
        pytest.skip("needs an order")
    machine = LawMachine(*[HARDWARE] * N)
    served, simulated = (
        lse.evaluate(policy, **OPTIONS, machine=machine),
        lse.evaluate(policy, **OPTIONS),
    )
    assert served.requests == simulated.requests
    assert served.events == simulated.events
    assert served.requests["completed"] > 30
    for name in ("ttft", "tpot", "e2e"):
        assert getattr(served, name).mean == pytest.approx(getattr(simulated, name).mean, rel=1e-9)
    assert served.revenue_rate.mean == pytest.approx(simulated.revenue_rate.mean, rel=1e-12)


def test_an_agent_at_events_gives_the_simulated_run() -> None:
    machine = LawMachine(*[HARDWARE] * N)
    served, simulated = (
        lse.evaluate(AtEvents(), **OPTIONS, machine=machine),
        lse.evaluate(AtEvents(), **OPTIONS),
    )
    assert served.requests == simulated.requests
    assert served.events == simulated.events
    assert served.ttft.mean == pytest.approx(simulated.ttft.mean, rel=1e-9)


@pytest.mark.parametrize("policy", ["gate-and-route", "round-robin", AtEvents()])
def test_groups_of_gpus_give_the_simulated_run(policy: Any) -> None:
    slow = dataclasses.replace(
        load_hardware("h100-llama3-8b-b32"), batch_slots=3, chunk_tokens=256, padded_chunks=False
    )
    fleet = Fleet((GpuGroup("fast", HARDWARE, 1 / 3), GpuGroup("slow", slow, 2 / 3)))
    options = {**OPTIONS, "instance": dataclasses.replace(INSTANCE, hardware=fleet)}
    machine = LawMachine(HARDWARE, slow, slow)
    served = lse.evaluate(policy, **options, machine=machine)
    simulated = lse.evaluate(policy, **options)
    assert served.requests == simulated.requests
    assert served.events == simulated.events
    assert served.requests["completed"] > 30
    assert {gpu for gpu, *_ in machine.iterations} == {0, 1, 2}
    assert served.ttft.mean == pytest.approx(simulated.ttft.mean, rel=1e-9)
    assert served.tpot.mean == pytest.approx(simulated.tpot.mean, rel=1e-9)


def test_every_request_gets_exactly_its_tokens() -> None:
    trace = OPTIONS["trace"]
    machine = LawMachine(*[HARDWARE] * N)
    result = lse.evaluate("gate-and-route", **OPTIONS, machine=machine)
    made = np.array([machine.made.get(r, 0) for r in range(len(trace))])
    assert (made <= trace.output_tokens).all()
    assert (made == trace.output_tokens).sum() >= result.requests["completed"]


def test_what_cannot_be_served_is_refused() -> None:
    machine = LawMachine(*[HARDWARE] * N)
    immediate = dataclasses.replace(
        INSTANCE, hardware=dataclasses.replace(HARDWARE, starts="immediate")
    )
    with pytest.raises(ConfigurationError, match="boundary"):
        lse.evaluate("fcfs-immediate", **{**OPTIONS, "instance": immediate}, machine=machine)
    broken = dataclasses.replace(
        OPTIONS["trace"], output_tokens=OPTIONS["trace"].output_tokens + 0.5
    )
    with pytest.raises(ConfigurationError, match="whole numbers"):
        lse.evaluate("fcfs-immediate", **{**OPTIONS, "trace": broken}, machine=machine)
