"""Hardware presets: loadable wherever a file is, and what the measurements give."""

from __future__ import annotations

import json

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, FileError
from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.model.hardware_presets import HARDWARE_FOLDER, HARDWARE_PRESETS
from research.setups.hardware_presets import FITS


def test_every_preset_has_a_file_a_fit_and_a_source():
    assert {path.stem for path in HARDWARE_FOLDER.glob("*.toml")} == set(HARDWARE_PRESETS)
    assert set(FITS) == set(HARDWARE_PRESETS)
    for name, text in HARDWARE_PRESETS.items():
        file = HardwareFile.load(name)
        assert file.source is not None
        hardware = file.hardware
        assert f"B = {hardware.batch_slots}, C = {hardware.chunk_tokens}" in text
        assert file.source.note


def flat(table: dict, prefix: str = "") -> dict:
    """A nested table as one of paths."""
    found = {}
    for key, value in table.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        found |= inner
    return found


@pytest.mark.parametrize("name", FITS)
def test_a_preset_is_what_the_measurements_give(name):
    try:
        fitted = FITS[name]()
    except FileError as missing:
        pytest.skip(str(missing))
    kept = flat(HardwareFile.load(name).hardware.to_dict())
    expected = flat(fitted.hardware.to_dict())
    assert kept.keys() == expected.keys()
    for key, value in expected.items():
        assert kept[key] == (value if isinstance(value, (str, bool)) else pytest.approx(value))


def test_a_preset_is_hardware_by_name(tmp_path, run):
    hardware = lse.load_hardware("h100-llama3-8b-b32")
    table = lse.presets.base().to_dict() | {"hardware": "h100-llama3-8b-b32"}
    path = tmp_path / "chat.json"
    path.write_text(json.dumps(table))
    assert lse.Instance.load(path).hardware == hardware
    code, text, _ = run("instances", "--show", "base", "--hardware", "h100-llama3-8b-b32", "--json")
    assert code == 0
    assert lse.Instance.from_dict(json.loads(text)["base"]).hardware == hardware
    code, text, _ = run("instances")
    assert code == 0
    assert all(name in text for name in HARDWARE_PRESETS)


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(ConfigurationError, match="h100-llama3-8b-b64"):
        lse.load_hardware("h100-llama")


def test_the_chat_instance_stays_within_what_was_measured():
    instance = lse.presets.h100_chat()
    ranges = HardwareFile.load("h100-llama3-8b-b128").source.ranges
    assert instance.hardware.batch_slots == ranges.decodes[1]
    assert ranges.prefill_tokens[0] <= instance.hardware.chunk_tokens <= ranges.prefill_tokens[1]
    contexts = instance.prompt_tokens + instance.output_tokens / 2
    assert np.all(contexts <= ranges.kv_tokens[1] / ranges.decodes[1])
