"""Hardware under the KV-aware law: made, read, written, and refused where it is inconsistent."""

from __future__ import annotations

import dataclasses
import doctest

import pytest

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model import hardware as hardware_module
from llm_sched_env.model.hardware import Hardware, HardwareFile, load_hardware
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration

SOLO = {"seconds": 8.04e-3, "per_decode": 8.69e-5, "per_kv_token": 1.36e-8}
MIXED = {"seconds": 1.66e-2, "per_decode": 1.64e-4}
TABLE = {
    "chunk_tokens": 512,
    "batch_slots": 32,
    "iteration_law": "kv-aware",
    "solo": SOLO,
    "mixed": MIXED,
    "starts": "boundary",
    "padded_chunks": True,
}


def test_the_example_of_the_docstring():
    assert doctest.testmod(hardware_module).failed == 0


def test_a_table_is_read_and_written_back():
    hardware = Hardware.from_dict(TABLE)
    assert hardware.solo == SoloIteration(8.04e-3, 8.69e-5, 1.36e-8)
    assert (hardware.alpha, hardware.beta, hardware.gamma) == (1.66e-2, 0.0, 1.0 / 8.04e-3)
    assert hardware.to_dict() == TABLE
    assert Hardware.from_dict(hardware.to_dict()) == hardware


@pytest.mark.parametrize("name", ["own.toml", "own.json"])
def test_a_hardware_file_keeps_the_law(tmp_path, name):
    hardware = Hardware.from_dict(TABLE)
    HardwareFile(hardware).save(tmp_path / name)
    assert load_hardware(tmp_path / name) == hardware


def test_seconds_of_an_iteration():
    solo, mixed = SoloIteration(1.0, 0.5, 0.25), MixedIteration(1.0, 0.5, 0.25, 0.125, 2.0)
    assert solo.time(decodes=2, kv_tokens=4) == 3.0
    assert mixed.time(prompt_tokens=2, cached_tokens=3, decodes=4, kv_tokens=8) == 20.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solo": None}, "solo"),
        ({"solo": {**SOLO, "seconds": 0.0}}, "solo seconds"),
        ({"mixed": {**MIXED, "per_decode": -1.0}}, "mixed per_decode"),
        ({"mixed": {**MIXED, "per_chunk": 1.0}}, "per_chunk"),
        ({"alpha": 0.01}, "alpha"),
        ({"starts": "sometimes"}, "immediate or boundary"),
        ({"padded_chunks": 1}, "padded_chunks"),
        ({"iteration_law": "kv"}, "alpha"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        Hardware.from_dict({**TABLE, **changes})


def test_a_missing_table_is_named():
    with pytest.raises(ConfigurationError, match=r"missing key 'mixed'"):
        Hardware.from_dict({key: TABLE[key] for key in TABLE if key != "mixed"})


def test_parameters_of_the_two_speeds_cannot_be_set_beside_the_law():
    hardware = Hardware.from_dict(TABLE)
    with pytest.raises(ConfigurationError, match="follows from solo and mixed"):
        dataclasses.replace(hardware, gamma=1.0)
    with pytest.raises(ConfigurationError, match="under the two-speed law"):
        Hardware(0.1, 0.0, 1.0, 256, 16, solo=SoloIteration(1.0))
