"""A short profile of `tiny` on a CPU: its files are whole, and read by the commands after it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from llm_sched_env.calibration.iteration_log import read_iteration_logs
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.hardware import load_hardware
from llm_sched_env.serving.profiling import profile

SIZES = {"batch_slots": 4, "chunk_tokens": 32, "tokens": 256}


@pytest.mark.extended
def test_a_profile_fits_what_it_measured(tmp_path) -> None:
    shares: list[float] = []
    found = profile("tiny", "cpu", tmp_path, **SIZES, seconds=3.0, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] > 0.8
    assert {p.name for p in tmp_path.iterdir()} == {
        "grid.csv",
        "loads.csv",
        "hardware.toml",
        "fit.png",
        "profile.md",
    }
    log = read_iteration_logs([tmp_path / n for n in ("grid.csv", "loads.csv")])
    assert len(log) == len(found.grid) + len(found.loads)
    assert log.decodes.max() == 4
    assert log.prefill_tokens.max() == 32
    hardware = load_hardware(tmp_path / "hardware.toml")
    assert (hardware.batch_slots, hardware.chunk_tokens, hardware.starts) == (4, 32, "boundary")
    # What the hardware says of all served iterations is what they took, stragglers included.
    log = log.picked(np.arange(len(log)) >= len(found.grid))
    assert hardware.solo is not None
    assert hardware.mixed is not None
    solo, seconds = ~log.mixed, log.seconds
    said = hardware.solo.time(log.decodes[solo], log.kv_tokens[solo])
    assert np.sum(said) == pytest.approx(seconds[solo].sum(), rel=1e-3)


def test_what_cannot_be_measured_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="batch_slots"):
        profile("tiny", "cpu", tmp_path, **{**SIZES, "batch_slots": 1})
    with pytest.raises(ConfigurationError, match="tokens"):
        profile("tiny", "cpu", tmp_path, **{**SIZES, "tokens": 10})
