"""What can be done with a trace: windows, rates, zero-token rows, classes, replays, commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, LLMSchedError, TraceError
from llm_sched_env.workloads.trace import Trace, ZeroRows
from llm_sched_env.workloads.traces import load_traces, merged, reading_notes, summarize

BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "5,ChatGPT,100,10,110,API log",
    "6,GPT-4,200,0,200,API log",
    "8.5,ChatGPT,0,0,0,Conversation log",
    "7,GPT-4,300,30,330,Conversation log",
    "15,ChatGPT,400,40,440,API log",
)


@pytest.fixture
def burst(tmp_path: Path) -> Path:
    path = tmp_path / "burst.csv"
    path.write_text("\n".join(BURST) + "\n")
    return path


def of_base(n: int = 400, seed: int = 0) -> Trace:
    """A stream of the base instance, its classes in the other order."""
    rng = np.random.default_rng(seed)
    names = [c.name for c in lse.presets.base().classes][::-1]
    lengths = rng.exponential(500, (2, n))
    return Trace(names, rng.exponential(0.2, n).cumsum(), rng.integers(0, 2, n), *lengths)


def test_a_window_starts_at_its_start(burst: Path) -> None:
    trace = load_traces(burst, window=(1, 10))
    assert trace.arrival_time.tolist() == [0, 1, 2.5]
    assert trace.prompt_tokens.tolist() == [200, 300, 0]
    assert load_traces(burst, window=(1, np.inf)).arrival_time.tolist() == [0, 1, 2.5, 9]
    assert load_traces(burst, window=(0.5, 1.5)).arrival_time.tolist() == [0.5]


@pytest.mark.parametrize("window", [(-1, 2), (4, 3), (3, 3), (np.nan, 1), (0, np.nan), (11, 12)])
def test_a_window_without_requests_is_refused(burst: Path, window: tuple[float, float]) -> None:
    with pytest.raises(ConfigurationError, match=r"^window: got .*, expected "):
        load_traces(burst, window=window)


def test_a_rate_is_the_mean_of_what_is_replayed(burst: Path) -> None:
    trace = load_traces(burst)
    assert trace.rate == 0.5
    assert trace.at_rate(5).arrival_time.tolist() == (trace.arrival_time / 10).tolist()
    assert load_traces(burst, rate=7, window=(1, 10), zero_rows="keep").rate == pytest.approx(7)
    with pytest.raises(ConfigurationError, match=r"^rate: got 0, expected"):
        trace.at_rate(0)
    instant = Trace(("a",), np.zeros(2), np.zeros(2), np.ones(2), np.ones(2))
    with pytest.raises(TraceError, match="all at one instant"):
        instant.at_rate(1)


def test_zero_token_rows_are_counted_and_kept_or_dropped(burst: Path) -> None:
    kept = load_traces(burst, classes_by="Model")
    assert kept.zero_rows() == {"ChatGPT": ZeroRows(1, 1, 1), "GPT-4": ZeroRows(0, 1, 1)}
    dropped = load_traces(burst, classes_by="Model", zero_rows="drop")
    assert dropped.prompt_tokens.tolist() == [100, 300, 400]
    assert dropped.dropped == kept.zero_rows()
    assert dropped.arrival_time.tolist() == [0, 2, 10]
    for trace, count in ((kept, 0), (dropped, 1)):
        note, understood, order = reading_notes(trace)
        assert understood == f"trace {burst}: BurstGPT, seconds; not read: Total tokens, Log Type"
        assert f"ChatGPT 1 (1 prompt, 1 output; {count} dropped)" in note
        assert "1 rows stood out of order" in order
    only_zero = dataclasses.replace(kept, output_tokens=np.zeros(5))
    with pytest.raises(TraceError, match="all have a zero token count"):
        only_zero.without_zero_rows()


def test_zero_token_rows_are_replayed(burst: Path) -> None:
    result = lse.evaluate("token-bucket", trace=load_traces(burst), n_gpus=2, replications=1)
    assert result.requests["arrived"] == 5
    drained = lse.evaluate("token-bucket", trace=burst, n_gpus=2, replications=1, horizon=500)
    assert drained.requests["completed"] + drained.requests["abandoned"] == 5


def test_merged_traces_join_classes_by_name(burst: Path) -> None:
    one = load_traces(burst, classes_by="Model", zero_rows="drop")
    both = merged([one, one])
    assert both.class_names == one.class_names
    assert both.prompt_tokens.tolist() == [100, 100, 300, 300, 400, 400]
    assert both.dropped["ChatGPT"] == ZeroRows(2, 2, 2)
    assert len(both.sources) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arrival_time": [2.0, 1.0]}, "go back"),
        ({"arrival_time": [0.0, np.nan]}, "go back"),
        ({"arrival_time": [-1.0, 1.0]}, "go back"),
        ({"arrival_time": [1.0]}, "different lengths"),
        ({"request_class": [0, 1]}, "got the classes 0 to 1, expected 0 to 0"),
        ({"prompt_tokens": [1.0, -1.0]}, "token counts"),
        ({"output_tokens": [1.0, np.inf]}, "token counts"),
        ({"class_names": ("a", "a")}, "each name once"),
        ({"class_names": (" a",)}, "printable text"),
        ({"class_names": ("a\nb",)}, "printable text"),
    ],
)
def test_arrays_that_are_no_stream_are_refused(change: dict[str, Any], message: str) -> None:
    good = {"class_names": ("a",), "arrival_time": [0, 1], "request_class": [0, 0]}
    good |= {"prompt_tokens": [1, 2], "output_tokens": [3, 4]}
    assert Trace(**good).prompt_tokens.dtype == np.float64
    with pytest.raises(TraceError, match=message):
        Trace(**{**good, **change})
    nothing = {name: [] for name in good if name != "class_names"}
    with pytest.raises(TraceError, match="no request"):
        Trace(("a",), **nothing)


def test_a_saved_trace_replays_to_the_same_result(tmp_path: Path) -> None:
    trace = of_base()
    trace.save(tmp_path / "run.csv.gz")
    loaded = load_traces(tmp_path / "run.csv.gz")
    options = {"instance": "base", "n_gpus": 5, "match_trace": False, "replications": 2}
    first, again = (
        lse.evaluate("token-bucket", trace=t, **options).to_dict() for t in (trace, loaded)
    )
    for volatile in ("wall_seconds", "events_per_second"):
        first.pop(volatile), again.pop(volatile)
    assert first == again
    assert first["instance"] == "base"
    assert first["bound"] == lse.plan("base").value
    counts = np.bincount(trace.request_class).tolist()[::-1]
    assert [c["arrived"] for c in first["classes"]] == [2 * n for n in counts]


def test_a_kept_instance_must_be_named_and_have_the_classes(burst: Path) -> None:
    for instance, trace, message in (
        ("base", burst, r"got the classes \['burst'\], expected decode-heavy, prefill-heavy"),
        (None, burst, r"^instance: got None"),
        ("azure2023", burst, r"^instance: got 'azure2023'"),
        ("base", None, r"^`match_trace=False` needs a trace"),
    ):
        with pytest.raises(LLMSchedError, match=message):
            lse.evaluate("token-bucket", instance, trace=trace, match_trace=False)


def test_patience_is_given_by_name_where_names_agree() -> None:
    plain = lse.presets.base().to_dict()
    for k, c in enumerate(plain["classes"]):
        c["patience_rate"] = [0.0, 0.5][k]
    result = lse.evaluate("token-bucket", plain, 1, trace=of_base(), replications=1)
    by_name = {c.name: c.abandoned_prefill for c in result.classes}
    assert by_name["decode-heavy"] == 0
    assert by_name["prefill-heavy"] > 0


def test_the_summary_is_plain_data(burst: Path) -> None:
    data = json.loads(json.dumps(summarize(load_traces(burst)).to_dict(), allow_nan=False))
    source: dict[str, Any] = {"path": str(burst), "format": "BurstGPT", "time_unit": "seconds"}
    source["not_read"] = ["Model", "Total tokens", "Log Type"]
    assert data["files"] == [{**source, "rows": 5, "out_of_order": 1}]
    assert (data["requests"], data["duration"], data["rate"]) == (5, 10, 0.5)
    (only,) = data["classes"]
    assert only["prompt_tokens"]["mean"] == 200
    assert only["output_tokens"] == {"mean": 16, "p50": 10, "p90": 36, "p99": 39.6, "maximum": 40}
    assert only["zero_rows"] == {"prompt": 1, "output": 2, "either": 2}
    gaps = np.diff([0, 1, 2, 3.5, 10])
    assert only["gap_cv"] == pytest.approx(gaps.std() / gaps.mean())
    rng = np.random.default_rng(1)
    poisson = Trace(("a",), rng.exponential(1, 20_000).cumsum(), *np.zeros((3, 20_000)))
    assert summarize(poisson).classes[0].gap_cv == pytest.approx(1, abs=0.03)


def test_a_class_without_requests_has_no_instance(burst: Path) -> None:
    trace = load_traces(burst, classes_by="Model", window=(9, 11))
    assert summarize(trace).classes[1].prompt_tokens is None
    with pytest.raises(TraceError, match="got no request of the class 'GPT-4'"):
        lse.evaluate("token-bucket", trace=trace)


def test_trace_command_inspects_and_converts(run: Any, burst: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "out.csv.gz"
    code, out, err = run("trace", str(burst), "--classes-by", "Model", "--save", str(out_file))
    assert code == 0
    assert "5 rows, BurstGPT, seconds" in " ".join(out.split())
    assert "GPT-4" in out
    assert "zero-token rows: ChatGPT 1" in err
    code, out, _ = run("trace", str(out_file), "--json", "--zero-rows", "drop", "--rate", "4")
    data = json.loads(out)
    assert data["files"][0]["format"] == "llm-sched-env"
    assert data["files"][0]["time_unit"] == "seconds"
    assert data["rate"] == pytest.approx(4)
    assert [c["dropped"] for c in data["classes"]] == [1, 1]


def test_replay_and_evaluate_share_the_options(run: Any, burst: Path) -> None:
    shared = ["--window", "0,10", "--zero-rows", "drop", "--rate", "2", "--time-unit", "ms"]
    shared += ["--classes-by", "Log Type", "--gpus", "1", "--json"]
    code, out, err = run("replay", str(burst), *shared)
    assert code == 0
    assert "ms" not in json.loads(out)
    assert [c["name"] for c in json.loads(out)["classes"]] == ["API log", "Conversation log"]
    assert "zero-token rows: API log 1" in err
    again = run("evaluate", "--policy", "token-bucket", "--trace", str(burst), *shared)
    assert json.loads(again[1])["requests"]["arrived"] == 4 * json.loads(out)["requests"]["arrived"]


def test_time_units_by_file_on_the_command_line(run: Any, tmp_path: Path) -> None:
    paths = []
    for name, last in (("one", 2), ("two", 3000)):
        lines = [
            json.dumps({"timestamp": t, "input_length": 9, "output_length": 5}) for t in (0, last)
        ]
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text("\n".join(lines) + "\n")
    code, out, err = run("trace", *paths, "--json", "--time-unit", "one.jsonl=s,two.jsonl=ms")
    assert code == 0
    assert json.loads(out)["duration"] == 3
    assert f"trace {paths[1]}: JSON lines, milliseconds\n" in err
    for option, message in (
        ([], "give --time-unit s or ms"),
        (["--time-unit", "one.jsonl=s"], "two.jsonl: the unit of 'timestamp' is unclear"),
        (["--time-unit", "one.jsonl=s,one.jsonl=ms"], "one FILE=UNIT per file"),
        (["--time-unit", "s,two.jsonl=ms"], "one FILE=UNIT per file"),
        (["--time-unit", "s,ms"], "expected s or ms or us or ns"),
        (["--time-unit", "one.jsonl=h"], "expected s or ms or us or ns"),
        (["--time-unit", "six.jsonl=s"], "the path or name of one of the files"),
    ):
        code, out, err = run("trace", *paths, *option)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_replay_keeps_the_instance(run: Any, tmp_path: Path) -> None:
    of_base().save(tmp_path / "run.csv")
    arguments = ["replay", str(tmp_path / "run.csv"), "--keep-instance", "--json"]
    code, out, _ = run(*arguments, "--instance", "base")
    assert code == 0
    assert json.loads(out)["instance"] == "base"
    code, _, err = run(*arguments)
    assert code == 2
    assert "an instance to plan for" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "1"], "--window: got '1', expected A,B"),
        (["--window", "5,2"], "--window"),
        (["--window", "a,b"], "--window"),
        (["--rate", "2", "--speed", "2"], "both scale time"),
        (["--rate", "nan"], "rate: got nan"),
        (["--classes-by", "Nobody"], "classes_by"),
        (["--time-unit", "h"], "time_unit"),
    ],
)
def test_bad_options_are_one_line(run: Any, burst: Path, options: list[str], message: str) -> None:
    for command in (["trace", str(burst)], ["replay", str(burst)]):
        code, out, err = run(*command, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_trace_options_need_a_trace(run: Any) -> None:
    for option, value in (("--window", "0,1"), ("--rate", "2"), ("--speed", "2")):
        code, _, err = run("evaluate", "--policy", "token-bucket", option, value)
        assert code == 2
        assert f"`{option}` needs a trace" in err
        assert "give `--trace`" in err


def test_a_trace_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be written"):
        of_base().save(tmp_path / "nowhere" / "run.csv")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TraceError, match="cannot be written"):
        of_base().save(tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
