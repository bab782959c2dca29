"""Random clusters with groups of GPUs: the twin, the books at every moment, equal groups as one."""

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
from llm_sched_env.simulation.state.layout import (
    DECODE_END,
    DECODE_START,
    PREFILL_END,
    PREFILL_START,
)

ROLES = [("mixed", "mixed"), ("prefill", "decode"), ("mixed", "prefill", "decode")]
HORIZON = 30.0


def random_cluster(seed: int) -> tuple[lse.Instance, int, lse.DispatchRule]:
    """Groups of unequal speeds, chunks and slots, and a rule that can serve on them."""
    rng = np.random.default_rng(seed)
    roles = ROLES[seed % len(ROLES)]
    groups = tuple(
        lse.GpuGroup(f"g{k}", random_gpu(rng), 1 / len(roles), role) for k, role in enumerate(roles)
    )
    classes = tuple(
        lse.RequestClass(
            f"c{k}",
            float(rng.uniform(100, 1200)),
            float(rng.uniform(30, 200)),
            float(rng.uniform(0.3, 1.0)),
            float(rng.choice([0.0, 0.1, 0.4])) if k else 0.2,
            deadlines=Deadlines(ttft_seconds=float(rng.uniform(1, 6))),
        )
        for k in range(int(rng.integers(1, 4)))
    )
    instance = lse.Instance(f"random-{seed}", classes, lse.Fleet(groups), presets.PAPER_PRICES)
    rules = [
        rule
        for rule in (*CENTRAL, *AT_GPUS)
        if (rule.router != "coupled" or seed % len(ROLES) == 0) and not rule.reserves
    ]
    n_gpus = int(rng.integers(len(groups), 9))
    return instance, n_gpus, rules[int(rng.integers(len(rules)))]


def random_gpu(rng: np.random.Generator) -> lse.Hardware:
    speed, gpu = float(rng.uniform(0.5, 2.0)), presets.QWEN_8B_A100
    more = {"chunking": str(rng.choice(["ceil", "exact"]))}
    if rng.random() < 0.4:
        more = {"iteration_law": "affine", "beta": 4e-4, "alpha": 0.0219}
    else:
        more |= {"alpha": gpu.alpha / speed, "gamma": gpu.gamma * speed}
    return replace(
        gpu,
        batch_slots=int(rng.integers(2, 9)),
        chunk_tokens=int(rng.choice([64, 128, 256])),
        **more,
    )


def started(seed: int) -> tuple[Simulation, FleetTwin]:
    instance, n_gpus, rule = random_cluster(seed)
    plan = lse.plan(instance)
    ranks, controls = slot_ranks(plan, n_gpus), plan.controls(n_gpus)
    own = np.random.SeedSequence(seed)
    engine = Simulation(instance, rule, controls, n_gpus, own, log_events=30_000, ranks=ranks)
    return engine, FleetTwin(instance, rule, controls, n_gpus, own, ranks=ranks)


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=() if k < 24 else pytest.mark.extended) for k in range(120)]
)
def test_engine_and_twin_do_the_same_on_random_fleets(seed):
    engine, twin = started(seed)
    engine.run(HORIZON)
    twin.run(HORIZON)
    assert_same_log(engine, twin, at_least=20)


@pytest.mark.parametrize("seed", range(12))
def test_books_by_class_at_many_moments(seed):
    engine, _ = started(seed)
    for moment in np.linspace(0.1, HORIZON, 100):
        engine.run(float(moment))
        metrics = engine.metrics()
        counts = metrics.counts
        left = sum(counts[n] for n in ("completed", "abandoned_prefill", "abandoned_decode"))
        np.testing.assert_array_equal(counts["arrived"], left + metrics.inside)
        for name in ("admitted", "prefilled", "completed"):
            np.testing.assert_array_equal(metrics.by_group[name].sum(axis=1), counts[name])


@pytest.mark.parametrize("seed", range(12))
def test_slots_and_roles_at_every_event(seed):
    """No GPU holds more than its group's slots, a second prefill, or what its role rules out."""
    engine, _ = started(seed)
    engine.run(HORIZON)
    instance, n_gpus, _ = random_cluster(seed)
    owner = np.repeat(np.arange(len(instance.groups)), instance.group_sizes(n_gpus))
    prefills, decodes = np.zeros(n_gpus, int), np.zeros(n_gpus, int)
    slots = np.array([instance.groups[g].hardware.batch_slots for g in owner])
    roles = [instance.groups[g].role for g in owner]
    for _, kind, _, gpu in engine.events().tolist():
        if kind in (PREFILL_START, PREFILL_END):
            assert roles[gpu] != "decode"
            prefills[gpu] += 1 if kind == PREFILL_START else -1
        elif kind in (DECODE_START, DECODE_END):
            assert roles[gpu] != "prefill"
            decodes[gpu] += 1 if kind == DECODE_START else -1
        assert (prefills <= 1).all()
        assert (np.minimum(prefills, decodes) >= 0).all()
        assert (prefills + decodes <= slots).all()


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("name", ["base", "overload"])
def test_two_equal_groups_are_worth_one(name, pricing):
    one = getattr(presets, name)()
    halves = tuple(lse.GpuGroup(k, one.hardware, share) for k, share in (("a", 0.25), ("b", 0.75)))
    two = replace(one, hardware=lse.Fleet(halves))
    values = [lse.plan(instance, pricing).revenue_rate for instance in (one, two)]
    assert values[1] == pytest.approx(values[0], rel=1e-9)
