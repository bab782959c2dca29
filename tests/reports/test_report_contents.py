"""What reports draw and say is what was simulated, planned and evaluated."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env import reports
from llm_sched_env.evaluation.latency_distribution import LEVELS, quantiles_of
from llm_sched_env.evaluation.preparation import prepared_run
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.policies.rolling_horizon import planned_simulation
from llm_sched_env.reports.answers import comparison_answer
from llm_sched_env.reports.axes import size_axis
from llm_sched_env.reports.drawing import N_COLOURS, Drawing
from llm_sched_env.reports.fairness import fairness_of, jain_index
from llm_sched_env.reports.kv_in_use import kv_tokens_in_use
from llm_sched_env.reports.latencies import deadlines
from llm_sched_env.reports.page import Cell, Report, Table, write_report
from llm_sched_env.reports.request_times import RequestTimes
from llm_sched_env.reports.run_over_time import plan_levels, run_of_requests, sampled_run
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.state import layout
from llm_sched_env.watching.live_cluster import live_run
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.trace import Trace

NAN = math.nan


class PlanAsItIs:
    """A policy in Python, once a second."""

    def reset(self, instance, plan, n_gpus, rng):
        self.action = plan.action

    def act(self, observation, info):
        return self.action


@pytest.mark.parametrize("policy", ["trunk-reservation", PlanAsItIs()])
def test_means_over_steps_are_those_of_the_evaluation(policy):
    """Weighted by their lengths, the steps' means are the run's: replication 0, to rounding."""
    times = {"horizon": 90.0, "warmup": 0.0, "seed": 5}
    run = sampled_run(prepared_run(policy, "overload", 4, **times), steps=37)
    result = lse.evaluate(policy, "overload", 4, replications=1, **times)
    lengths = np.diff(_edges(run.times, 90.0))
    assert len(lengths) == 37
    for name in ("q_prefill", "x", "q_decode"):
        mean = lengths @ run.counts[name] / 90.0
        assert mean == pytest.approx(result.occupancy[name], rel=1e-9, abs=1e-12)
    decodes = result.occupancy["y_mixed"] + result.occupancy["y_solo"]
    assert lengths @ run.counts["decodes"] / 90.0 == pytest.approx(decodes, rel=1e-9)


def _edges(middles, end):
    """Of steps whose middles are known, from 0 on."""
    edges = [0.0]
    for middle in middles:
        edges.append(2 * middle - edges[-1])
    assert edges[-1] == pytest.approx(end)
    return np.array(edges)


def test_runs_of_traces_are_those_that_are_evaluated():
    rng = np.random.default_rng(1)
    trace = Trace(
        ("chat", "code"),
        np.sort(rng.uniform(0, 60, 300)),
        rng.integers(0, 2, 300),
        rng.integers(20, 900, 300),
        rng.integers(1, 300, 300),
    )
    prepared = prepared_run("fcfs-immediate", None, 2, trace=trace, seed=3)
    run = sampled_run(prepared, steps=20)
    result = lse.evaluate("fcfs-immediate", None, 2, trace=trace, replications=1, seed=3)
    lengths = np.diff(_edges(run.times, result.horizon))
    mean = lengths @ run.counts["q_prefill"] / result.horizon
    assert mean == pytest.approx(result.occupancy["q_prefill"], rel=1e-9)


def test_kv_tokens_are_those_that_decodes_attend_to():
    """Under the KV-aware law the engine knows them itself, as of a GPU's last change."""
    prepared = prepared_run("fcfs-immediate", "h100-chat", 3, horizon=60.0, warmup=0.0)
    live = live_run(prepared.name, prepared.runs, prepared.run)
    live.advance(40.0)
    state = live.state
    found = kv_tokens_in_use(state)
    assert found.shape == (3,)
    assert (found > 1000).all()
    # Since its last change each decode has made a token an iteration, and no prefill was ended.
    prefilling = state.gpus["prefill_request"] >= 0
    requests = state.requests[np.maximum(state.gpus["prefill_request"], 0)]
    most = state.loads["kv_tokens"] + np.where(prefilling, requests["prompt_tokens"], 0.0)
    slack = state.gpus["decodes"] * 200.0
    assert (found >= state.loads["kv_tokens"] - slack).all()
    assert (found <= most + slack).all()


def test_kv_tokens_of_a_run_are_near_the_plan():
    """A cluster of the fluid's size: within 10% of the plan once it is full."""
    prepared = prepared_run("trunk-reservation", "overload", 60, horizon=200.0, warmup=0.0)
    run = sampled_run(prepared, steps=40)
    levels = plan_levels(prepared.run.cluster)
    assert run.kv_tokens[20:].mean() == pytest.approx(levels.kv_tokens, rel=0.1)
    assert run.counts["decodes"][20:].mean(axis=0) == pytest.approx(
        levels.counts["decodes"], rel=0.15
    )


def by_hand():
    """Two requests on one GPU, one of which leaves; a third is still in prefill."""
    return RequestTimes(
        ("a",),
        np.zeros(3, int),
        np.array([100.0, 50.0, 40.0]),
        np.array([10.0, 5.0, 5.0]),
        arrival=np.array([0.0, 1.0, 6.0]),
        prefill_start=np.array([1.0, NAN, 7.0]),
        first_token=np.array([3.0, NAN, NAN]),
        decode_start=np.array([4.0, NAN, NAN]),
        end=np.array([6.0, NAN, NAN]),
        left=np.array([NAN, 5.0, NAN]),
        counted=np.ones(3, bool),
    )


def test_a_run_told_request_by_request():
    run = run_of_requests(by_hand(), 1, end=8.0, steps=8)
    assert run.counts["q_prefill"][:, 0].tolist() == [1, 1, 1, 1, 1, 0, 1, 0]
    assert run.counts["x"][:, 0].tolist() == [0, 1, 1, 0, 0, 0, 0, 1]
    assert run.counts["q_decode"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert run.counts["decodes"][:, 0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    # At the ends of the steps: half of a prompt, all of it, with outputs; nothing once it is done.
    assert run.kv_tokens[:6].tolist() == [0, 50, 100, 100, 105, 0]
    assert by_hand().latencies["ttft"].tolist() == [3.0, math.inf, math.inf]


def test_requests_of_a_log_give_the_occupancies_of_the_run():
    """An event log against the engine's own integrals."""
    instance = lse.presets.overload()
    trace = requests_of_run(instance, 3, 50.0, 0)
    cluster = prepared_run("fcfs-immediate", instance, 3, trace=trace).run.cluster
    _, rule = resolve_policy("fcfs-immediate")
    simulation = planned_simulation(
        cluster.instance, rule, cluster.plan, 3, replication_seed(0, 0),
        stream=trace.stream, log_events=6 * len(trace),
    )  # fmt: skip
    simulation.run(50.0)
    events = simulation.events()
    times = np.full((layout.REJECT + 1, len(trace)), NAN)
    times[events["kind"], events["index"]] = events["time"]
    requests = RequestTimes(
        trace.class_names, trace.request_class, trace.prompt_tokens, trace.output_tokens,
        trace.arrival_time, times[layout.PREFILL_START], times[layout.PREFILL_END],
        times[layout.DECODE_START], times[layout.DECODE_END],
        np.fmin(times[layout.LEAVE_PREFILL], times[layout.LEAVE_DECODE]),
        np.ones(len(trace), bool),
    )  # fmt: skip
    run = run_of_requests(requests, 3, 50.0, steps=10)
    occupancy = simulation.metrics().occupancy
    for name in ("q_prefill", "x", "q_decode"):
        assert run.counts[name].mean(axis=0) == pytest.approx(occupancy[name], abs=1e-9)
    assert run.kv_tokens[-1] == pytest.approx(kv_tokens_in_use(simulation.state).mean(), rel=0.03)


def test_distributions_agree_with_the_percentiles_of_the_result():
    result = lse.evaluate("trunk-reservation", "overload", 5, horizon=120.0, warmup=20.0)
    for name in ("ttft", "tpot", "e2e"):
        rows = result.latency_quantiles[name]
        assert rows.shape == (3, len(LEVELS))
        assert (np.diff(rows, axis=1) >= 0).all()
        of = [*(getattr(c, name) for c in result.classes), getattr(result, name)]
        for row, latency in zip(rows, of, strict=True):
            for level, value in ((0.5, latency.p50), (0.9, latency.p90), (0.99, latency.p99)):
                at = int(np.argmin(np.abs(LEVELS - level)))
                assert row[at] == pytest.approx(value, rel=1e-9)
    empty = quantiles_of(np.array([]))
    assert np.isnan(empty).all()
    assert quantiles_of(np.array([1.0, math.inf]))[-1] == math.inf


def test_deadlines_of_classes_are_drawn_once_where_they_are_equal():
    instance = lse.presets.base()
    assert deadlines(instance, "ttft") == []
    one, two = instance.classes

    def with_deadlines(*limits):
        classes = [
            dataclasses.replace(c, deadlines=Deadlines(limit) if limit else None)
            for c, limit in zip((one, two), limits, strict=True)
        ]
        return dataclasses.replace(instance, classes=tuple(classes))

    same = deadlines(with_deadlines(2.0, 2.0), "ttft")
    assert [(d.at, d.series) for d in same] == [(2.0, None)]
    apart = deadlines(with_deadlines(2.0, 3.0), "ttft")
    assert [(d.at, d.series, d.name) for d in apart] == [(2.0, 0, one.name), (3.0, 1, two.name)]
    assert [d.series for d in deadlines(with_deadlines(None, 3.0), "ttft")] == [1]
    assert deadlines(with_deadlines(2.0, 3.0), "tpot") == []
    assert deadlines(with_deadlines(2.0, 3.0), "e2e") == []


def test_the_answer_names_the_best_and_how_surely():
    times = {"horizon": 100.0, "warmup": 20.0, "replications": 4}
    names = ("gate-and-route", "trunk-reservation")
    results = [(name, lse.evaluate(name, "overload", 5, **times)) for name in names]
    first, rest = comparison_answer(results)
    best = results[1][1]
    assert first.startswith("trunk-reservation earns most on overload with 5 GPUs")
    assert f"{100 * best.score.mean:.1f}% of R*" in first
    points = 100 * (np.array(best.scores) - np.array(results[0][1].scores))
    assert f"That is {points.mean():.2f} points more than gate-and-route (95%: " in rest
    same = [("one", best), ("two", best)]
    assert "cannot tell it apart from two" in " ".join(comparison_answer(same))
    assert comparison_answer(results[:1])[0].startswith("gate-and-route earns ")
    other = lse.evaluate("gate-and-route", "base", 5, **times)
    several = comparison_answer([*results, ("gate-and-route", other)])
    assert len(several) == 3
    assert several[0] in (
        "trunk-reservation earns most on 1 of 2 instances.",
        "gate-and-route earns most on 1 of 2 instances.",
    )


def test_fairness_is_jains_index_of_the_classes():
    assert jain_index([1.0, 1.0, 1.0]) == 1.0
    assert jain_index([1.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain_index([0.4, NAN]) == 1.0
    assert math.isnan(jain_index([NAN]))
    result = lse.evaluate("trunk-reservation", "overload", 5, horizon=60.0, warmup=0.0)
    shares = [c.completed / (c.completed + c.abandoned_prefill + c.abandoned_decode) for c in result.classes]  # fmt: skip  # noqa: E501
    assert fairness_of(result) == pytest.approx(jain_index(shares))


# Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia, tritanopia.
_ROWS = (
    *((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216)),
    *((-0.003882, -0.048116, 1.051998), (0.367322, 0.860646, -0.227968)),
    *((0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    *((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602)),
    (0.004733, 0.691367, 0.303900),
)
VISIONS = np.concatenate([np.eye(3), _ROWS]).reshape(4, 3, 3)


def lab(rgb):
    """CIE L*a*b* of linear colours, shape (..., 3)."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = np.clip(rgb, 0, 1) @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_colours_of_series_are_told_apart_by_everybody():
    """Any two differ by 20 in L*a*b* at least, also to the colour-blind (2.3 is just seen)."""
    css = (Path(reports.__file__).parent / "page" / "report.css").read_text()
    themes = re.findall(r"--s0: .*", css)
    assert len(themes) == 2
    for theme in themes:
        codes = re.findall(r"#([0-9a-f]{6})", theme)
        assert len(codes) == N_COLOURS
        given = np.array([[int(c[k : k + 2], 16) / 255 for k in (0, 2, 4)] for c in codes])
        linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
        for vision in VISIONS:
            seen = lab(linear @ vision.T)
            apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
            assert apart[~np.eye(N_COLOURS, dtype=bool)].min() > 20


def test_what_users_write_stays_text(tmp_path):
    """Names of classes, policies and files may have any characters."""
    bad = '</script><img src=x onerror="alert(1)">'
    table = Table([bad, "n"], [[Cell(bad), Cell("1", 1.0)]], bad)
    path = tmp_path / "report.html"
    write_report(Report(bad, [bad], [], table, [("Command", bad)], [bad]), path)
    text = path.read_text(encoding="utf-8")
    assert "<img" not in text
    assert text.count("</script>") == 1
    assert "&lt;img" in text


@pytest.mark.parametrize("level", ["", "asked for"])
@pytest.mark.parametrize(
    "tried",
    [
        (8.027, 11.35, 13.5, 14.72, 15.37, 15.71, 15.88, 16.05, 32.11),
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        (0.0125, 0.013, 0.0151, 0.0172),
        (5,),
    ],
)
def test_labels_of_sizes_and_rates_stand_beside_each_other(tried, level):
    """Also on an axis that the name of a level has made shorter."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with Drawing() as drawing:
        axes = drawing.axes
        axes.plot(tried, [0.5] * len(tried))
        axes.annotate(level, (1.0, 0.5), xycoords=axes.get_yaxis_transform(), fontsize=10)
        size_axis(axes, tried)
        canvas = FigureCanvasAgg(axes.figure)
        canvas.draw()
        boxes = [label.get_window_extent(canvas.get_renderer()) for label in axes.get_xticklabels()]
    assert len(boxes) >= min(3, len(tried))
    edges = sorted((box.x0, box.x1) for box in boxes)
    assert all(left[1] < right[0] for left, right in itertools.pairwise(edges))
