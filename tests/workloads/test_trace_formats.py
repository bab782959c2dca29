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
from llm_sched_env.workloads.locations import DATA_VARIABLE, data_folders
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


def bare(table: list[Row]) -> list[str]:
    return [
        json.dumps({"timestamp": us, "input_length": p, "output_length": o})
        for us, p, o, _, _ in table
    ]


def mooncake(table: list[Row]) -> list[str]:
    return [
        json.dumps({"timestamp": us, "input_length": p, "output_length": o, "hash_ids": [0, us]})
        for us, p, o, _, _ in table
    ]


def bailian(table: list[Row]) -> list[str]:
    """Seconds as floats are printed, so that all have a point or an exponent."""
    return [
        json.dumps(
            {
                "chat_id": k,
                "parent_chat_id": -1,
                "timestamp": us / 1e6,
                "input_length": p,
                "output_length": o,
                "type": ("text", "search")[kind],
                "turn": 1,
                "hash_ids": [k],
            }
        )
        for k, (us, p, o, _, kind) in enumerate(table)
    ]


def serving_sim(table: list[Row]) -> list[str]:
    return [
        json.dumps({"input_toks": p, "output_toks": o, "arrival_time_ns": 1000 * us})
        for us, p, o, _, _ in table
    ]


def azure_multimodal(table: list[Row]) -> list[str]:
    """An index of pandas before and a column of images between those that are read."""
    lines = [line.split(",") for line in azure_2023(table)[1:]]
    return [
        ",TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
        *(f"{k},{stamp},1,{p},{o}" for k, (stamp, p, o) in enumerate(lines)),
    ]


def vidur(table: list[Row]) -> list[str]:
    return [f"{VIDUR},pd_ratio", *(f"{us / 1e6!r},{p},{o},1.5" for us, p, o, _, _ in table)]


def in_order(table: list[Row]) -> list[Row]:
    return sorted(table, key=lambda r: r[0])  # stable, as the reader


BURST_REST = "Model, Total tokens, Log Type"
BAILIAN_REST = "chat_id, parent_chat_id, type, turn, hash_ids"
WRITERS = [
    (azure_2023, "Azure, calendar time", {}),
    (azure_2024, "Azure, calendar time", {}),
    (azure_multimodal, "Azure, calendar time; not read: a column without a name, NumImages", {}),
    (burstgpt, f"BurstGPT, seconds; not read: {BURST_REST}", {}),
    (burstgpt_2, f"BurstGPT, seconds; not read: Session ID, Elapsed time, {BURST_REST}", {}),
    (mooncake, "Mooncake, microseconds", {"time_unit": "us"}),
    (bailian, f"Qwen-Bailian, seconds; not read: {BAILIAN_REST}", {}),
    (bare, "JSON lines, microseconds", {"time_unit": "us"}),
    (vidur, "Vidur, seconds; not read: pd_ratio", {}),
    (serving_sim, "LLMServingSim, nanoseconds", {}),
]


@pytest.mark.parametrize(("writer", "description", "options"), WRITERS)
@FILES
@given(table=rows, crlf=st.booleans(), bom=st.booleans(), zipped=st.booleans())
def test_every_format_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    writer: Callable[[list[Row]], list[str]],
    description: str,
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
    assert [source[:4] for source in trace.sources] == [
        (str(path), description.partition(",")[0], len(table), late)
    ]
    assert str(trace.sources[0]) == description


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
    chat = write(
        tmp_path / "qwen_trace.jsonl",
        '{"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 521, '
        '"output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 13148]}',
        '{"chat_id": 160, "parent_chat_id": -1, "timestamp": 121.5, "input_length": 64, '
        '"output_length": 80, "type": "search", "turn": 1, "hash_ids": [6326]}',
    )
    trace = load_traces(chat, classes_by="type")
    assert trace.arrival_time.tolist() == [0, 121.5 - 61.114]
    assert trace.class_names == ("text", "search")


def shared_keys(*times: str, extra: str = "") -> list[str]:
    """Lines of the three keys that several formats share; times as they are to stand there."""
    return [
        f'{{"timestamp": {time}, "input_length": 9, "output_length": 5{extra}}}' for time in times
    ]


HASHES, CHAT = ', "hash_ids": [1]', ', "chat_id": 1, "turn": 1'


@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (shared_keys("0", "900"), "'hash_ids'"),
        (shared_keys("0.25", "900.5"), "'hash_ids'"),
        (shared_keys("0", "900", extra=', "type": "text"'), "'hash_ids'"),
        (shared_keys("0", "900.5", extra=HASHES), "whole milliseconds"),
        (shared_keys("0.0", "900.0", extra=HASHES), "whole milliseconds"),
        (shared_keys("0", "900", extra=CHAT), "seconds with fractions"),
        (shared_keys("0", "900", extra=HASHES + CHAT), "seconds with fractions"),
    ],
)
def test_what_could_be_in_two_units_is_asked_for(
    tmp_path: Path, lines: list[str], seen: str
) -> None:
    path = write(tmp_path / "chat.jsonl", *lines)
    message = refused_for_its_unit(path)
    assert seen in message
    last = 900.5 if "900.5" in lines[1] else 900
    first = 0.25 if "0.25" in lines[0] else 0
    for unit, parts in (("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)):
        assert load_traces(path, time_unit=unit).duration == pytest.approx((last - first) / parts)


def refused_for_its_unit(path: Path) -> str:
    with pytest.raises(TraceError, match="unit of 'timestamp' is unclear") as caught:
        load_traces(path)
    assert "give --time-unit s or ms" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "fault"),
    [
        (HASHES, HASHES + CHAT, "has 'chat_id', unlike line 1 (Mooncake)"),
        (HASHES, "", "no 'hash_ids', unlike line 1 (Mooncake)"),
        (CHAT, HASHES, "no 'chat_id' or 'parent_chat_id', unlike line 1 (Qwen-Bailian)"),
    ],
)
def test_two_formats_in_a_file_are_refused(
    tmp_path: Path, first: str, second: str, fault: str
) -> None:
    time = "1" if first == HASHES else "1.5"
    lines = [*shared_keys(time, extra=first), *shared_keys(time, extra=second)]
    path = write(tmp_path / "both.jsonl", *lines)
    assert f"line 2: got {lines[1]!r}: {fault}" in refused(path)
    assert len(load_traces(path, time_unit="s")) == 2


@FILES
@given(table=st.lists(row, min_size=2, max_size=12), data=st.data())
def test_no_file_of_shared_keys_is_read_as_another(
    tmp_path_factory: pytest.TempPathFactory, table: list[Row], data: st.DataObject
) -> None:
    """Whatever keys and decimals stand there: the documented seconds, or a question."""
    extras = {
        "hash_ids": data.draw(st.booleans()),
        "chat_id": data.draw(st.booleans()),
        "parent_chat_id": data.draw(st.booleans()),
        "session_id": data.draw(st.booleans()),
        "delay": data.draw(st.booleans()),
    }
    unit = data.draw(st.sampled_from(["s", "ms"]))
    whole = data.draw(st.booleans())
    times = [us // 1000 if whole else us / 1000 for us, *_ in table]  # milliseconds
    if unit == "s":
        times = [int(ms // 1000) if whole else ms / 1000 for ms in times]
    lines = [
        json.dumps(
            {"timestamp": t, "input_length": 1, "output_length": 1}
            | {key: [1] if key == "hash_ids" else 1 for key, there in extras.items() if there}
        )
        for t in times
    ]
    path = tmp_path_factory.getbasetemp() / "shared.jsonl"
    path.write_text("\n".join(lines) + "\n")
    is_bailian = extras["chat_id"] or extras["parent_chat_id"]
    is_mooncake = extras["hash_ids"] and not is_bailian
    if is_bailian and not whole:
        assert load_traces(path).duration == pytest.approx(max(times) - min(times), abs=1e-6)
    elif is_mooncake and whole:
        span = (max(times) - min(times)) / 1000
        assert load_traces(path).duration == pytest.approx(span, abs=1e-6)
    else:
        refused_for_its_unit(path)


def test_units_are_given_by_file(tmp_path: Path) -> None:
    seconds = write(tmp_path / "one.jsonl", *shared_keys("10", "12"))
    milliseconds = write(tmp_path / "two.jsonl", *shared_keys("9500", "11000"))
    for units in (
        {"one.jsonl": "s", "two.jsonl": "ms"},
        {str(seconds): "s", str(milliseconds): "ms"},
    ):
        trace = load_traces([seconds, milliseconds], time_unit=units)
        assert trace.arrival_time.tolist() == [0, 0.5, 1.5, 2.5]
        assert trace.request_class.tolist() == [1, 0, 1, 0]
    marked = write(tmp_path / "three.jsonl", *shared_keys("10", "12", extra=HASHES))
    assert load_traces(marked, time_unit={}).duration == 0.002
    with pytest.raises(TraceError, match=r"two\.jsonl: the unit of 'timestamp' is unclear"):
        load_traces([seconds, milliseconds], time_unit={"one.jsonl": "s"})
    assert "'no.jsonl', expected the path or name of one" in refused(
        seconds, time_unit={"no.jsonl": "s"}
    )
    assert "expected s or ms or us or ns" in refused(seconds, time_unit={"one.jsonl": "m"})


def test_the_mooncake_trace_is_in_milliseconds() -> None:
    name = "mooncake_conversation_trace.jsonl"
    path = next((f / name for f in data_folders() if (f / name).is_file()), None)
    if path is None:
        pytest.skip(f"{name} is in none of the data folders; name one with {DATA_VARIABLE}")
    trace = load_traces(path)
    assert len(trace) == 12_031
    assert trace.duration == 3536.999
    assert str(trace.sources[0]) == "Mooncake, milliseconds"


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
    assert "expected one clock" in refused(zoned, vidur_file)
    assert "the seconds of BurstGPT beside the seconds of Vidur" in refused(vidur_file, burst)
    mixed = write(
        tmp_path / "mixed.csv", AZURE, "2023-11-16 18:15:46+00:00,1,1", "2023-11-16 18:15:47,1,1"
    )
    assert "mixed.csv line 3: got " in refused(mixed)
    assert "expected one with a zone, as those above" in refused(mixed)


@pytest.mark.parametrize("header", [AZURE, BURSTGPT, VIDUR, CANONICAL])
def test_a_file_with_only_a_header_is_refused(tmp_path: Path, header: str) -> None:
    assert "no request after the header" in refused(write(tmp_path / "a.csv", header, "", " "))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"{BURSTGPT},Model", "1,GPT-4,1,1,2,x,GPT-4"], "line 1: got the column 'Model' twice"),
        (["Timestamp,Model,Request tokens", "1,GPT-4,1"], "got no 'Response tokens' in the"),
        (["num_prefill_tokens,num_decode_tokens,pd_ratio", "1,1,1"], "Vidur without arrival times"),
        ([f'"{AZURE}', "1"], "got the header"),
        (["{", '"a": 1}'], "got '{' as the first line, expected a whole JSON object a line"),
        (["[]"], "a JSON array, expected one object a line"),
        (["[{", "}]"], "a JSON array, expected one object a line"),
        (['{"timestamp": 1, "timestamp": 2}'], "got the column 'timestamp' twice"),
        (['{"timestamp": 0, "input_length": 100}'], "got no 'output_length' in line 1"),
        (['{"input_length": 1, "output_length": 2}'], "JSON lines without arrival times"),
        (['{"session_id": "a", "arrival_time_ns": 0, "sub_requests": []}'], "'sub_requests'"),
        (["version https://git-lfs.github.com/spec/v1", "oid"], "git lfs pull"),
        (["x" * 1000], "xxx..."),
        (["TIMESTAMP,ContextTokens"], "got no 'GeneratedTokens' in the header"),
        (
            ["Timestamp,ContextTokens,GeneratedTokens"],
            "columns of Azure; rename the column Timestamp to TIMESTAMP (calendar time)",
        ),
        (
            ["timestamp,request_tokens,response_tokens"],
            "rename the columns timestamp to Timestamp (seconds), request_tokens to Request tok",
        ),
        (
            ["arrival_time,num_prefill_tokens,num_decode_tokens"],
            "rename the column arrival_time to arrived_at (seconds)",
        ),
        (['{"input_toks": 1, "output_toks": 1, "arrival": 0}'], "arrival_time_ns (nanoseconds)"),
        (['{"Timestamp": 1, "input_length": 1, "output_length": 1}'], "Timestamp to timestamp"),
        ([AZURE.replace(",", ";")], "separated by ';', expected commas"),
        ([AZURE.replace(",", "\t")], "separated by tabs, expected commas"),
        ([f"{CANONICAL},patience"], "expected those of llm-sched-env in their order"),
        ([f"{AZURE},{VIDUR}"], "got the columns of Azure and of Vidur"),
    ],
)
def test_a_header_of_no_format_is_refused(tmp_path: Path, lines: list[str], message: str) -> None:
    assert message in refused(write(tmp_path / "other.csv", *lines))


NUMBER = "expected a finite decimal number >= 0"
COUNT = "expected a whole number of at most 9 digits"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("nan,GPT-4,1,1,2,API log", f"Timestamp is 'nan', {NUMBER}"),
        ("inf,GPT-4,1,1,2,API log", f"Timestamp is 'inf', {NUMBER}"),
        ("-1,GPT-4,1,1,2,API log", f"Timestamp is '-1', {NUMBER}"),
        ("1_0,GPT-4,1,1,2,API log", f"Timestamp is '1_0', {NUMBER}"),
        ("1e999,GPT-4,1,1,2,API log", f"Timestamp is '1e999', {NUMBER}"),
        (",GPT-4,1,1,2,API log", f"Timestamp is '', {NUMBER}"),
        ("1,GPT-4,-1,1,2,API log", f"Request tokens is '-1', {COUNT}"),
        ("1,GPT-4,1.5,1,2,API log", f"Request tokens is '1.5', {COUNT}"),
        ("1,GPT-4,1,1000000000,2,API log", f"Response tokens is '1000000000', {COUNT}"),
        ("1,GPT-4,1,nan,2,API log", f"Response tokens is 'nan', {COUNT}"),
        ("1,GPT-4,\u0661,1,2,API log", COUNT),
        ("1,GPT-4,1,1,2", "the header has 6 fields and this line has not"),
        ("1,GPT-4,1,1,2,API log,1", "the header has 6 fields and this line has not"),
        ('1,"GPT-4,1,1,2,API log', "a quote is left open or stands inside a field"),
        ("1,,1,1,2,API log", "Model is '', expected the name of a class, printable text"),
        (BURSTGPT, f"Timestamp is 'Timestamp', {NUMBER}"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, bad: str, fault: str) -> None:
    good = "1,GPT-4,1,1,2,API log"
    path = write(tmp_path / "burst.csv", BURSTGPT, *[good] * 3000, "", bad, good, end="\r\n")
    message = refused(path, classes_by="Model")
    assert f"burst.csv line 3003: got {bad!r}: " in message
    assert message.endswith(fault)


OBJECT = "expected a whole JSON object a line"


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ('{"hash_ids": 0, "timestamp": 1, "input_length": 1}', "no 'output_length'"),
        ('{"hash_ids": 0, "delay": 1, "input_length": 1, "output_length": 1}', "no 'timestamp'"),
        (shared_keys("NaN", extra=HASHES)[0], f"timestamp is 'NaN', {NUMBER}"),
        (shared_keys("true", extra=HASHES)[0], "timestamp is neither a number nor a text"),
        (shared_keys("[1]", extra=HASHES)[0], "timestamp is neither a number nor a text"),
        ('{"hash_ids": 0, "timestamp": 1, "input_length": 1.0, "output_length": 1}', COUNT),
        ('{"timestamp": 1, "timestamp": 1, "input_length": 1}', "a key stands twice"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1', OBJECT),
        ("[1, 2, 3]", OBJECT),
        ("[" * 100_000, OBJECT),
    ],
    ids=lambda text: text[-30:],
)
def test_a_bad_object_is_refused_with_its_line(tmp_path: Path, bad: str, fault: str) -> None:
    (good,) = shared_keys("1", extra=HASHES)
    message = refused(write(tmp_path / "bad.jsonl", good, bad, good))
    assert "bad.jsonl line 2: got " in message
    assert message.endswith(fault)


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
    assert "latin.csv: got text in UTF-16, expected UTF-8" in refused(path)
    path.write_bytes(gzip.compress(f"{VIDUR}\n1,1,1\n".encode("utf-16")))
    assert "latin.csv: got text in UTF-16, expected UTF-8" in refused(path)


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
    assert "time_unit: got 'ms', expected none" in refused(azure, time_unit="ms")
    assert "time_unit: got 'ms', expected none" in refused(saved, time_unit="ms")
    assert "expected s or ms or us or ns" in refused(burst, time_unit="h")
    sim = write(tmp_path / "sim.jsonl", *serving_sim([(1, 1, 1, 0, 0)]))
    assert "arrival_time_ns of LLMServingSim says" in refused(sim, time_unit="ms")
    assert "classes_by: got 'Model', expected none" in refused(azure, classes_by="Model")
    assert "'Model' or 'Log Type'" in refused(burst, classes_by="model")
    assert "keep or drop" in refused(burst, zero_rows="ignore")
