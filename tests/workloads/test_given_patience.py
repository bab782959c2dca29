"""Traces that give each request's patience: read, kept through operations, and replayed."""

from __future__ import annotations

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state import layout
from llm_sched_env.workloads.trace import merged
from llm_sched_env.workloads.traces import given_patience_rates

HEADER = "arrival_seconds,class,prompt_tokens,output_tokens"
ROWS = ["0,a,100,5,9,s1,1 2", "1,b,200,6,0.5,s2,3", "2.5,a,300,7,4,s1,"]


def saved(path, header=f"{HEADER},patience_seconds,session,hash_ids", rows=ROWS):
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_patience_is_read(tmp_path):
    trace = lse.load_traces(saved(tmp_path / "t.csv"))
    np.testing.assert_array_equal(trace.patience_seconds, [9.0, 0.5, 4.0])
    assert trace.sources[0].not_read == ()


def test_without_the_column_there_is_none(tmp_path):
    rows = [",".join(row.split(",")[:4]) for row in ROWS]
    trace = lse.load_traces(saved(tmp_path / "t.csv", HEADER, rows))
    assert trace.patience_seconds is None
    assert len(trace.stream.patience_seconds) == 0


def test_it_goes_along_with_its_requests_and_is_saved(tmp_path):
    trace = lse.load_traces(saved(tmp_path / "t.csv"))
    again = tmp_path / "again.csv"
    trace.save(again)
    assert again.read_text().splitlines()[0] == f"{HEADER},patience_seconds,session,hash_ids"
    for kept in (lse.load_traces(again), trace.at_speed(2.0)):
        np.testing.assert_array_equal(kept.patience_seconds, trace.patience_seconds)
    np.testing.assert_array_equal(trace.window(0.5).patience_seconds, [0.5, 4.0])
    both = merged([trace, trace.window(1.0)])
    np.testing.assert_array_equal(both.patience_seconds, [9.0, 0.5, 0.5, 4.0, 4.0])


def test_files_with_and_without_are_not_mixed(tmp_path):
    rows = [",".join(row.split(",")[:4]) for row in ROWS]
    paths = [saved(tmp_path / "t.csv"), saved(tmp_path / "u.csv", HEADER, rows)]
    with pytest.raises(TraceError, match="1 of 2 files give patience_seconds"):
        lse.load_traces(paths)


@pytest.mark.parametrize("value", ["-1", "nan", "soon", ""])
def test_a_bad_value_names_its_line(tmp_path, value):
    path = saved(tmp_path / "t.csv", rows=[ROWS[0], f"1,b,200,6,{value},s2,3"])
    with pytest.raises(TraceError, match=r"line 3: .*patience_seconds"):
        lse.load_traces(path)


def test_other_columns_are_still_refused(tmp_path):
    path = saved(tmp_path / "t.csv", f"{HEADER},colour", ["0,a,100,5,red"])
    with pytest.raises(TraceError, match="none but patience_seconds, session, hash_ids"):
        lse.load_traces(path)


def left_at(patience, rate: float) -> np.ndarray:
    """Times at which requests abandon a GPU that the first of them keeps busy."""
    instance = lse.presets.base()
    classes = tuple(
        lse.RequestClass(c.name, c.prompt_tokens, c.output_tokens, c.arrival_rate, rate)
        for c in instance.classes
    )
    instance = lse.Instance("one", classes, instance.hardware, instance.prices)
    stream = layout.RequestStream(
        np.array([0.0, 1.0, 2.0, 3.0]),
        np.zeros(4, np.int32),
        np.array([1e6, 10.0, 10.0, 10.0]),
        np.full(4, 10.0),
        patience,
    )
    rule = DispatchRule(gate="fcfs", router="coupled", pools="dynamic")
    controls = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    simulation = Simulation(
        instance, rule, controls, 1, np.random.SeedSequence(3), stream=stream, log_events=64
    )
    simulation.run(50.0)
    events = simulation.events()
    return events["time"][events["kind"] == layout.LEAVE_PREFILL]


def test_requests_leave_when_their_patience_is_over():
    np.testing.assert_array_equal(left_at(np.array([9.0, 7.0, 0.0, 2.5]), 0.1), [2.0, 5.5, 8.0])
    # Given patience is taken also where the class never leaves.
    np.testing.assert_array_equal(left_at(np.array([9.0, 7.0, 60.0, 2.5]), 0.0), [5.5, 8.0])


def test_without_patience_it_is_drawn_as_before():
    drawn = left_at(np.empty(0), 0.1)
    assert len(drawn) > 0
    np.testing.assert_array_equal(drawn, left_at(layout.RequestStream._field_defaults[
        "patience_seconds"], 0.1))  # fmt: skip


@pytest.mark.parametrize("patience", [np.ones(3), np.array([1.0, -1.0, 1.0, 1.0])])
def test_a_stream_with_bad_patience_is_refused(patience):
    with pytest.raises(ConfigurationError, match="stream patience_seconds"):
        left_at(patience, 0.1)


def test_rates_follow_from_what_is_given():
    given = np.array([2.0, 4.0, 1e9, 1e9])
    trace = lse.Trace(
        ("some", "patient"),
        np.arange(4.0),
        np.array([0, 0, 0, 1]),
        np.ones(4),
        np.ones(4),
        patience_seconds=given,
    )
    # Two of the first class would leave within 10 s, after 2, 4 and (not yet) 10 s.
    assert given_patience_rates(trace, 10.0) == [pytest.approx(2 / 16), 0.0]
    plain = lse.Trace(("a",), np.zeros(1), np.zeros(1, int), np.ones(1), np.ones(1))
    assert given_patience_rates(plain, 10.0) is None


def test_a_replay_plans_with_the_rates_and_abandons_by_the_rows():
    arrivals = np.linspace(0.0, 30.0, 400)
    trace = lse.Trace(
        ("only",),
        arrivals,
        np.zeros(400, int),
        np.full(400, 500.0),
        np.full(400, 100.0),
        patience_seconds=np.full(400, 2.0),
    )
    found = lse.evaluate("fcfs-immediate", trace=trace, n_gpus=1, replications=1)
    assert found.requests["abandoned"] > 100
    assert found.ttft.p99 < 3.0
