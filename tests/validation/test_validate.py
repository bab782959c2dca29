"""A tiny run by hand: its figures, the simulated ones, and files that are no measured run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.validation.figures_of_run import RunFigures, relative_errors
from llm_sched_env.validation.report import present
from llm_sched_env.validation.served_files import SERVED_HEADER, read_served_run
from llm_sched_env.validation.validate import validate

# One GPU of two slots, chunks of 4: mixed iterations take 2 s, others 1 s.
HARDWARE = Hardware.kv_aware(
    SoloIteration(1.0), MixedIteration(2.0), 4, 2, starts="boundary", padded_chunks=True
)
# By hand: 0 and 1 are served, 2 leaves at 3.5, 3 is still being prefilled at the end, 8.0.
ROWS = [
    (0, 0.0, "b", 8, 2, 90.0, "completed", 0.0, 4.0, 7.0),
    (1, 3.0, "a", 3, 1, 90.0, "completed", 4.0, 6.0, 7.5),
    (2, 3.2, "a", 4, 1, 0.3, "abandoned", "", "", 3.5),
    (3, 4.5, "a", 9, 1, 90.0, "inside", 7.0, "", ""),
    (4, 8.0, "b", 4, 1, 90.0, "inside", "", "", ""),
]


def write(path: Path, rows=ROWS, header=SERVED_HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def served(tmp_path) -> Path:
    return write(tmp_path / "serve.csv")


def test_a_file_is_read_as_it_is(served):
    run = read_served_run(served)
    assert run.class_names == ("a", "b")
    np.testing.assert_array_equal(run.request_class, [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(run.outcome, [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(run.first_token, [4.0, 6.0, np.nan, np.nan, np.nan])
    assert run.last_event == 8.0
    np.testing.assert_array_equal(run.trace.stream.patience_seconds, [90, 90, 0.3, 90, 90])


def test_figures_by_hand(served):
    figures = RunFigures.of(read_served_run(served), 8.0, 2, lse.Prices(0.1, 0.2))
    assert (figures.completed, figures.abandoned) == (2, 1)
    assert figures.revenue_rate == pytest.approx((0.1 * 11 + 0.2 * 3) / 8.0 / 2)
    assert figures.ttft.mean == pytest.approx((4.0 + 3.0) / 2)
    assert figures.tpot.mean == pytest.approx((3.0 / 2 + 1.5 / 1) / 2)
    assert figures.e2e.mean == pytest.approx((7.0 + 4.5) / 2)
    assert figures.ttft.p50 == pytest.approx(3.5)
    assert figures.ttft.p99 == pytest.approx(3.99)


def test_what_comes_after_the_horizon_has_not_happened(served):
    figures = RunFigures.of(read_served_run(served), 7.2, 1, lse.Prices(0.1, 0.2))
    assert figures.completed == 1
    assert figures.revenue_rate == pytest.approx((0.1 * 8 + 0.2 * 2) / 7.2)
    nothing = RunFigures.of(read_served_run(served), 3.0, 1, lse.Prices(0.1, 0.2))
    assert (nothing.completed, nothing.abandoned, nothing.tpot.mean) == (0, 0, None)


def test_relative_errors():
    assert relative_errors({"a": {"b": 2.0}, "c": 0, "d": 0, "e": None}, {
        "a": {"b": 3.0}, "c": 0, "d": 1, "e": 1.0,
    }) == {"a": {"b": 0.5}, "c": 0.0, "d": None, "e": None}  # fmt: skip


def test_the_simulated_run_by_hand(served):
    """Request 0 makes a token beside the prefill of request 1, then each of them makes its last.

    So request 1 ends at 7 and not at 7.5: no iteration of the hardware ends then.
    """
    found = validate(served, HARDWARE)
    run = found.simulated_run
    np.testing.assert_array_equal(run.outcome, [0, 0, 1, 2, 2])
    np.testing.assert_allclose(run.prefill_start, [0.0, 4.0, np.nan, 7.0, np.nan])
    np.testing.assert_allclose(run.first_token, [4.0, 6.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(run.end, [7.0, 7.0, 3.5, np.nan, np.nan])
    assert found.horizon == 8.0
    errors = found.to_dict()["relative_error"]
    assert errors["ttft"]["mean"] == pytest.approx(0.0)
    assert errors["e2e"]["mean"] == pytest.approx(5.5 / 5.75 - 1)


def test_queue_and_service_over_time(served):
    times, waiting, serving = present(read_served_run(served))
    at = {time: pair for time, *pair in zip(times, waiting, serving, strict=True)}
    assert at[0.0] == [0, 1]
    assert at[3.2] == [2, 1]
    assert at[3.5] == [1, 1]
    assert at[4.0] == [0, 2]
    assert at[7.5] == [0, 1]
    assert at[8.0] == [1, 1]


def changed(row: int, **values: object) -> list[list[object]]:
    rows = [list(r) for r in ROWS]
    for name, value in values.items():
        rows[row][SERVED_HEADER.index(name)] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "line", "message"),
    [
        (changed(0, outcome="done"), 2, "outcome is 'done', expected completed or abandoned"),
        (changed(0, end=3.9), 2, "end is before"),
        (changed(0, first_token=""), 2, "prefill_start and first_token"),
        (changed(0, prefill_start=5.0), 2, "first_token is before"),
        (changed(1, prefill_start=2.9), 3, "prefill_start is before"),
        (changed(2, end=""), 4, "end is empty"),
        (changed(2, end=3.1), 4, "end is before"),
        (changed(3, end=8.0), 5, "end is given"),
        (changed(3, prefill_start="", first_token=7.0), 5, "without prefill_start"),
        (changed(0, patience_seconds=-1), 2, "patience_seconds is '-1'"),
        (changed(0, prompt_tokens=0), 2, "prompt_tokens is '0'"),
        (changed(0, arrival_seconds="nan"), 2, "arrival_seconds is 'nan'"),
        (changed(4, id=0), 6, "the id '0' stands above"),
        ([], 0, "no rows"),
    ],
)
def test_a_bad_file_is_one_line(rows, line, message, tmp_path):
    path = write(tmp_path / "serve.csv", rows)
    with pytest.raises(TraceError) as failure:
        read_served_run(path)
    told = str(failure.value)
    assert "\n" not in told
    assert str(path) in told
    assert message in told
    if line:
        assert f"line {line}:" in told


def test_a_missing_column_is_named(tmp_path):
    path = write(tmp_path / "serve.csv", [row[:-1] for row in ROWS], SERVED_HEADER[:-1])
    with pytest.raises(TraceError, match="'end' is missing"):
        read_served_run(path)


@pytest.mark.parametrize("horizon", [0.0, -1.0, 9.0, float("nan")])
def test_a_horizon_beyond_the_file_is_refused(served, horizon):
    with pytest.raises(ConfigurationError, match="horizon"):
        validate(served, HARDWARE, horizon=horizon)


def test_the_command(run, served, tmp_path):
    hardware, out = tmp_path / "gpu.toml", tmp_path / "out"
    HardwareFile(HARDWARE).save(hardware)
    arguments = ["validate", served, "--hardware", hardware, "--gpus", 1, "--policy"]
    code, text, told = run(*arguments, "fcfs-immediate", "--out", out, "--json")
    assert code == 0, told
    found = json.loads(text)
    assert set(found) >= {"measured", "simulated", "relative_error"}
    assert set(found["measured"]) == {
        "completed", "abandoned", "revenue_rate", "ttft", "tpot", "e2e",
    }  # fmt: skip
    assert set(found["measured"]["tpot"]) == {"mean", "p50", "p99"}
    assert json.loads((out / "validation.json").read_text()) == found
    rows = list(csv.DictReader((out / "requests.csv").open()))
    assert [row["measured_outcome"] for row in rows] == [row[6] for row in ROWS]
    assert rows[2]["simulated_first_token"] == ""
    assert (out / "figure.png").stat().st_size > 0
    assert "TTFT mean, ms" in (out / "table.md").read_text()
    code, text, _ = run(*arguments, "fcfs-immediate", "--prices", "1,0")
    assert code == 0
    assert "revenue rate" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prices", "1"], "--prices"),
        (["--gpus", "0"], "n_gpus"),
        (["--policy", "nobody"], "policy"),
        (["--policy", "fluid-mpc"], "compiled rule"),
        (["--reserve", "a"], "--reserve"),
    ],
)
def test_bad_options_of_the_command_are_one_line(run, served, tmp_path, options, message):
    hardware = tmp_path / "gpu.toml"
    HardwareFile(HARDWARE).save(hardware)
    code, _, told = run("validate", served, "--hardware", hardware, *options)
    assert code == 2
    assert message in told
    assert len(told.strip().splitlines()) == 1


def test_another_scheduler(served):
    """A class that must leave more slots free than there are is never served."""
    rule = DispatchRule(
        gate="static-priority",
        router="coupled",
        pools="dynamic",
        priority=("b", "a"),
        reserves={"a": 9},
    )
    run = validate(served, HARDWARE, policy=rule).simulated_run
    np.testing.assert_array_equal(run.outcome, [0, 2, 1, 2, 2])
    assert np.isnan(run.prefill_start[[1, 3]]).all()
