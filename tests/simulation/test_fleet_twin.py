"""Groups of GPUs and queues at GPUs: the engine and its twin do the same, event by event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_cases import AT_GPUS, CENTRAL
from fleet_twin import FleetTwin
from reference_cases import assert_same_log

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.simulation import Simulation

GPU = replace(presets.QWEN_8B_A100, batch_slots=6)
SLOW = replace(GPU, alpha=0.03, gamma=25.0, chunk_tokens=128, batch_slots=4, chunking="ceil")
AFFINE = replace(GPU, alpha=0.0219, beta=4e-4, batch_slots=5, iteration_law="affine")
FLEETS = {
    "two kinds": (("fast", GPU, 0.5, "mixed"), ("slow", SLOW, 0.5, "mixed")),
    "roles": (("p", GPU, 0.4, "prefill"), ("d", SLOW, 0.4, "decode"), ("m", AFFINE, 0.2, "mixed")),
    "split": (("p", SLOW, 0.5, "prefill"), ("d", GPU, 0.5, "decode")),
}


def instance_of(fleet: str) -> lse.Instance:
    groups = tuple(lse.GpuGroup(*group) for group in FLEETS[fleet])
    classes = (
        lse.RequestClass("a", 400.0, 120.0, 0.8, 0.2, deadlines=Deadlines(ttft_seconds=4.0)),
        lse.RequestClass("b", 900.0, 60.0, 0.8, 0.3),
        lse.RequestClass("c", 200.0, 200.0, 0.3, 0.0),
    )
    return lse.Instance(fleet, classes, lse.Fleet(groups), presets.PAPER_PRICES)


def named(rule: lse.DispatchRule) -> str:
    return f"{rule.gate} {rule.router} {rule.pools}"


@pytest.mark.parametrize("rule", [*CENTRAL, *AT_GPUS], ids=named)
@pytest.mark.parametrize("fleet", FLEETS)
def test_engine_and_twin_do_the_same(fleet, rule):
    instance, n_gpus = instance_of(fleet), 5 if fleet != "two kinds" else 6
    if rule.router == "coupled" and fleet != "two kinds":
        pytest.skip("a coupled decode needs a GPU that decodes where it was prefilled")
    plan = lse.plan(instance)
    ranks = slot_ranks(plan, n_gpus)
    seed = np.random.SeedSequence(CENTRAL.index(rule) if rule in CENTRAL else 50)
    controls = plan.controls(n_gpus)
    simulation = Simulation(instance, rule, controls, n_gpus, seed, log_events=20_000, ranks=ranks)
    twin = FleetTwin(instance, rule, controls, n_gpus, seed, ranks=ranks)
    simulation.run(40.0)
    twin.run(40.0)
    assert_same_log(simulation, twin, at_least=500)
    check_books(simulation)


def check_books(simulation: Simulation) -> None:
    """Requests of each class are in one place, and groups add up."""
    state, metrics = simulation.state, simulation.metrics()
    inside = metrics.inside
    counts = metrics.counts
    left = counts["completed"] + counts["abandoned_prefill"] + counts["abandoned_decode"]
    assert (counts["arrived"] == left + inside).all()
    for name in ("admitted", "prefilled", "completed"):
        assert (metrics.by_group[name].sum(axis=1) == counts[name]).all()
    for name in ("x", "y_mixed", "y_solo"):
        np.testing.assert_allclose(metrics.by_group[name].sum(axis=1), metrics.occupancy[name])
    roles = [group.role for group in simulation.batch.instance.groups]
    for g, role in enumerate(roles):
        if role == "prefill":
            assert metrics.by_group["completed"][:, g].sum() == 0
        if role == "decode":
            assert metrics.by_group["admitted"][:, g].sum() == 0
    assert (state.backlogs["waiting"] >= 0).all()
