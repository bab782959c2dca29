"""The bound holds for every policy, is the fluid program's where that applies, and is not empty."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.planning.fluid_solution import one_group_program
from llm_sched_env.policies.rolling_horizon import planned_simulation
from llm_sched_env.presets import base
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.state import layout
from llm_sched_env.sizing.bound import greatest_rate_factor, least_gpus, least_work
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.judged import Candidate, GpuKind, judge
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.served_case import compiled_policy
from llm_sched_env.sizing.size import POLICIES
from llm_sched_env.sizing.workload import trace_workload
from llm_sched_env.workloads.trace import Trace

RULES = [compiled_policy(name) for name in POLICIES]
H100 = load_hardware("h100-llama3-8b-b128")
PADDED = load_hardware("h100-llama3-8b-b32")
HARDWARE = {
    "two-speed": base().hardware,
    "few slots": dataclasses.replace(base().hardware, batch_slots=3, chunking="ceil"),
    "affine": dataclasses.replace(base().hardware, iteration_law="affine"),
    "padded": dataclasses.replace(PADDED, batch_slots=4),
    "kv-aware": dataclasses.replace(H100, batch_slots=4, kv_tokens=6000),
    "at once": dataclasses.replace(H100, batch_slots=8, starts="immediate"),
}


def candidates(kind: GpuKind, n: int) -> list[Candidate]:
    return [Candidate(kind, n, *rule) for rule in RULES]


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Up to 40 requests of two classes in half a minute or less, often at one instant."""
    count = draw(st.integers(4, 40))
    span = draw(st.sampled_from([0.5, 5.0, 30.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrival = np.sort(rng.uniform(0.0, span, count))
    arrival[: count // 3] = 0.0
    prompt = rng.choice([50, 300, 1000, 4000], count)
    output = rng.choice([1, 20, 100, 400], count)
    return Trace(("a", "b"), arrival, np.arange(count) % 2, prompt, output, end=span)


@pytest.mark.extended
@given(
    traces(),
    st.sampled_from(sorted(HARDWARE)),
    st.sampled_from([(0.3, 0.03), (2.0, None), (None, 0.02), (1.0, 0.1)]),
    st.sampled_from([("percentile", 90.0), ("share", 0.5), ("share", 1.0)]),
)
@settings(max_examples=60, deadline=None)
def test_no_policy_does_what_the_bound_rules_out(trace, law, deadlines, asked):
    workload = trace_workload(trace, Deadlines(*deadlines))
    requirement = Requirement(*asked, confidence=0.5)
    bound = least_gpus(workload, HARDWARE[law], requirement)
    # One GPU less than is left open, and where nothing is ruled out one.
    n = 6 if math.isinf(bound.n_gpus) else max(1, int(bound.n_gpus) - 1)
    rows = judge(workload, candidates(GpuKind(law, HARDWARE[law]), n), requirement, CaseRuns(), 0)
    for row in rows:
        assert row.judged.mean <= bound.possible_share + 1e-9
        if n < bound.n_gpus:
            assert row.judged.mean < requirement.share(workload.rate)


@pytest.mark.parametrize("law", sorted(HARDWARE))
def test_an_idle_gpu_takes_the_least_time(law):
    """One request at a time: TTFT is the least prefill, and no token is faster than the least."""
    rng = np.random.default_rng(2)
    trace = Trace(
        ("a",),
        np.arange(50) * 60.0,
        np.zeros(50),
        rng.integers(1, 5000, 50),
        rng.integers(1, 500, 50),
    )
    workload = trace_workload(trace, Deadlines(50.0, 1.0))
    hardware = HARDWARE[law]
    work, alone = least_work(trace, hardware), run_alone(workload, hardware)
    assert np.allclose(work.prefill, alone[0], rtol=1e-9)
    assert (work.token <= alone[1] * (1 + 1e-9)).all()
    assert (work.token > 0.45 * alone[1]).all()


def run_alone(workload, hardware):
    """TTFT and TPOT of requests that meet nobody, from the engine's log."""
    sample, cluster = workload.samples[0], workload.cluster(hardware, 1, 0)
    simulation = planned_simulation(
        cluster.instance,
        RULES[0][1],
        cluster.plan,
        1,
        replication_seed(0, 0),
        stream=sample.stream,
        log_events=6 * len(sample),
    )
    simulation.run(sample.duration + 600.0)
    events = simulation.events()

    def at(kind):
        return np.sort(events["time"][events["kind"] == kind])

    first = at(layout.PREFILL_END)
    return first - sample.arrival_time, (at(layout.DECODE_END) - first) / sample.output_tokens


@given(traces(), st.sampled_from(sorted(HARDWARE)), st.floats(0.2, 8.0))
@settings(max_examples=40, deadline=None)
def test_no_policy_sustains_a_rate_that_is_ruled_out(trace, law, factor):
    workload = trace_workload(trace, Deadlines(5.0, 0.1))
    requirement, kind = Requirement("share", 0.8, confidence=0.5), GpuKind(law, HARDWARE[law])
    most = greatest_rate_factor(workload, kind.hardware, 1, requirement)
    assume(most > 0)
    rows = judge(workload.at_rate(factor), candidates(kind, 1), requirement, CaseRuns(), 0)
    if max(row.judged.mean for row in rows) >= 0.8:
        # One repetition has the time that deadlines allow after the last arrival, too.
        assert trace.duration / factor + workload.drain_seconds(trace) >= trace.duration / most


@pytest.mark.parametrize("law", ["two-speed", "few slots", "padded", "kv-aware", "at once"])
def test_all_work_is_that_of_the_fluid_program(law):
    """Where all must be served the best prices give the program's own critical rate.

    Independent: the program is a linear one over iterations, solved by HiGHS. Nine points of y are
    not all of them, so that the bound may be a little lower.
    """
    hardware = dataclasses.replace(HARDWARE[law], kv_tokens=None)
    rng = np.random.default_rng(1)
    count = 400
    trace = Trace(
        ("a",),
        np.arange(float(count)),
        np.zeros(count),
        rng.integers(1, 3000, count),
        rng.integers(1, 500, count),
    )
    workload = trace_workload(trace, Deadlines(60.0, 1.0))
    instance = workload.cluster(hardware, 1, 0).instance
    work = least_work(trace, hardware).prices.sum(axis=1).max() / trace.duration
    needed = 1.0 / one_group_program(instance).critical_scale()
    assert work <= needed * (1 + 1e-9)
    assert work > 0.97 * needed


def test_a_burst_by_hand():
    """Eight prefills of a second at once, due in 2 s: two a GPU, so four GPUs; of six, three."""
    hardware = Hardware(0.0, 1.0 / 256, 64.0, 256, 4)
    trace = Trace(("a",), [0.0] * 8 + [100.0], [0] * 9, [256] * 9, [1] * 9)
    workload = trace_workload(trace, Deadlines(ttft_seconds=2.0))
    kind = GpuKind("by hand", hardware)
    for share, gpus in ((1.0, 4), (7 / 9, 3)):
        requirement = Requirement("share", share, confidence=0.5)
        # The window's own two seconds are room as well: a burst is not all of its window.
        assert least_gpus(workload, hardware, requirement).n_gpus == math.ceil(gpus / 2)
        enough, fewer = (
            max(
                r.judged.mean
                for r in judge(workload, candidates(kind, n), requirement, CaseRuns(), 0)
            )
            for n in (gpus, gpus - 1)
        )
        assert enough >= share > fewer


def test_what_an_idle_gpu_cannot_do_no_number_can():
    hardware = Hardware(0.0, 1.0 / 256, 64.0, 256, 4)
    trace = Trace(("a",), [0.0, 1.0, 2.0, 9.0], [0] * 4, [256, 256, 256, 2560], [1] * 4)
    workload = trace_workload(trace, Deadlines(ttft_seconds=2.0))
    bound = least_gpus(workload, hardware, Requirement("share", 0.9))
    assert math.isinf(bound.n_gpus)
    assert bound.possible_share == 0.75
    assert bound.least_ttft == pytest.approx(10.0)
    assert least_gpus(workload, hardware, Requirement("share", 0.75)).n_gpus == 1
    assert greatest_rate_factor(workload, hardware, 1000, Requirement("share", 0.9)) == 0.0
