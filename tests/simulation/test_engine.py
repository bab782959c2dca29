"""The engine: invariants, reproducibility, capacity growth, snapshots, recorded streams."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.envs.actions import apply_actions
from llm_sched_env.envs.interval_env import LLMSchedEnv
from llm_sched_env.envs.observation_kernels import read_clusters
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.simulation.engine import advance, draw_requests, start
from llm_sched_env.simulation.scheduling.gates import _class_by_occupancy
from llm_sched_env.simulation.scheduling.rules import STATIC_POOLS, DispatchRule
from llm_sched_env.simulation.simulation import Simulation, SimulationBatch, sample_requests
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState, RequestStream

RULES = {
    name: entry.make()
    for name, entry in registered_policies().items()
    if isinstance(entry.make(), DispatchRule)
}
RULES["randomized credit"] = DispatchRule("credit", "randomized", "static")
RULES["randomized dynamic"] = DispatchRule("largest-credit", "randomized", "dynamic")


def controls_of(instance, n_gpus, pricing="bundled"):
    return lse.plan(instance, pricing).controls(n_gpus)


def simulation(instance, rule, n_gpus=7, seed=0, **more):
    plan = lse.plan(instance)
    seeds = np.random.SeedSequence(seed)
    more.setdefault("ranks", slot_ranks(plan, n_gpus))
    more.setdefault("weights", plan.decode_weights)
    if rule.correction is not None:
        more.setdefault("profile", class_profile(plan, n_gpus))
    return Simulation(instance, rule, plan.controls(n_gpus), n_gpus, seeds, **more)


def same_bytes(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def check_consistent(sim):
    """Capacities (12)-(14), counts against GPUs, every request in one place."""
    state = sim.state
    slots = int(state.groups["batch_slots"][0])
    prefilling = state.gpus["prefill_request"] >= 0
    decodes = state.gpus["decodes"]
    assert (decodes + prefilling <= slots).all()
    assert (state.class_decodes.sum(axis=1) == decodes).all()
    assert state.classes["x"].sum() == prefilling.sum()
    mixed = state.class_decodes[prefilling].sum(axis=0)
    assert (state.classes["y_mixed"] == mixed).all()
    assert (state.classes["y_solo"] == state.class_decodes.sum(axis=0) - mixed).all()
    if state.settings["pools"][0] == STATIC_POOLS:
        size = int(state.groups["mixed_pool_size"][0])
        assert not prefilling[size:].any()
        assert (decodes[:size] <= slots - 1).all()
    inside = sum(state.classes[name] for name in OCCUPANCIES).sum()
    assert inside == len(state.requests) - int(state.clock["free_size"][0])
    assert inside <= len(state.requests)
    totals = state.totals
    left = totals["completed"] + totals["rejected"]
    left += totals["abandoned_prefill"] + totals["abandoned_decode"]
    present = sum(state.classes[name] for name in OCCUPANCIES)
    assert (totals["initial"] + totals["arrived"] == left + present).all()


@pytest.mark.parametrize("name", RULES)
def test_invariants_hold_along_the_way(name):
    for instance in (lse.presets.overload(), lse.presets.dolly15k()):
        sim = simulation(instance, RULES[name])
        last = 0.0
        for until in np.arange(1.0, 121.0, 1.7):
            sim.run(until)
            check_consistent(sim)
            assert sim.time == pytest.approx(until)
            assert sim.time > last
            last = sim.time


def test_no_slot_idles_while_a_work_conserving_rule_has_work():
    sim = simulation(lse.presets.overload(), RULES["fcfs-and-route"])
    for until in np.arange(10.0, 200.0, 1.3):
        sim.run(until)
        solo, mixed, prefill = sim.state.available_sizes
        if sim.state.clock["waiting_decodes"][0] > 0:
            assert solo == mixed == 0
        if sim.state.clock["waiting_prefills"][0] > 0:
            assert prefill == 0


@pytest.mark.parametrize("name", ["gate-and-route", "token-bucket", "randomized dynamic"])
def test_same_seed_same_bytes_and_chunks_do_not_matter(name):
    once = simulation(lse.presets.overload(), RULES[name], seed=3)
    once.run(90.0)
    chunks = simulation(lse.presets.overload(), RULES[name], seed=3)
    other = simulation(lse.presets.overload(), RULES[name], seed=4)
    for until in np.linspace(0.5, 90.0, 57):
        chunks.run(until)
        other.run(until)  # stepped in turn: nothing is shared
    assert same_bytes(once.state, chunks.state)
    assert once.state.clock["events"][0] != other.state.clock["events"][0]


def test_request_records_grow_without_changing_the_run():
    instance = lse.Instance.from_dict(
        {
            **lse.presets.overload().to_dict(),
            "name": "patient",
            "classes": [
                {**c, "patience_rate": 0.0} for c in lse.presets.overload().to_dict()["classes"]
            ],
        }
    )
    small = simulation(instance, RULES["gate-and-route"], n_gpus=3)
    large = simulation(instance, RULES["gate-and-route"], n_gpus=3)
    large.batch._grow()
    large.batch._grow()
    large.batch._grow()
    large.batch.start(0, np.random.SeedSequence(0), controls_of(instance, 3))
    for sim in (small, large):
        sim.run(400.0)
        check_consistent(sim)
    assert len(small.state.requests) > 2 * 3 * 16 + 64
    for name in ("clock", "classes", "totals"):
        a, b = getattr(small.state, name), getattr(large.state, name)
        for field in a.dtype.names:
            if field != "free_size":
                np.testing.assert_array_equal(a[field], b[field])


def test_snapshot_restores_the_future():
    sim = simulation(lse.presets.overload(), RULES["token-bucket"])
    sim.run(50.0)
    saved = sim.snapshot()
    sim.run(100.0)
    future = sim.snapshot()
    sim.restore(saved)
    sim.run(100.0)
    assert same_bytes(sim.state, future)
    with pytest.raises(ConfigurationError, match="snapshot"):
        simulation(lse.presets.overload(), RULES["token-bucket"], n_gpus=8).restore(saved)


def test_rows_of_a_batch_equal_single_clusters():
    instance = lse.presets.overload()
    batch = SimulationBatch(instance, RULES["token-bucket"], 7, n_clusters=3)
    for k in range(3):
        batch.start(k, np.random.SeedSequence(k), controls_of(instance, 7))
    batch.run(np.array([60.0, 30.0, 90.0]))
    batch.run(np.array([60.0, 90.0, 90.0]))
    for k, until in enumerate((60.0, 90.0, 90.0)):
        single = simulation(instance, RULES["token-bucket"], seed=k)
        single.run(until)
        for name in ("clock", "classes", "totals", "gpus", "decode_marks"):
            assert getattr(batch.state(k), name).tobytes() == getattr(single.state, name).tobytes()


def test_common_random_numbers_across_rules():
    """Request k arrives at the same time whatever the rule."""
    logs = []
    for name in ("gate-and-route", "fcfs-immediate", "token-bucket"):
        sim = simulation(lse.presets.overload(), RULES[name], log_events=20_000)
        sim.run(60.0)
        events = sim.events()
        logs.append(events[events["kind"] == 0][["time", "index"]])
    assert len(logs[0]) > 500
    for log in logs[1:]:
        np.testing.assert_array_equal(log, logs[0])


def test_recorded_stream_is_served_and_billed_by_its_own_tokens():
    """Ten requests on an idle GPU: times and revenue by hand."""
    instance = lse.presets.base()
    stream = RequestStream(
        np.arange(10) * 100.0,
        np.tile(np.array([0, 1], np.int32), 5),
        np.full(10, 512.0),
        np.full(10, 100.0),
    )
    sim = simulation(instance, RULES["fcfs-immediate"], n_gpus=1, stream=stream)
    sim.run(np.inf)
    metrics = sim.metrics()
    assert metrics.counts["completed"].tolist() == [5, 5]
    assert metrics.bundled_revenue.sum() == pytest.approx(10 * (0.1 * 512 + 0.2 * 100))
    prefill, decode = 2 * instance.hardware.tau_mixed, 100 * instance.hardware.tau_solo
    assert metrics.latency_sums[0].sum() == pytest.approx(10 * prefill)
    assert metrics.latency_sums[2].sum() == pytest.approx(10 * (prefill + decode))
    assert metrics.end == pytest.approx(900.0 + prefill + decode)


def test_a_decode_slows_down_only_while_a_prefill_runs_beside_it():
    """Second request prefills (4 chunks) while the first decodes 100 tokens."""
    instance = lse.presets.base()
    solo, mixed = instance.hardware.tau_solo, instance.hardware.tau_mixed
    stream = RequestStream(
        np.array([0.0, 1.0]),
        np.array([0, 0], np.int32),
        np.array([256.0, 1024.0]),
        np.array([100.0, 100.0]),
    )
    sim = simulation(instance, RULES["fcfs-immediate"], n_gpus=1, stream=stream, log_events=100)
    sim.run(np.inf)
    events = sim.events()
    ends = {int(e["index"]): float(e["time"]) for e in events if e["kind"] == 4}
    # 96 iterations at solo speed, 4 beside the second prefill
    assert ends[0] == pytest.approx(mixed + 96 * solo + 4 * mixed)
    assert ends[1] == pytest.approx(1.0 + 4 * mixed + 100 * solo)


def test_a_credit_timer_does_not_outlive_the_last_request_that_waits():
    """The fourth request gives up before its class has credit again: the run ends then."""
    instance = lse.presets.base()
    stream = RequestStream(
        np.arange(4.0), np.zeros(4, np.int32), np.full(4, 256.0), np.full(4, 10.0)
    )
    rule = DispatchRule("credit", "solo-first", "static")
    controls = np.array([1e-3, 0.0, 1.0, 1.0, 1.0])  # a credit in 2000 s; patience is 10 s
    sim = Simulation(
        instance, rule, controls, 1, np.random.SeedSequence(0), stream=stream, log_events=50
    )
    sim.run(np.inf)
    metrics = sim.metrics()
    assert metrics.counts["completed"][0] == 3
    assert metrics.counts["abandoned_prefill"][0] == 1
    assert metrics.end == sim.events()["time"][-1] < 200.0


def test_zero_token_requests_pass_through():
    stream = RequestStream(np.zeros(3), np.zeros(3, np.int32), np.zeros(3), np.zeros(3))
    sim = simulation(lse.presets.base(), RULES["gate-and-route"], n_gpus=2, stream=stream)
    sim.run(np.inf)
    assert sim.metrics().counts["completed"].sum() == 3
    assert sim.time == 0.0


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_gpus=st.integers(1, 12),
    slots=st.integers(2, 9),
    rule=st.sampled_from(sorted(RULES)),
    loads=st.lists(st.floats(0.01, 5.0), min_size=1, max_size=4),
    patience=st.sampled_from([0.0, 0.05, 2.0]),
)
def test_random_instances_keep_every_invariant(seed, n_gpus, slots, rule, loads, patience):
    instance = lse.Instance(
        "random",
        tuple(
            lse.RequestClass(f"c{k}", 50.0 * 4**k, 900.0 / 3**k, load, patience)
            for k, load in enumerate(loads)
        ),
        lse.Hardware(0.0174, 6.2e-5, 45.45, 256, slots),
        lse.Prices(0.1, 0.2),
    )
    sim = simulation(instance, RULES[rule], n_gpus=n_gpus, seed=seed)
    for until in (0.3, 5.0, 20.0, 40.0):
        sim.run(until)
        check_consistent(sim)


def test_start_at_the_plan_has_the_plans_means():
    """Rounding is unbiased, also far below one request, and stations are independent."""
    instance = lse.presets.overload()
    occupancy = np.zeros((5, 2))
    occupancy[1] = 0.3, 0.2  # x
    occupancy[4] = 0.5, 0.25  # y_solo
    occupancy[0] = 0.5, 1.5  # q_prefill
    occupancy[2] = 0.5, 0.0  # q_decode
    # No admission while it starts: what is placed stays as it was placed.
    closed = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    rule = DispatchRule("strict-occupancy", "solo-first", "dynamic")
    batch = SimulationBatch(instance, rule, 1)
    seen = []
    for seed in range(2000):
        batch.start(0, np.random.SeedSequence(seed), closed, occupancy)
        classes = batch.state(0).classes
        seen.append(np.stack([classes[name] for name in OCCUPANCIES], axis=1))
    seen = np.array(seen).astype(float)
    mean = seen.mean(axis=0)
    assert mean[:, 0] == pytest.approx([0.5, 1.5], abs=0.04)
    assert mean[0, 1] == pytest.approx(0.3, abs=0.04)
    assert mean[:, 2] == pytest.approx([0.5, 0.0], abs=0.04)
    assert mean[:, 3:].sum(axis=1) == pytest.approx([0.5, 0.25], abs=0.04)
    assert abs(np.corrcoef(seen[:, 0, 0], seen[:, 0, 2])[0, 1]) < 0.08


def test_a_coupled_cluster_never_starts_with_decodes_waiting():
    instance = lse.presets.base()
    occupancy = lse.plan(instance, "separate").occupancy
    assert occupancy[2].sum() > 0.5
    sim = simulation(instance, RULES["fcfs-immediate"], n_gpus=50, occupancy=occupancy)
    assert sim.state.classes["q_decode"].sum() == 0
    for until in (0.1, 5.0, 30.0):
        sim.run(until)
        check_consistent(sim)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("arrival_time", [1.0, 0.5], "sort it"),
        ("arrival_time", [0.0, np.nan], "arrival_time"),
        ("request_class", [0, 2], "request_class"),
        ("request_class", [0.0, 1.0], "request_class"),
        ("prompt_tokens", [1.0, -1.0], "prompt_tokens"),
        ("output_tokens", [1.0, np.inf], "output_tokens"),
        ("output_tokens", [1.0], "equal shapes"),
    ],
)
def test_streams_that_cannot_be_replayed_are_named(field, values, message):
    good = RequestStream(np.array([0.0, 1.0]), np.array([0, 1]), np.ones(2), np.ones(2))
    with pytest.raises(ConfigurationError, match=message) as caught:
        simulation(
            lse.presets.base(),
            RULES["fcfs-immediate"],
            stream=good._replace(**{field: np.array(values)}),
        )
    assert "\n" not in str(caught.value)


def test_controls_out_of_range_are_named():
    instance = lse.presets.base()
    sim = simulation(instance, RULES["gate-and-route"], n_gpus=5)
    good = controls_of(instance, 5)
    for place, value in ((0, 1.1), (2, -0.1), (4, 6.0), (1, np.nan)):
        wrong = good.copy()
        wrong[place] = value
        with pytest.raises(ConfigurationError, match="controls"):
            sim.run(1.0, wrong)
    with pytest.raises(ConfigurationError, match="shape"):
        sim.run(1.0, good[:-1])
    assert sim.time == 0.0


@pytest.mark.parametrize("longest", [0, 1])
def test_ties_of_the_occupancy_gate_survive_rounding(longest):
    """Targets in the ratio 22:5 tie at X = (22, 5), whatever their last bits: longest queue."""
    scale = next(c for c in np.arange(0.9, 2.0, 0.01) if 22 / (22 * c) != 5 / (5 * c))
    sim = simulation(lse.presets.base(), RULES["gate-and-route"])
    state = EngineState(*(a.view(np.recarray) if a.dtype.names else a for a in sim.state))
    state.classes.x[:] = 22, 5
    state.control.prefill_target[:] = 22 * scale, 5 * scale
    state.control.queue_target[:] = 0.0
    state.classes.q_prefill[:] = 1
    state.classes.q_prefill[longest] = 2
    assert _class_by_occupancy.py_func(state, strict=False, anywhere=True) == (longest, 0)
    state.classes.x[longest] += 1
    assert _class_by_occupancy.py_func(state, strict=False, anywhere=True) == (1 - longest, 0)
    # The strict gate: a class exactly at its target, up to rounding, waits.
    state.control.prefill_target[:] = np.nextafter(state.classes.x.astype(float), np.inf)
    assert _class_by_occupancy.py_func(state, strict=True, anywhere=True) == (-1, 0)


def test_compiled_once():
    """One signature per compiled function, entry points and inner ones, whatever was run."""
    for seed, name in enumerate(RULES):
        simulation(lse.presets.dolly15k(), RULES[name], seed=seed).run(5)
    sample_requests(lse.presets.base(), 2, 10.0, np.random.SeedSequence(0))
    for env in (LLMSchedEnv(controls="admission"), LLMSchedVectorEnv(3, threads=2)):
        env.reset(seed=0)
        env.step(env.action_space.sample())
    for function in (advance, start, draw_requests, apply_actions, read_clusters):
        assert len(function.signatures) == 1, function


def test_bad_rules_and_counts_are_named():
    with pytest.raises(ConfigurationError, match="gate: got 'x'"):
        DispatchRule(gate="x")
    with pytest.raises(ConfigurationError, match="coupled"):
        DispatchRule(router="coupled", pools="static")
    with pytest.raises(ConfigurationError, match="prefill_first"):
        DispatchRule(router="coupled", pools="dynamic", prefill_first=True)
    for wrong in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigurationError, match="n_gpus: got"):
            SimulationBatch(lse.presets.base(), RULES["token-bucket"], wrong)
