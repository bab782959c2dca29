"""Finished results are kept as plain data, come back to the last bit, and are checked."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.evaluation_cache import read_evaluation, store_evaluation
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.files.records import from_plain, to_plain
from llm_sched_env.files.result_cache import read_result, result_key, store_result

FAST = {"horizon": 20.0, "warmup": 5.0}


@pytest.fixture(scope="module")
def evaluations():
    """One replication (no interval), a Python policy, service levels with and without a limit."""
    slos = ["tpot@price=3000", "decode-fairness@limit=4"]
    return [
        lse.evaluate("token-bucket", "base", 2, replications=1, **FAST),
        lse.evaluate("fluid-mpc", "overload", 2, replications=2, **FAST),
        lse.evaluate("trunk-reservation", "overload", 2, replications=2, slos=slos, **FAST),
    ]


def require_same(first, second, where="evaluation"):
    """Bit for bit, and of the same types all the way down."""
    assert type(first) is type(second), where
    if dataclasses.is_dataclass(first):
        for field in dataclasses.fields(first):
            name = field.name
            require_same(getattr(first, name), getattr(second, name), f"{where}.{name}")
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key, value in first.items():
            require_same(value, second[key], f"{where}[{key}]")
    elif isinstance(first, tuple):
        assert len(first) == len(second), where
        for k, (a, b) in enumerate(zip(first, second, strict=True)):
            require_same(a, b, f"{where}[{k}]")
    elif isinstance(first, np.ndarray):
        assert (first.dtype, first.shape) == (second.dtype, second.shape), where
        assert first.tobytes() == second.tobytes(), where
    elif isinstance(first, float):
        assert first.hex() == second.hex(), where
    else:
        assert first == second, where


def test_evaluations_come_back_to_the_last_bit(evaluations, tmp_path):
    for k, result in enumerate(evaluations):
        file = tmp_path / f"{k}.json"
        store_evaluation(file, result)
        again = read_evaluation(file)
        # What numpy's scalars are in between is not kept: they are floats.
        require_same(from_plain(Evaluation, to_plain(Evaluation, result)), again)
        assert json.dumps(again.to_dict()) == json.dumps(result.to_dict())
        assert (again.scores, again.score.mean) == (result.scores, result.score.mean)
        for name, array in result.occupancy.items():
            assert again.occupancy[name].dtype == array.dtype
            assert again.occupancy[name].tobytes() == array.tobytes()
    assert math.isnan(read_evaluation(tmp_path / "0.json").score.ci95[0])
    assert read_evaluation(tmp_path / "1.json").decision_milliseconds.median > 0
    assert read_evaluation(tmp_path / "2.json").slos["decode-fairness"].limit == 4


def test_a_thousand_cached_evaluations_are_read_in_seconds(evaluations, tmp_path):
    started = time.process_time()
    for k in range(200):
        store_evaluation(tmp_path / f"{k}.json", evaluations[2])
    written = time.process_time()
    for k in range(200):
        assert read_evaluation(tmp_path / f"{k}.json") is not None
    read = time.process_time()
    assert written - started < 2.0
    assert read - written < 1.0


@dataclass(frozen=True)
class Part:
    number: float
    ends: tuple[float, float]


@dataclass(frozen=True)
class Record:
    parts: tuple[Part, ...]
    by_name: dict[str, Part | None]
    array: np.ndarray
    whole: int
    flag: bool
    text: str


NUMBERS = (0.0, -0.0, 0.1, 5e-324, -1.7976931348623157e308, math.inf, -math.inf, math.nan)


@pytest.mark.parametrize(
    "array",
    [
        np.array(NUMBERS),
        np.array([[0.1, 2.5]], np.float32),
        np.zeros((0, 3)),
        np.array(7, np.int64),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1], np.uint64),
        np.array([[True], [False]]),
    ],
)
def test_records_come_back_to_the_last_bit(array):
    parts = tuple(Part(x, (x, -x)) for x in NUMBERS)
    by_name = {"ä": parts[0], "none": None}
    record = Record(parts, by_name, array, whole=2**40, flag=True, text='a "line"\n')
    text = json.dumps(to_plain(Record, record), allow_nan=False)
    require_same(from_plain(Record, json.loads(text)), record)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "0.5"),
        ("number", True),
        ("number", None),
        ("number", 10**400),
        ("number", [1.0]),
        ("ends", [1.0]),
        ("ends", [1.0, 2.0, 3.0]),
        ("ends", {"0": 1.0}),
    ],
)
def test_data_of_other_types_is_one_line(field, value):
    data = {"number": 1.0, "ends": [0.0, 2.0]} | {field: value}
    with pytest.raises(ValueError, match=f"^record.{field}") as caught:
        from_plain(Part, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"number": 1.0},
        {"number": 1.0, "ends": [0, 1], "more": 1},
        [1.0, [0, 1]],
        None,
    ],
)
def test_missing_and_unknown_fields_are_one_line(data):
    with pytest.raises(ValueError, match="expected the fields of Part"):
        from_plain(Part, data)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "object"},
        {"dtype": ["float64"]},
        {"shape": [3]},
        {"shape": [-1, -2]},
        {"shape": [2.0]},
        {"values": [1.0, "x"]},
        {"values": "12"},
        {"dtype": "int64", "values": [1, 2**63]},
        {"more": 1},
    ],
)
def test_arrays_that_are_none_are_one_line(change):
    with pytest.raises(ValueError, match=r"^record"):
        from_plain(np.ndarray, {"dtype": "float64", "shape": [2], "values": [1.0, 2.0]} | change)


def test_what_no_annotation_allows_is_not_kept():
    for kind, value in ((int, 1.5), (bool, 1), (str, b"x"), (float, "nan"), (np.ndarray, [1.0])):
        with pytest.raises(TypeError):
            to_plain(kind, value)
    with pytest.raises(TypeError):
        to_plain(np.ndarray, np.array([object()]))


# Files


def test_a_key_does_not_depend_on_the_order_of_keys():
    assert result_key({"a": 1, "b": [0.1]}) == result_key({"b": [0.1], "a": 1})
    assert result_key({"a": 1}) != result_key({"a": 1.5})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no",
        b"\x80\x04K\x01.",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": 1, "kind": "other", "of": 1, "result": 1}',
        b'{"format": 2, "kind": "evaluation", "of": 1, "result": 1}',
        b'{"format": 1, "kind": "evaluation", "of": 1}',
        b'{"format": 1, "kind": "evaluation", "of": 1, "result": NaN}',
        b'{"format": 1, "kind": "evaluation", "of": "key", "result": {}}',
        b'{"format": 1, "kind": "evaluation", "of": "another", "result": {}}',
    ],
)
def test_other_files_are_one_line_and_stay(tmp_path, content):
    file = tmp_path / "key.json"
    file.write_bytes(content)
    with pytest.raises(
        ConfigurationError, match=r"^The cached evaluation .*remove the file"
    ) as caught:
        read_evaluation(file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_a_folder_or_too_large_a_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ConfigurationError, match="cached evaluation"):
        read_evaluation(tmp_path / "folder.json")
    store_result(tmp_path / "a.json", "evaluation", "a", {})
    monkeypatch.setattr("llm_sched_env.files.result_cache._MOST_BYTES", 10)
    with pytest.raises(ConfigurationError, match="more than 10 bytes"):
        read_result(tmp_path / "a.json", "evaluation")


def test_every_change_of_a_kept_evaluation_s_types_is_found(evaluations, tmp_path):
    """A file in which one value is replaced by another type, wherever it stands."""
    file = tmp_path / "key.json"
    store_evaluation(file, evaluations[1])
    content = json.loads(file.read_bytes())
    changed = 0
    for name, value in content["result"].items():
        for wrong in ({"x": 1}, "text", -1.5, [None]):
            kinds = {str: "text", int: None, float: -1.5}
            if kinds.get(type(value)) == wrong or (name, value, wrong) == ("versions", value, {}):
                continue
            file.write_text(json.dumps(content | {"result": content["result"] | {name: wrong}}))
            if name == "slos" and wrong == {"x": 1}:
                continue
            with pytest.raises(ConfigurationError, match="cached evaluation"):
                read_evaluation(file)
            changed += 1
    assert changed > 90
