"""A score is a share of a bound on the same requests and the same seconds."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import llm_sched_env as lse
from llm_sched_env.cli import app
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.measurement import common_period
from llm_sched_env.planning import plan
from llm_sched_env.presets import QWEN_8B_A100
from llm_sched_env.workloads.trace import Trace

PRICES = lse.Prices(0.1, 0.2)
RULE = "fcfs-immediate"


def trace_of(arrivals, prompts, outputs, classes=None):
    arrivals = np.asarray(arrivals, float)
    shape = arrivals.shape
    classes = np.zeros(shape, int) if classes is None else classes
    names = ("chat", "code")[: int(np.max(classes)) + 1]
    return Trace(
        names, arrivals, classes, np.broadcast_to(prompts, shape), np.broadcast_to(outputs, shape)
    )


def ramp():
    """10 requests in the first 100 s, 1000 in the next."""
    return trace_of(np.concatenate([10.0 * np.arange(10), 100 + 0.1 * np.arange(1000)]), 600, 20)


def instance_with(prompt=600.0, output=20.0, patience=0.1, **hardware):
    only = lse.RequestClass("chat", prompt, output, 1.0, patience)
    return lse.Instance("own", (only,), dataclasses.replace(QWEN_8B_A100, **hardware), PRICES)


def run(trace, instance=None, n_gpus=20, policy=RULE, replications=1, **times):
    instance = instance or instance_with()
    return lse.evaluate(policy, instance, n_gpus, trace=trace, replications=replications, **times)


# Traces: the measured seconds.


@pytest.mark.parametrize(
    ("times", "bound", "score", "covers"),
    [
        ({}, 16.1681, 0.994, "the 1,010 requests of 0-199.9 s"),
        ({"horizon": 100.0}, 0.32, 1.0, "the 10 requests of 0-100 s"),
        ({"horizon": 400.0}, 8.08, 1.0, "the 1,010 requests of 0-400 s"),
        ({"horizon": 199.0, "warmup": 100.0}, 32.0, 0.995, "the 990 requests of 100-199 s"),
    ],
)
def test_the_bound_is_that_of_the_requests_of_the_measured_seconds(times, bound, score, covers):
    result = run(ramp(), **times)
    assert result.bound == pytest.approx(bound, rel=1e-4)
    assert result.score.mean == pytest.approx(score, abs=1e-3)
    assert result.bound_of == covers


def test_a_horizon_is_the_window_that_it_leaves():
    cut, windowed = run(ramp(), horizon=100.0), run(ramp().window(0.0, 100.0))
    assert cut.bound == windowed.bound
    assert cut.scores == windowed.scores
    assert cut.requests == windowed.requests


@pytest.mark.parametrize("policy", [RULE, pytest.param("fluid-mpc", marks=pytest.mark.extended)])
def test_what_arrived_in_the_warm_up_is_not_paid(policy):
    """A flood that is still served in the measured seconds, which bring one request each ten."""
    flood = np.concatenate([np.linspace(0.0, 99.0, 400), 100.0 + 10.0 * np.arange(10)])
    trace = trace_of(flood, 6000, 20)  # one every 0.39 s can be served
    patient = instance_with(patience=0.0)
    result = run(trace, patient, 2, policy, horizon=300.0, warmup=100.0)
    completed = sum(c.completed for c in result.classes)
    assert completed > 100  # of the flood
    assert result.bound_of == "the 10 requests of 100-300 s"
    assert 0.0 < result.score.mean <= 1.0 + 1e-12


def test_measured_seconds_without_a_request_are_named():
    with pytest.raises(ConfigurationError, match=r"measured seconds: got \(300.0, 400.0\)"):
        run(ramp(), horizon=400.0, warmup=300.0)


def test_a_class_that_comes_later_has_the_rate_0():
    early, late = np.arange(50.0), 60.0 + np.arange(40.0)
    classes = np.repeat([0, 1], [50, 40])
    trace = trace_of(np.concatenate([early, late]), 300, 30, classes)
    result = lse.evaluate(RULE, "base", 10, trace=trace, replications=1, horizon=50.0)
    assert result.bound == pytest.approx(50 * 36.0 / 50 / 10)
    assert result.requests["arrived"] == 50


def test_a_window_keeps_its_end_through_every_operation():
    gap = trace_of([*range(101), 5000.0], 600, 200).window(0.0, 2000.0)
    assert (gap.duration, gap.rate) == (2000.0, 101 / 2000.0)
    assert gap.at_speed(4.0).duration == 500.0
    assert gap.at_rate(1.0).rate == pytest.approx(1.0)
    assert gap.window(50.0).duration == 1950.0
    assert gap.with_classes(["other", "chat"]).duration == 2000.0
    assert gap.without_zero_rows().duration == 2000.0
    result = run(gap, n_gpus=5)
    assert result.horizon == 2000.0
    assert result.bound == pytest.approx(101 * 100.0 / 2000.0 / 5)


@pytest.mark.parametrize("name", ["gap.csv", "gap.csv.gz"])
def test_a_saved_window_keeps_its_end(tmp_path, name):
    gap = trace_of([*range(101), 5000.0], 600, 200).window(0.0, 2000.0)
    gap.save(tmp_path / name)
    again = lse.load_traces(tmp_path / name)
    assert again.end == 2000.0
    assert again.arrival_time.tolist() == gap.arrival_time.tolist()
    assert lse.load_traces([tmp_path / name], window=(50.0, math.inf)).duration == 1950.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# end_seconds=soon\narrival_seconds,class,prompt_tokens,output_tokens\n0,a,1,1\n",
            "soon",
        ),
        (
            "# end_seconds=9\narrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n",
            "only saved traces",
        ),
        ("# end_seconds=9\narrival_seconds,class,prompt_tokens,output_tokens\n0,a,x,1\n", "line 3"),
        ("# end_seconds=9\narrival_seconds,class,prompt_tokens,output_tokens\n99,a,1,1\n", "end 9"),
    ],
)
def test_a_bad_end_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(lse.LLMSchedError, match=message):
        lse.load_traces(tmp_path / "t.csv")


def test_an_end_before_the_last_arrival_is_refused():
    with pytest.raises(lse.LLMSchedError, match=r"got the end 10\.0"):
        dataclasses.replace(ramp(), end=10.0)


def test_a_batch_at_one_instant_has_a_rate_over_a_horizon():
    batch = trace_of([0.0, 0.0, 0.0], [600, 200, 800], [54, 156, 133])
    result = run(batch, n_gpus=2, horizon=60.0)
    offered = 0.1 * 1600 + 0.2 * 343
    assert result.bound == pytest.approx(offered / 60 / 2)
    assert result.score.mean == pytest.approx(1.0)
    with pytest.raises(lse.LLMSchedError, match=r"all at one instant.*horizon"):
        run(batch, n_gpus=2)


# Traces: lengths are counted, not modelled.


def test_with_a_kv_limit_the_rows_that_fit_are_planned_for():
    k = np.arange(2000)
    prompts = np.where(k % 2 == 0, 900.0, 9100.0)
    trace = trace_of(0.5 * k, prompts, 100)
    result = run(trace, instance_with(5000.0, 100.0, kv_tokens=1024), 10)
    assert result.requests["rejected"] == 1000
    assert result.bound == pytest.approx(1000 * 110.0 / 999.5 / 10)
    assert 0.99 < result.score.mean <= 1.0
    assert (
        result.bound_of == "the 2,000 requests of 0-999.5 s, of which 1,000 fit into the KV limit"
    )


@pytest.mark.parametrize("prompt", [30.0, 256.0, 257.0, 3000.0])
def test_with_whole_chunks_the_rows_chunks_are_planned_for(prompt):
    """A flood of prefills: R* is what GPUs that do nothing else earn, and all of it is earned."""
    count, n_gpus = 20_000, 4
    trace = trace_of(np.arange(count) / 400.0, prompt, 1)
    result = run(trace, instance_with(prompt, 1.0, patience=0.5, chunking="ceil"), n_gpus)
    prefill_seconds = math.ceil(prompt / 256) * QWEN_8B_A100.tau_mixed
    offered = 400.0 / n_gpus
    expected = min(offered, 1.0 / prefill_seconds) * (0.1 * prompt + 0.2)
    assert result.bound == pytest.approx(expected, rel=1e-3)
    assert 0.98 < result.score.mean <= 1.0 + 1e-9


def test_runs_of_the_same_requests_without_randomness_have_no_interval():
    trace = trace_of(0.5 * np.arange(300), 600, 20)
    result = run(trace, n_gpus=4, replications=3)
    assert len(set(result.scores)) == 1
    assert math.isnan(result.score.ci95[0])
    assert result.to_dict()["score"]["ci95"] == [None, None]
    lengths = 100 + 10 * (np.arange(3000) % 50)
    flood = run(trace_of(0.01 * np.arange(3000), lengths, 200), n_gpus=2, replications=3)
    assert flood.score.ci95[0] < flood.score.ci95[1]
    assert flood.interval_of == "patience and routing; the requests are given"
    assert lse.evaluate(RULE, "base", 4, horizon=20.0, warmup=0.0).interval_of == (
        "requests, patience and routing"
    )


def test_the_command_line_says_what_bound_and_interval_cover(tmp_path):
    path = tmp_path / "t.csv"
    trace_of(0.5 * np.arange(300), 600, 20).save(path)
    common = ["evaluate", "--policy", RULE, "--trace", str(path), "--gpus", "4"]
    text = " ".join(CliRunner().invoke(app, common).stdout.split())
    assert "R* of the 300 requests of 0-149.5 s; no interval: the requests are given" in text
    plain = json.loads(CliRunner().invoke(app, [*common, "--json"]).stdout)
    assert plain["bound_of"] == "the 300 requests of 0-149.5 s"
    assert plain["interval_of"].endswith("the requests are given")


# Whole chunks in the Markov model.


@pytest.mark.parametrize(("prompt", "chunks"), [(30.0, 1.0002), (256.0, 1.582), (3000.0, 12.226)])
def test_whole_chunks_of_exponential_prompts(prompt, chunks):
    exact, whole = (instance_with(prompt, 1.0, chunking=c) for c in ("exact", "ceil"))
    assert exact.prefill_rates == 256 / (prompt * QWEN_8B_A100.tau_mixed)
    assert whole.prefill_rates == pytest.approx(1 / (chunks * QWEN_8B_A100.tau_mixed), rel=1e-3)
    flood = whole.scaled(200.0)
    result = lse.evaluate(RULE, flood, 4, horizon=320.0, warmup=20.0, replications=4)
    assert result.bound == pytest.approx(whole.prefill_rates[0] * (0.1 * prompt + 0.2), rel=1e-9)
    assert result.score.mean == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_whole_chunks_of_prompts_as_long_as_a_chunk_change_nothing(pricing):
    lengths = lse.LengthDistribution("deterministic")
    own = lse.RequestClass("chat", 512.0, 300.0, 2.0, 0.1, prompt_lengths=lengths)
    plans = [
        plan(
            lse.Instance("a", (own,), dataclasses.replace(QWEN_8B_A100, chunking=c), PRICES),
            pricing,
        )
        for c in ("exact", "ceil")
    ]
    assert plans[0].value == pytest.approx(plans[1].value, rel=1e-12)
    assert plans[0].x == pytest.approx(plans[1].x, rel=1e-12)


# Arrival profiles.


def profiled(*periods, rates=(1.0, 1.0)):
    base = lse.presets.base().classes
    classes = tuple(
        dataclasses.replace(
            c,
            arrival_rate=rate,
            arrival_profile=lse.ArrivalProfile((0.0, p / 2, p), (0.2, 1.8, 0.2)),
        )
        for c, p, rate in zip(base, periods, rates, strict=True)
    )
    return dataclasses.replace(lse.presets.base(), name="tides", classes=classes)


@pytest.mark.parametrize(
    ("periods", "common"),
    [((300.0, 300.0), 300.0), ((40.0, 60.0), 120.0), ((0.5, 0.75), 1.5), ((1000.0, 1001.0), None)],
)
def test_profiles_repeat_after_their_common_period(periods, common):
    assert common_period(profiled(*periods)) == common


def test_a_constant_profile_has_no_period():
    flat = lse.ArrivalProfile((0.0, 7.0), (2.0, 2.0))
    classes = tuple(
        dataclasses.replace(c, arrival_profile=flat) for c in lse.presets.base().classes
    )
    instance = dataclasses.replace(lse.presets.base(), classes=classes)
    assert common_period(instance) is None
    result = lse.evaluate(RULE, instance, 2, horizon=33.0, warmup=11.0, replications=1)
    assert result.bound_of == "the long-run mean arrival rates"


def test_the_default_measures_whole_periods():
    result = lse.evaluate(RULE, "daily", 20, replications=4)
    assert (result.horizon, result.warmup) == (1500.0, 300.0)
    assert result.bound == lse.plan("daily").value
    assert result.score.mean == pytest.approx(0.819, abs=0.01)
    assert result.bound_of == "the long-run mean arrival rates, over whole periods of 1200 s"
    shorter = lse.evaluate(RULE, "phased", 2, replications=1)
    assert (shorter.horizon, shorter.warmup) == (900.0, 300.0)


@pytest.mark.parametrize("policy", [RULE, "trunk-reservation"])
def test_part_of_a_period_is_bounded_by_its_own_arrivals(policy):
    part = lse.evaluate(policy, "daily", 20, horizon=900.0, warmup=300.0, replications=2)
    assert part.bound_of == "the mean arrival rates of 300-900 s"
    assert part.bound > 1.05 * lse.plan("daily").value
    assert 0.5 < part.score.mean < 1.0


def test_a_falling_tide_does_not_pay_for_what_it_finds():
    """From the top of the tide to its end, patient requests of the peak are still served."""
    tides = profiled(200.0, 200.0, rates=(1.2, 1.2))
    patient = dataclasses.replace(
        tides, classes=tuple(dataclasses.replace(c, patience_rate=0.0) for c in tides.classes)
    )
    result = lse.evaluate(
        "trunk-reservation", patient, 10, horizon=195.0, warmup=150.0, replications=4
    )
    assert result.bound_of == "the mean arrival rates of 150-195 s"
    assert result.score.mean < 1.0


def test_seconds_in_which_nothing_can_arrive_are_named():
    quiet = lse.ArrivalProfile((0.0, 50.0, 50.0, 100.0), (1.0, 1.0, 0.0, 0.0))
    classes = tuple(
        dataclasses.replace(c, arrival_profile=quiet) for c in lse.presets.base().classes
    )
    instance = dataclasses.replace(lse.presets.base(), classes=classes)
    with pytest.raises(ConfigurationError, match="measured seconds"):
        lse.evaluate(RULE, instance, 2, horizon=100.0, warmup=60.0, replications=1)


def test_a_class_without_tokens_in_the_measured_seconds_is_named():
    trace = trace_of([0.0, 1.0, 2.0, 3.0], [9.0, 9.0, 0.0, 9.0], 5, np.array([0, 1, 1, 0]))
    with pytest.raises(lse.LLMSchedError, match="no request of the class 'code' has prompt"):
        lse.evaluate(RULE, "base", 5, trace=trace, horizon=4.0, warmup=1.5, replications=1)


# The property: with ample capacity R* is what is offered, and no score is above 1.


def a_class_has_no_tokens(trace, rows):
    """Whether some class arrives in the rows, and never with a prompt or never with an output."""
    return any(
        mine.any() and not (trace.prompt_tokens[mine].any() and trace.output_tokens[mine].any())
        for mine in (rows & (trace.request_class == i) for i in range(len(trace.class_names)))
    )


@st.composite
def replays(draw):
    """A trace of two classes with quiet times and empty requests, and how it is replayed."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(30, 300))
    arrivals = np.cumsum(
        rng.exponential(1.0, count) * np.where(rng.random(count) < 0.05, 20.0, 1.0)
    )
    prompts = np.where(rng.random(count) < 0.1, 0, rng.integers(1, 2000, count))
    outputs = np.where(rng.random(count) < 0.1, 0, np.ceil(rng.lognormal(3.0, 1.0, count)))
    classes = rng.permutation(np.arange(count) % draw(st.integers(1, 2)))
    trace = trace_of(arrivals, prompts, outputs, classes)
    last = trace.duration
    if draw(st.booleans()):
        start, end = 0.2 * last, draw(st.sampled_from([0.8, 1.5])) * last
        inside = (arrivals >= start) & (arrivals < end)
        assume(set(classes[inside]) == set(classes))
        trace = trace.window(start, end)
    if draw(st.booleans()):
        trace = trace.without_zero_rows()
    if draw(st.booleans()):
        trace = trace.at_rate(draw(st.sampled_from([0.5, 4.0])))
    speed = draw(st.sampled_from([1.0, 2.0]))
    seconds = trace.duration / speed
    horizon = draw(st.sampled_from([None, 0.6, 1.0, 1.7]))
    warmup = draw(st.sampled_from([None, 0.3]))
    times = {} if horizon is None else {"horizon": horizon * seconds}
    if warmup is not None:
        times["warmup"] = warmup * times.get("horizon", seconds)
    hardware = {
        "kv_tokens": draw(st.sampled_from([None, 1500])),
        "chunking": draw(st.sampled_from(["exact", "ceil"])),
    }
    return trace, speed, times, hardware, draw(st.sampled_from(["bundled", "separate"]))


@pytest.mark.extended
@given(replays())
@settings(max_examples=60, deadline=None)
def test_with_ample_capacity_the_bound_is_what_is_offered(replay):
    trace, speed, times, hardware, pricing = replay
    classes = tuple(lse.RequestClass(name, 300.0, 100.0, 1.0, 0.05) for name in trace.class_names)
    instance = lse.Instance("own", classes, dataclasses.replace(QWEN_8B_A100, **hardware), PRICES)
    played = trace.at_speed(speed)
    start, end = times.get("warmup", 0.0), times.get("horizon", played.duration)
    measured = played.arrives_in(start, end)
    if hardware["kv_tokens"]:
        measured &= played.prompt_tokens + played.output_tokens <= hardware["kv_tokens"]
    paid = 0.1 * played.prompt_tokens + 0.2 * played.output_tokens
    offered = float(paid[measured].sum()) / (end - start) / 100
    arguments = {"trace": trace, "speed": speed, "pricing": pricing, "replications": 1, **times}
    all_measured = played.arrives_in(start, end)
    if offered == 0.0 or any(a_class_has_no_tokens(played, r) for r in (measured, all_measured)):
        with pytest.raises(lse.LLMSchedError):
            lse.evaluate(RULE, instance, 100, **arguments)
        return
    result = lse.evaluate(RULE, instance, 100, **arguments)
    assert result.bound == pytest.approx(offered, rel=1e-9)
    assert result.score.mean <= 1.0 + 1e-9
    assert result.requests["arrived"] <= len(trace)


@given(replays(), st.sampled_from([RULE, "trunk-reservation", "gate-and-route"]))
@settings(max_examples=40, deadline=None)
def test_no_score_is_above_1(replay, policy):
    trace, speed, times, hardware, pricing = replay
    classes = tuple(lse.RequestClass(name, 300.0, 100.0, 1.0, 0.05) for name in trace.class_names)
    instance = lse.Instance("own", classes, dataclasses.replace(QWEN_8B_A100, **hardware), PRICES)
    arguments = {"trace": trace, "speed": 8.0 * speed, "pricing": pricing, "replications": 2}
    times = {name: value / 8.0 for name, value in times.items()}
    try:
        result = lse.evaluate(policy, instance, 1, **arguments, **times)
    except lse.LLMSchedError:
        return
    # Which of a class's requests are served in a short run is chance, R* counts their means.
    served = max(1, sum(c.completed for c in result.classes))
    assert result.score.mean <= 1.0 + 4.0 / math.sqrt(served)
