"""Trace formats: written here, read by their header, the same arrays; bad files one clear line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.workloads.trace import Trace
from llm_sched_env.workloads.traces import load_traces

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
BURSTGPT_2 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
)
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens"
CANONICAL = "arrival_seconds,class,prompt_tokens,output_tokens"
DAY = np.datetime64("2024-05-10T00:00:00", "us")

# Each example writes a file: how long that takes is the disk's affair.
FILES = settings(deadline=None)

# Microseconds since the first arrival, prompt and output tokens, two labels.
Row = tuple[int, int, int, int, int]
counts = st.integers(0, 10**9 - 1)
row = st.tuples(
    st.integers(0, 7 * 86_400 * 10**6), counts, counts, st.integers(0, 1), st.integers(0, 1)
)
rows = st.lists(row, min_size=1, max_size=40)


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return path


def arrays(trace: Trace) -> list[list[float]]:
    return [
        a.tolist()
        for a in (trace.arrival_time, trace.request_class, trace.prompt_tokens, trace.output_tokens)
    ]


def refused(*paths: Path, **options: object) -> str:
    with pytest.raises((TraceError, ConfigurationError)) as caught:
        load_traces(paths, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "got" in message
    assert "allowed is" in message
    return message


def azure_2023(table: list[Row]) -> list[str]:
    stamps = np.datetime_as_string(DAY + np.array([r[0] for r in table], "timedelta64[us]"))
    lines = [f"{s.replace('T', ' ')}0,{r[1]},{r[2]}" for s, r in zip(stamps, table, strict=True)]
    return [AZURE, *lines]


def azure_2024(table: list[Row]) -> list[str]:
    """Whole seconds come without a fraction; all times name their zone, here not always UTC."""
    zones = (("+00:00", 0), ("-07:30", -7.5))
    lines = []
    for us, prompt, output, _, zone in table:
        name, hours = zones[zone]
        local = str(DAY + np.timedelta64(us + int(hours * 3600e6), "us")).replace("T", " ")
        lines.append(f"{local.removesuffix('.000000')}{name},{prompt},{output}")
    return [AZURE, *lines]


def burstgpt(table: list[Row]) -> list[str]:
    lines = [
        f"{us / 1e6!r},{('ChatGPT', 'GPT-4')[m]},{p},{o},{p + o},{('API', 'Chat')[kind]} log"
        for us, p, o, m, kind in table
    ]
    return [BURSTGPT, *lines]


def burstgpt_2(table: list[Row]) -> list[str]:
    lines = [
        f'{us / 1e6!r},,4,"{("ChatGPT", "GPT-4")[m]}",{p},{o},{p + o},API log'
        for us, p, o, m, _ in table
    ]
    return [BURSTGPT_2, *lines]


def mooncake(table: list[Row]) -> list[str]:
    return [
        json.dumps({"timestamp": us, "input_length": p, "output_length": o, "hash_ids": [0, us]})
        for us, p, o, _, _ in table
    ]


def vidur(table: list[Row]) -> list[str]:
    return [f"{VIDUR},pd_ratio", *(f"{us / 1e6!r},{p},{o},1.5" for us, p, o, _, _ in table)]


def in_order(table: list[Row]) -> list[Row]:
    return sorted(table, key=lambda r: r[0])  # stable, as the reader


@pytest.mark.parametrize(
    ("writer", "name", "options"),
    [
        (azure_2023, "Azure", {}),
        (azure_2024, "Azure", {}),
        (burstgpt, "BurstGPT", {}),
        (burstgpt_2, "BurstGPT", {}),
        (mooncake, "Mooncake", {"time_unit": "us"}),
        (vidur, "Vidur", {}),
    ],
)
@FILES
@given(table=rows, crlf=st.booleans(), bom=st.booleans(), zipped=st.booleans())
def test_every_format_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    writer: Callable[[list[Row]], list[str]],
    name: str,
    options: dict[str, str],
    table: list[Row],
    crlf: bool,
    bom: bool,
    zipped: bool,
) -> None:
    content = ("\r\n" if crlf else "\n").join(writer(table)).encode()
    content = (b"\xef\xbb\xbf" if bom else b"") + content
    path = tmp_path_factory.getbasetemp() / "any_trace.dat"  # the name says nothing
    path.write_bytes(gzip.compress(content) if zipped else content)
    trace = load_traces(path, **options)
    expected = in_order(table)
    start = expected[0][0]
    assert trace.arrival_time == pytest.approx([(r[0] - start) / 1e6 for r in expected], abs=1e-9)
    assert trace.prompt_tokens.tolist() == [r[1] for r in expected]
    assert trace.output_tokens.tolist() == [r[2] for r in expected]
    assert trace.class_names == ("trace",)
    late = sum(r[0] < max(q[0] for q in table[: k + 1]) for k, r in enumerate(table))
    assert trace.sources == ((str(path), name, len(table), late),)


names = st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable() and s == s.strip())
exact = st.floats(0, 1e9, exclude_max=True)


@FILES
@given(
    names=st.lists(names, min_size=1, max_size=4, unique=True),
    requests=st.lists(st.tuples(exact, st.integers(0, 3), exact, exact), min_size=1, max_size=40),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_the_canonical_schema_is_bit_exact(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    requests: list[tuple[float, int, float, float]],
    suffix: str,
) -> None:
    arrivals, classes, prompts, outputs = zip(*sorted(requests), strict=True)
    trace = Trace(names, arrivals, np.array(classes) % len(names), prompts, outputs)
    path = tmp_path_factory.getbasetemp() / f"saved{suffix}"
    trace.save(path)
    again = load_traces(path).with_classes(names)
    assert arrays(again) == arrays(trace)
    assert again.class_names == trace.class_names
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first
    assert (first[:2] == b"\x1f\x8b") == (suffix == ".csv.gz")


def test_the_published_formats_as_they_look(tmp_path: Path) -> None:
    azure = write(
        tmp_path / "AzureLLMInferenceTrace_conv_1week.csv",
        AZURE,
        "2024-05-10 00:00:00.009930+00:00,2162,5",
        "2024-05-10 00:00:01+00:00,2399,6",
        "2024-05-10T02:00:02+02:00,76,15",
        "2024-05-10 00:00:03Z,1,1",
    )
    trace = load_traces(azure)
    assert trace.arrival_time.tolist() == [0, 0.99007, 1.99007, 2.99007]
    assert trace.class_names == ("AzureLLMInferenceTrace_conv_1week",)
    later = write(
        tmp_path / "conversation_trace.jsonl",
        '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}',
        "",
        '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": []}',
    )
    assert arrays(load_traces(later)) == [[0, 3.053], [0, 0], [6955, 6472], [52, 26]]
    assert load_traces(later, time_unit="s").duration == 3053


def test_files_of_one_clock_are_merged(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", BURSTGPT, "5,GPT-4,10,1,11,API log", "9.5,GPT-4,30,3,33,x")
    two = write(tmp_path / "two.csv", BURSTGPT, "7,ChatGPT,20,0,20,Conversation log")
    trace = load_traces([one, two])
    assert trace.class_names == ("one", "two")
    assert arrays(trace) == [[0, 2, 4.5], [0, 1, 0], [10, 20, 30], [1, 0, 3]]
    assert [source.rows for source in trace.sources] == [2, 1]
    by_model = load_traces([one, two], classes_by="Model")
    assert by_model.class_names == ("GPT-4", "ChatGPT")
    assert by_model.request_class.tolist() == [0, 1, 0]
    assert load_traces([one, two], classes_by="Log Type").class_names == (
        "API log",
        "x",
        "Conversation log",
    )


def test_a_saved_trace_keeps_its_time_0(tmp_path: Path) -> None:
    path = write(tmp_path / "run.csv", CANONICAL, "0.25,chat,10.5,1", '1.5,"a, b",2,0.125')
    trace = load_traces(path)
    assert arrays(trace) == [[0.25, 1.5], [0, 1], [10.5, 2], [1, 0.125]]
    assert trace.class_names == ("chat", "a, b")
    other = write(tmp_path / "other.csv", CANONICAL, "0.125,a,1,1", "0.5,chat,1,1")
    both = load_traces([path, other])
    assert both.class_names == ("chat", "a, b", "a")
    assert both.request_class.tolist() == [2, 0, 0, 1]


def test_clocks_are_not_mixed(tmp_path: Path) -> None:
    local = write(tmp_path / "local.csv", AZURE, "2023-11-16 18:15:46,1,1")
    zoned = write(tmp_path / "zoned.csv", AZURE, "2023-11-16 18:15:46+00:00,1,1")
    vidur_file = write(tmp_path / "vidur.csv", VIDUR, "1,1,1")
    burst = write(tmp_path / "burst.csv", BURSTGPT, "1,GPT-4,1,1,2,API log")
    message = refused(local, zoned)
    assert "zoned.csv: got calendar time in UTC beside calendar time without a zone" in message
    assert "allowed is one clock" in refused(zoned, vidur_file)
    assert "the seconds of BurstGPT beside the seconds of Vidur" in refused(vidur_file, burst)
    mixed = write(
        tmp_path / "mixed.csv", AZURE, "2023-11-16 18:15:46+00:00,1,1", "2023-11-16 18:15:47,1,1"
    )
    assert "mixed.csv line 3: got " in refused(mixed)
    assert "with a zone as in the lines above" in refused(mixed)


@pytest.mark.parametrize("header", [AZURE, BURSTGPT, VIDUR, CANONICAL])
def test_a_file_with_only_a_header_is_refused(tmp_path: Path, header: str) -> None:
    assert "no request after the header" in refused(write(tmp_path / "a.csv", header, "", " "))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{BURSTGPT},Model", "1,GPT-4,1,1,2,x,GPT-4"], "line 1: got the column 'Model' twice"),
        (["Timestamp,Model,Request tokens", "1,GPT-4,1"], "got the header 'Timestamp,Model,Req"),
        (["num_prefill_tokens,num_decode_tokens,pd_ratio", "1,1,1"], "Vidur header without arriva"),
        ([f'"{AZURE}', "1"], "got the header"),
        (["{", "1"], "got the header '{'"),
        (["[]"], "got the header '[]'"),
        (['{"timestamp": 1, "timestamp": 2}'], "got the column 'timestamp' twice"),
        (['{"input_length": 1, "output_length": 2}'], "Mooncake header without arrival times"),
        (["version https://git-lfs.github.com/spec/v1", "oid"], "git lfs pull"),
        (["x" * 1000], "xxx..."),
    ],
)
def test_a_header_of_no_format_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    assert message in refused(write(tmp_path / "other.csv", *lines))


@pytest.mark.parametrize(
    "bad",
    [
        "nan,GPT-4,1,1,2,API log",
        "inf,GPT-4,1,1,2,API log",
        "-1,GPT-4,1,1,2,API log",
        "1_0,GPT-4,1,1,2,API log",
        "1e999,GPT-4,1,1,2,API log",
        ",GPT-4,1,1,2,API log",
        "1,GPT-4,-1,1,2,API log",
        "1,GPT-4,1.5,1,2,API log",
        "1,GPT-4,1,nan,2,API log",
        "1,GPT-4,\u0661,1,2,API log",
        "1,GPT-4,1,1,2",
        "1,GPT-4,1,1,2,API log,1",
        '1,"GPT-4,1,1,2,API log',
        "1,,1,1,2,API log",
        BURSTGPT,
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, bad: str) -> None:
    good = "1,GPT-4,1,1,2,API log"
    path = write(tmp_path / "burst.csv", BURSTGPT, *[good] * 3000, "", bad, good, end="\r\n")
    message = refused(path, classes_by="Model")
    assert f"burst.csv line 3003: got {bad[:60]!r}"[:-1] in message
    assert "Timestamp >= 0 and two token counts >= 0 and a class name (Model)" in message


@pytest.mark.parametrize(
    "bad",
    [
        '{"timestamp": 1, "input_length": 1}',
        '{"timestamp": 1, "input_length": 1, "output_length": NaN}',
        '{"timestamp": 1, "input_length": 1, "output_length": true}',
        '{"timestamp": 1, "input_length": 1, "output_length": [1]}',
        '{"timestamp": 1, "input_length": 1.0, "output_length": 1}',
        '{"timestamp": 1, "timestamp": 1, "input_length": 1, "output_length": 1}',
        '{"timestamp": 1, "input_length": 1, "output_length": 1',
        "[1, 2, 3]",
        "[" * 100_000,
    ],
    ids=lambda bad: bad[-30:],
)
def test_a_bad_object_is_refused_with_its_line(tmp_path: Path, bad: str) -> None:
    good = '{"timestamp": 1, "input_length": 1, "output_length": 1}'
    assert "bad.jsonl line 2: got " in refused(write(tmp_path / "bad.jsonl", good, bad, good))


@pytest.mark.parametrize(
    "bad", ["1,a,1e9,1", "1,,1,1", "1,a,1", "1,a,-1,1", "1,a\tb,1,1", "x,a,1,1"]
)
def test_a_bad_row_of_the_canonical_schema_is_refused(tmp_path: Path, bad: str) -> None:
    assert "run.csv line 3: got " in refused(write(tmp_path / "run.csv", CANONICAL, "0,a,1,1", bad))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(vidur([(k, k, k, 0, 0) for k in range(5000)])).encode())
    path = tmp_path / "cut.csv.gz"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for damaged in (whole[: len(whole) // 2], whole[:-4], bytes(flipped), whole[:5]):
        path.write_bytes(damaged)
        message = refused(path)
        assert "a gzip file that is cut off or damaged" in message or "line" in message
    path = tmp_path / "latin.csv"
    path.write_bytes(f"{VIDUR}\n1,1,1\n".encode() + b"2,1,\xe9\n")
    assert "latin.csv line 3: got bytes that are no text" in refused(path)
    path.write_text(f"{VIDUR}\n1,1,1\n", encoding="utf-16")
    assert "latin.csv line 1: got bytes that are no text" in refused(path)


STAMPS = (AZURE, "2024-05-10 00:00:00", "2024-02-30 00:00:00", "+00:00")
SIGNS = ("1", ",", "-", "nan", "e9", "\n", "\r", '"', " ", "\x00", "\ufeff", "é")
pieces = st.sampled_from([*STAMPS, *SIGNS, CANONICAL, "{", "}", "[", '"timestamp": ', VIDUR])


@FILES
@given(text=st.lists(pieces, max_size=20).map("".join), header=st.sampled_from(["", AZURE, VIDUR]))
def test_whatever_stands_in_a_file_it_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, header: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(f"{header}\n{text}".encode())
    try:
        assert len(load_traces(path)) > 0
    except TraceError as error:
        assert str(error).count("\n") == 0  # noqa: PT017


def test_options_that_a_file_does_not_have_are_refused(tmp_path: Path) -> None:
    azure = write(tmp_path / "a.csv", AZURE, "2023-11-16 18:15:46,1,1")
    saved = write(tmp_path / "s.csv", CANONICAL, "1,a,1,1")
    burst = write(tmp_path / "b.csv", BURSTGPT, "1,GPT-4,1,1,2,API log")
    assert "time_unit: got 'ms', allowed is none" in refused(azure, time_unit="ms")
    assert "time_unit: got 'ms', allowed is none" in refused(saved, time_unit="ms")
    assert "allowed is s or ms or us" in refused(burst, time_unit="h")
    assert "classes_by: got 'Model', allowed is none" in refused(azure, classes_by="Model")
    assert "'Model' or 'Log Type'" in refused(burst, classes_by="model")
    assert "keep or drop" in refused(burst, zero_rows="ignore")
