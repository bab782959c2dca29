"""Traces: files merged by their timestamps, bad rows refused, the real Azure traces replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.workloads.locations import (
    AZURE_2023_FILES,
    DATA_VARIABLE,
    data_folders,
    find_azure_2023,
)
from llm_sched_env.workloads.traces import Trace, instance_from_trace, load_traces

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD_ROW = "2023-11-16 18:15:46.0000000,300,10"


def write(path: Path, *rows: str, header: str = HEADER, end: str = "\n") -> Path:
    path.write_text(end.join([header, *rows]) + end, encoding="utf-8", newline="")
    return path


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    chat = write(
        tmp_path / "Trace_chat.csv",
        "2023-11-16 23:59:59.7000000,100,10",
        "2023-11-17 00:00:00.0000001,200,20",
        "2023-11-17 00:00:01.7000000,300,30",
    )
    code = write(
        tmp_path / "Trace_code.csv",
        "2023-11-16 23:59:59.6999999,1000,1",
        "2023-11-17 00:00:01.7000000,2000,2",
    )
    return [chat, code]


def refused(*paths: Path) -> str:
    """The one line with which files are refused."""
    with pytest.raises(TraceError) as caught:
        load_traces(paths)
    message = str(caught.value)
    assert "\n" not in message
    assert "got" in message
    return message


def test_files_are_merged_in_order_of_time_and_ties_in_order_of_files(
    two_files: list[Path],
) -> None:
    trace = load_traces(two_files)
    assert len(trace) == 5
    assert trace.request_class.tolist() == [1, 0, 0, 0, 1]
    assert trace.prompt_tokens.tolist() == [1000, 100, 200, 300, 2000]
    assert trace.output_tokens.tolist() == [1, 10, 20, 30, 2]
    assert load_traces(two_files[::-1]).request_class.tolist() == [0, 1, 1, 0, 1]


def test_seconds_are_exact_to_the_seventh_digit(two_files: list[Path]) -> None:
    trace = load_traces(two_files)
    assert trace.arrival_time.tolist() == [0.0, 0.0000001, 0.3000002, 2.0000001, 2.0000001]
    assert trace.duration == 2.0000001


def test_rows_out_of_order_are_sorted(tmp_path: Path) -> None:
    path = write(tmp_path / "late.csv", "2023-11-16 18:15:48,2,2", GOOD_ROW)
    trace = load_traces([path])
    assert trace.arrival_time.tolist() == [0, 2]
    assert trace.prompt_tokens.tolist() == [300, 2]


def test_windows_line_ends_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "windows.csv", GOOD_ROW, "", GOOD_ROW, end="\r\n")
    assert len(load_traces([path])) == 2


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_code.csv"], ["conv", "code"]),
        (["monday_chat.csv", "tuesday_chat.csv"], ["monday_chat", "tuesday_chat"]),
        (["chat.csv", "code_.csv"], ["chat", "code_"]),
    ],
)
def test_classes_are_named_after_their_files(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    trace = load_traces([write(tmp_path / file, GOOD_ROW) for file in files])
    assert list(trace.class_names) == names


def test_speed_divides_the_times_and_nothing_else(two_files: list[Path]) -> None:
    trace = load_traces(two_files)
    fast = trace.at_speed(4)
    assert fast.arrival_time == pytest.approx(trace.arrival_time / 4, rel=1e-15)
    assert fast.duration == trace.duration / 4
    assert fast.class_names == trace.class_names
    for name in ("request_class", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(fast, name), getattr(trace, name))
    assert np.array_equal(trace.arrival_time, load_traces(two_files).arrival_time)


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf"), True, "2", None])
def test_a_speed_that_is_no_positive_number_is_rejected(two_files: list[Path], speed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^speed: got .*, expected a finite number > 0"):
        load_traces(two_files).at_speed(speed)


def test_the_instance_of_a_trace_has_its_means_and_rates_per_gpu(two_files: list[Path]) -> None:
    trace = load_traces(two_files)
    instance = instance_from_trace(trace, 5, [0.1, 0.2], presets.QWEN_8B_A100, presets.PAPER_PRICES)
    assert [c.name for c in instance.classes] == ["chat", "code"]
    assert instance.prompt_tokens.tolist() == [200, 1500]
    assert instance.output_tokens.tolist() == [20, 1.5]
    assert instance.arrival_rates == pytest.approx([3 / 10, 2 / 10], rel=1e-6)
    assert instance.patience_rates.tolist() == [0.1, 0.2]


def test_no_file_is_refused() -> None:
    assert "at least one" in refused()


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert str(tmp_path / "no.csv") in refused(tmp_path / "no.csv")
    assert str(tmp_path) in refused(tmp_path)


def test_a_file_given_twice_is_refused(two_files: list[Path]) -> None:
    assert "['Trace_chat', 'Trace_chat']" in refused(two_files[0], two_files[0])


def test_an_empty_file_and_one_with_only_a_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    assert "an empty file" in refused(tmp_path / "empty.csv")
    assert "no request after the header" in refused(write(tmp_path / "header.csv"))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "text in UTF-16, expected UTF-8" in refused(tmp_path / "binary.csv")
    (tmp_path / "binary.csv").write_bytes(b"\x93\x00\x01")
    assert "bytes that are no text" in refused(tmp_path / "binary.csv")


@pytest.mark.parametrize("header", [GOOD_ROW, "", "a,b,c"])
def test_another_header_is_refused(tmp_path: Path, header: str) -> None:
    message = refused(write(tmp_path / "other.csv", GOOD_ROW, header=header))
    assert f"got the header {header!r}" in message
    assert repr(HEADER) in message


@pytest.mark.parametrize(
    "row",
    [
        "2023-11-16 18:15:46",
        "2023-11-16 18:15:46,300",
        "2023-11-16 18:15:46,300,10,1",
        "2023-11-16 18:15:46,-1,10",
        "2023-11-16 18:15:46,300,-1",
        "2023-11-16 18:15:46,30.5,10",
        "2023-11-16 18:15:46,nan,10",
        "2023-11-16 18:15:46,,10",
        "2023-11-16 18:15:46,1" + "0" * 400 + ",10",
        "2023-13-16 18:15:46,300,10",
        "2023-11-16 25:15:46,300,10",
        "soon,300,10",
        "now,300,10",
        "NaT,300,10",
        ",300,10",
        "9999-11-16 18:15:46,300,10",
    ],
    ids=lambda row: row[:30],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, row: str) -> None:
    message = refused(write(tmp_path / "bad.csv", GOOD_ROW, "", row, GOOD_ROW))
    assert "bad.csv line 4: got " in message
    assert row[:60] in message


def test_requests_at_a_single_instant_have_no_rate(tmp_path: Path) -> None:
    trace = load_traces([write(tmp_path / "instant.csv", GOOD_ROW, GOOD_ROW)])
    assert trace.duration == 0
    with pytest.raises(TraceError, match="all at one instant"):
        instance_from_trace(trace, 1, 0.1, presets.QWEN_8B_A100, presets.PAPER_PRICES)
    with pytest.raises(TraceError, match="all at one instant"):
        presets.azure2023([tmp_path / "instant.csv"])


def test_named_data_comes_before_the_usual_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert find_azure_2023() == []
    for folder in ("data", "named"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / AZURE_2023_FILES[0])
    assert find_azure_2023() == []  # one of two files is none
    write(tmp_path / "data" / AZURE_2023_FILES[1])
    assert find_azure_2023() == [Path("data") / name for name in AZURE_2023_FILES]
    write(tmp_path / "named" / AZURE_2023_FILES[1])
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "named"))
    assert find_azure_2023() == [tmp_path / "named" / name for name in AZURE_2023_FILES]


@pytest.fixture(scope="module")
def azure_files() -> list[Path]:
    paths = find_azure_2023()
    if not paths:
        folders = ", ".join(map(str, data_folders()))
        pytest.skip(f"{' and '.join(AZURE_2023_FILES)} are in none of {folders}")
    return paths


@pytest.fixture(scope="module")
def azure_trace(azure_files: list[Path]) -> Trace:
    return load_traces(azure_files)


def test_the_azure_traces_hold_what_their_authors_report(azure_trace: Trace) -> None:
    assert azure_trace.class_names == ("conv", "code")
    assert np.bincount(azure_trace.request_class).tolist() == [19_366, 8_819]
    assert (np.diff(azure_trace.arrival_time) >= 0).all()
    assert azure_trace.arrival_time[0] == 0
    # 18:15:46.6805900 to 19:14:19.9280160
    assert azure_trace.duration == pytest.approx(3513.247426, abs=1e-9)
    means = [
        [tokens[azure_trace.request_class == i].mean() for i in range(2)]
        for tokens in (azure_trace.prompt_tokens, azure_trace.output_tokens)
    ]
    assert means[0] == pytest.approx([1155, 2048], abs=0.5)
    assert means[1] == pytest.approx([211, 28], abs=0.5)


@pytest.mark.parametrize("load", [None, 0.5])
def test_the_azure_instance_has_the_proportions_and_the_stated_load(
    azure_files: list[Path], load: float | None
) -> None:
    stated = {} if load is None else {"arrival_rate": load}
    instance = presets.azure2023(azure_files, **stated)
    assert instance.name == "azure2023"
    assert instance.arrival_rates.sum() == pytest.approx(load or presets.TRACE_ARRIVAL_RATE)
    conversation, code = instance.arrival_rates
    assert conversation / code == pytest.approx(19_366 / 8_819)
    assert instance.prompt_tokens == pytest.approx([1154.70, 2047.85], abs=0.005)
    assert lse.plan(instance).value > 0


def test_a_replay_of_the_azure_traces_accounts_for_every_request(azure_files: list[Path]) -> None:
    result = lse.evaluate("token-bucket", trace=azure_files, n_gpus=2, replications=1)
    requests = result.requests
    assert requests["initial"] == 0
    assert requests["arrived"] == 28_185
    assert requests["completed"] > 0
    assert requests["abandoned"] > 0
    assert requests["arrived"] == (
        requests["completed"] + requests["abandoned"] + requests["inside"]
    )
    assert [c.arrived for c in result.classes] == [19_366, 8_819]
    assert 0 < result.score.mean < 1
