"""Deadlines survive files, have limits, and refuse bad input in a line."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance

BOTH = lse.Deadlines(ttft_seconds=2.0, tpot_seconds=0.05)


def with_deadlines(*deadlines: lse.Deadlines | None) -> Instance:
    base = lse.presets.base()
    pairs = zip(base.classes, deadlines, strict=True)
    classes = tuple(dataclasses.replace(c, deadlines=own) for c, own in pairs)
    return dataclasses.replace(base, classes=classes)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_deadlines_survive_a_file(tmp_path: Path, suffix: str) -> None:
    instance = with_deadlines(BOTH, lse.Deadlines(tpot_seconds=0.1))
    instance.save(tmp_path / f"saved{suffix}")
    assert Instance.load(tmp_path / f"saved{suffix}") == instance


def test_plain_data_has_only_the_deadlines_that_there_are() -> None:
    plain = with_deadlines(lse.Deadlines(ttft_seconds=2.0), None).to_dict()
    assert plain["classes"][0]["deadlines"] == {"ttft_seconds": 2.0}
    assert "deadlines" not in plain["classes"][1]


def test_limits_of_classes() -> None:
    instance = with_deadlines(BOTH, None)
    assert instance.deadlines.tolist() == [[2.0, math.inf], [0.05, math.inf]]
    assert instance.has_deadlines
    assert not lse.presets.base().has_deadlines


def test_an_instance_file_gives_them_as_a_table(tmp_path: Path) -> None:
    text = """
        name = "chat"
        hardware = "h100-llama3-8b-b32"
        prices = { prefill = 0.1, decode = 0.2 }
        [[classes]]
        name = "chat"
        prompt_tokens = 300.0
        output_tokens = 400.0
        arrival_rate = 0.6
        patience_rate = 0.1
        deadlines = { ttft_seconds = 2.0, tpot_seconds = 0.05 }
    """
    path = tmp_path / "chat.toml"
    path.write_text("\n".join(line.strip() for line in text.splitlines()))
    assert Instance.load(path).classes[0].deadlines == BOTH


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "ttft_seconds, tpot_seconds or both"),
        ({"ttft_seconds": 0.0}, "deadlines ttft_seconds: got 0.0, expected a finite number > 0"),
        ({"tpot_seconds": -1}, "deadlines tpot_seconds: got -1, expected a finite number > 0"),
        ({"ttft_seconds": math.inf}, "deadlines ttft_seconds: got inf"),
        ({"ttft_seconds": "2"}, "deadlines ttft_seconds: got '2'"),
        ({"ttft_seconds": True}, "deadlines ttft_seconds: got True"),
        ({"ttft": 2.0}, "deadlines: unknown key"),
        (2.0, "a table with the keys ttft_seconds, tpot_seconds"),
    ],
)
def test_bad_deadlines_of_a_file_are_one_line(given: Any, message: str) -> None:
    data = with_deadlines(BOTH, None).to_dict()
    data["classes"][0]["deadlines"] = given
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_takes_deadlines_only() -> None:
    with pytest.raises(ConfigurationError, match="expected a Deadlines"):
        with_deadlines(2.0, None)  # type: ignore[arg-type]
