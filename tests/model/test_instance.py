"""Instances survive files, cannot change, know the rates of (4), and refuse bad input in a line."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.presets import resolve_instance

SUFFIXES = (".json", ".toml")
CHAT = RequestClass("chat", 300, 1000, 0.5, 0.1)
REMOVED = object()


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    """The plain data of ``base`` with one value replaced or removed."""
    data = copy.deepcopy(presets.base().to_dict())
    *parents, last = path
    place: Any = data
    for key in parents:
        place = place[key]
    if to is REMOVED:
        del place[last]
    else:
        place[last] = to
    return data


def check_message(error: ConfigurationError, field: str, got: str, allowed: str) -> None:
    message = str(error)
    assert "\n" not in message
    named, _, rest = message.partition(": got ")
    shown, _, remedy = rest.partition(", expected ")
    assert field in named
    assert got in shown
    assert allowed in remedy


def check_rejected(data: Any, field: str, got: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(data)
    check_message(caught.value, field, got, allowed)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_saved_instance_is_read_back_equal(tmp_path: Path, name: str, suffix: str) -> None:
    instance, path = presets.PRESETS[name](), tmp_path / f"saved{suffix}"
    instance.save(path)
    assert Instance.load(path) == instance
    assert resolve_instance(path) == resolve_instance(str(path)) == instance


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_in_any_script_survive_a_file(tmp_path: Path, suffix: str) -> None:
    instance = dataclasses.replace(
        presets.base(), name='"обзор" \\ 1', classes=(dataclasses.replace(CHAT, name="会话\n'a'"),)
    )
    instance.save(tmp_path / f"saved{suffix}")
    assert Instance.load(tmp_path / f"saved{suffix}") == instance


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numpy_numbers_are_saved_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    hardware = Hardware(
        np.float32(0.5), np.float64(0.25), np.int64(45), np.int64(256), np.int32(16)
    )
    instance = dataclasses.replace(presets.base(), hardware=hardware)
    instance.save(tmp_path / f"saved{suffix}")
    assert Instance.load(tmp_path / f"saved{suffix}") == instance


def test_plain_data_is_read_back_equal() -> None:
    instance = presets.dolly15k()
    assert Instance.from_dict(json.loads(json.dumps(instance.to_dict()))) == instance
    assert resolve_instance(instance.to_dict()) == instance
    assert resolve_instance("dolly15k") == instance


def test_plain_data_is_a_copy() -> None:
    instance = presets.base()
    instance.to_dict()["classes"][0]["arrival_rate"] = 9.0
    assert instance == presets.base()


@pytest.mark.parametrize("part", ["instance", "class", "hardware", "prices"])
def test_an_instance_cannot_change(part: str) -> None:
    instance = presets.base()
    parts = {
        "instance": (instance, "name"),
        "class": (instance.classes[0], "arrival_rate"),
        "hardware": (instance.hardware, "gamma"),
        "prices": (instance.prices, "decode"),
    }
    record, field = parts[part]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, 1.0)


def test_classes_given_as_a_list_are_kept_as_a_tuple() -> None:
    base = presets.base()
    given = list(base.classes)
    instance = Instance("base", given, base.hardware, base.prices)
    given.clear()
    assert instance == base


def test_rates_of_the_base_instance_are_those_worked_out_by_hand() -> None:
    base = presets.base()
    assert base.n_classes == 2
    assert base.hardware.tau_mixed == pytest.approx(0.033272, rel=1e-12)  # .0174 + 6.2e-5 x 256
    assert base.hardware.tau_solo == pytest.approx(0.0220022, rel=1e-6)  # 1 / 45.45
    # 256 / (300 x .033272), 256 / (3000 x .033272)
    assert base.prefill_rates == pytest.approx([25.647191, 2.5647191], rel=1e-7)
    # 1 / (1000 x .033272), 1 / (400 x .033272)
    assert base.mixed_decode_rates == pytest.approx([0.030055302, 0.075138254], rel=1e-7)
    # 45.45 / 1000, 45.45 / 400
    assert base.solo_decode_rates == pytest.approx([0.04545, 0.113625], rel=1e-12)
    # .1 x 300 + .2 x 1000, .1 x 3000 + .2 x 400
    assert base.bundled_revenues == pytest.approx([230, 380], rel=1e-12)
    assert base.arrival_rates.tolist() == [0.5, 0.5]
    assert base.patience_rates.tolist() == [0.1, 0.1]


def test_solo_decodes_are_faster_by_the_same_factor_for_every_class() -> None:
    dolly = presets.dolly15k()
    factor = dolly.hardware.gamma * dolly.hardware.tau_mixed
    assert dolly.solo_decode_rates / dolly.mixed_decode_rates == pytest.approx([factor] * 8)


def test_the_presets_are_those_of_the_model() -> None:
    assert presets.overload().arrival_rates.tolist() == [1.0, 1.0]
    assert presets.overload() == presets.base().scaled(2, name="overload")
    dolly = presets.dolly15k()
    assert dolly.arrival_rates.sum() == pytest.approx(4)
    assert dolly.arrival_rates[0] == pytest.approx(4 * 1764 / 14875)
    assert presets.QWEN_4B_A100.tau_mixed == pytest.approx(0.0152 + 3.6e-5 * 256)


def test_scaling_multiplies_the_arrival_rates_and_nothing_else() -> None:
    base = presets.base()
    tripled = base.scaled(3)
    assert tripled.name == "base-x3"
    assert tripled.arrival_rates.tolist() == [1.5, 1.5]
    assert base == presets.base()
    one_third = tripled.scaled(1 / 3, name="base")
    assert one_third.arrival_rates == pytest.approx(base.arrival_rates)
    assert dataclasses.replace(one_third, classes=base.classes) == base


@pytest.mark.parametrize("load", [0, -1, math.nan, math.inf, True, "2", None])
def test_a_load_that_is_no_positive_number_is_rejected(load: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        presets.base().scaled(load)
    check_message(caught.value, "load", repr(load), "a finite number > 0")


NUMBERS = [
    (("classes", 0, "prompt_tokens"), "class 'decode-heavy': prompt_tokens", "a finite number > 0"),
    (("classes", 0, "output_tokens"), "class 'decode-heavy': output_tokens", "a finite number > 0"),
    (("classes", 1, "arrival_rate"), "class 'prefill-heavy': arrival_rate", "a finite number >= 0"),
    (
        ("classes", 1, "patience_rate"),
        "class 'prefill-heavy': patience_rate",
        "a finite number >= 0",
    ),
    (("hardware", "alpha"), "hardware alpha", "a finite number >= 0"),
    (("hardware", "beta"), "hardware beta", "a finite number >= 0"),
    (("hardware", "gamma"), "hardware gamma", "a finite number > 0"),
    (("hardware", "chunk_tokens"), "hardware chunk_tokens", "an integer >= 1"),
    (("hardware", "batch_slots"), "hardware batch_slots", "an integer >= 2"),
    (("prices", "prefill"), "prices prefill", "a finite number >= 0"),
    (("prices", "decode"), "prices decode", "a finite number >= 0"),
]
NOT_NUMBERS = [-1, math.nan, math.inf, -math.inf, True, "1", None, [1], {}, 1j]


@pytest.mark.parametrize("got", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize(("path", "field", "allowed"), NUMBERS, ids=[n[1] for n in NUMBERS])
def test_anything_but_an_allowed_number_is_rejected(
    path: tuple[str | int, ...], field: str, allowed: str, got: Any
) -> None:
    check_rejected(changed(*path, to=got), field, repr(got), allowed)


@pytest.mark.parametrize(("path", "field", "allowed"), NUMBERS, ids=[n[1] for n in NUMBERS])
def test_a_number_beyond_floating_point_is_rejected(
    path: tuple[str | int, ...], field: str, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(changed(*path, to=10**400))
    assert field in str(caught.value)


BAD_STRUCTURE = [
    (changed("classes", 0, "prompt_tokens", to=0), "prompt_tokens", "0", "> 0"),
    (changed("classes", 0, "output_tokens", to=0.0), "output_tokens", "0.0", "> 0"),
    (changed("hardware", "gamma", to=0), "hardware gamma", "0", "> 0"),
    (changed("hardware", "batch_slots", to=1), "batch_slots", "1", "an integer >= 2"),
    (changed("hardware", "batch_slots", to=16.0), "batch_slots", "16.0", "an integer >= 2"),
    (changed("hardware", "chunk_tokens", to=0), "chunk_tokens", "0", "an integer >= 1"),
    (changed("hardware", "chunk_tokens", to=25.6), "chunk_tokens", "25.6", "an integer >= 1"),
    (changed("prices", to={"prefill": 0, "decode": 0}), "prices", "(0, 0)", "one price > 0"),
    (changed("classes", to=[]), "classes", "()", "at least one request class"),
    (changed("classes", to="chat"), "classes", "'chat'", "a list of classes"),
    (changed("classes", to={"chat": {}}), "classes", "{'chat': {}}", "a list of classes"),
    (changed("classes", 1, to="chat"), "classes[1]", "'chat'", "a table with the keys name"),
    (changed("classes", 0, "name", to="prefill-heavy"), "names", "heavy", "all different"),
    (changed("classes", 0, "name", to=" "), "class name", "' '", "a non-empty text"),
    (changed("name", to=""), "instance name", "''", "a non-empty text"),
    (changed("name", to=7), "instance name", "7", "a non-empty text"),
    (changed("hardware", to=None), "hardware", "None", "a table with the keys alpha"),
    (changed("prices", to=[0.1, 0.2]), "prices", "[0.1, 0.2]", "a table with the keys prefill"),
    (changed("gpus", to=4), "unknown key", "'gpus'", "name, classes, hardware, prices"),
    (changed("classes", 1, "rate", to=1), "classes[1]: unknown key", "'rate'", "arrival_rate"),
    (changed("hardware", "aplha", to=1), "hardware: unknown key", "'aplha'", "alpha, beta"),
    (changed("prices", "output", to=1), "prices: unknown key", "'output'", "prefill, decode"),
    (changed("name", to=REMOVED), "missing key 'name'", "'classes'", "name, classes"),
    (changed("hardware", to=REMOVED), "missing key 'hardware'", "'prices'", "hardware, prices"),
    (changed("hardware", "beta", to=REMOVED), "missing key 'beta'", "'alpha'", "alpha, beta"),
    (changed("classes", 0, "name", to=REMOVED), "classes[0]: missing", "'arrival_rate'", "name"),
    (["base"], "instance", "['base']", "a table with the keys name, classes, hardware, prices"),
]


@pytest.mark.parametrize(("data", "field", "got", "allowed"), BAD_STRUCTURE)
def test_bad_structure_is_rejected(data: Any, field: str, got: str, allowed: str) -> None:
    check_rejected(data, field, got, allowed)


def test_an_instance_without_arrivals_is_rejected() -> None:
    data = changed("classes", 0, "arrival_rate", to=0)
    assert Instance.from_dict(data).arrival_rates.tolist() == [0, 0.5]
    data["classes"][1]["arrival_rate"] = 0
    check_rejected(data, "arrival_rate", "0", "at least one arrival rate > 0")


def test_an_iteration_that_takes_no_time_is_rejected() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Hardware(0, 0, 45.45, 256, 16)
    check_message(caught.value, "alpha and beta", "(0, 0)", "> 0")


def test_one_free_kind_of_token_is_allowed() -> None:
    assert (Prices(0, 1).prefill, Prices(1, 0).decode) == (0, 0)


BAD_FILES = [
    ("cut.json", '{"name": "a",', "valid JSON or TOML; Expecting"),
    ("empty.json", "", "valid JSON or TOML"),
    ("cut.toml", 'name = "a', "valid JSON or TOML"),
    ("twice.toml", 'name = "a"\nname = "b"\n', "valid JSON or TOML"),
    ("list.json", "[1, 2]", "a table with the keys name, classes, hardware, prices"),
    ("number.json", "1", "a table with the keys name"),
    ("instance.yaml", "name: a\n", "a file name that ends in .json or .toml"),
    ("instance", "{}", "a file name that ends in .json or .toml"),
]


@pytest.mark.parametrize(("name", "text", "allowed"), BAD_FILES, ids=[b[0] for b in BAD_FILES])
def test_a_file_that_holds_no_instance_is_rejected(
    tmp_path: Path, name: str, text: str, allowed: str
) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        Instance.load(path)
    check_message(caught.value, "", "", allowed)
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_is_no_text_is_rejected(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"binary{suffix}"
    path.write_bytes(b"\x93\xff\x00")
    with pytest.raises(ConfigurationError) as caught:
        Instance.load(path)
    check_message(caught.value, "instance file", path.name, "valid JSON or TOML")


def test_a_missing_file_or_a_folder_is_rejected(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.json", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigurationError) as caught:
            Instance.load(path)
        check_message(caught.value, "instance file", path.name, "a readable file; " + reason)


def test_saving_under_another_ending_is_rejected_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        presets.base().save(tmp_path / "base.yaml")
    check_message(
        caught.value, "instance file", "base.yaml", "a file name that ends in .json or .toml"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("got", ["bsae", "", 3, None, ["base"]])
def test_an_instance_that_nothing_answers_to_is_rejected(got: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_instance(got)
    check_message(caught.value, "instance", repr(got), "base, overload, dolly15k")


def test_the_instance_of_the_azure_traces_asks_for_its_files() -> None:
    with pytest.raises(ConfigurationError, match="built from its trace files"):
        resolve_instance("azure2023")


def test_a_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(changed("name", to=["x" * 1000]))
    assert len(str(caught.value)) < 300
