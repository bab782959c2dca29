"""Iteration logs: known laws are found, what a log cannot tell is named, bad logs are one line."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from llm_sched_env.calibration.iteration_log import (
    LOG_HEADER,
    IterationLog,
    read_iteration_logs,
)
from llm_sched_env.calibration.kv_aware_fit import hardware_seconds
from llm_sched_env.calibration.log_calibration import calibrate_logs
from llm_sched_env.errors import CalibrationError, ConfigurationError
from llm_sched_env.model.hardware import Hardware, HardwareFile, load_hardware
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration

C, B = 512, 32
SOLO = SoloIteration(8e-3, 2e-5, 5e-8)
MIXED = MixedIteration(6e-3, 2e-5, 3e-5, 5e-8, 3e-9)
LAW = Hardware.kv_aware(SOLO, MIXED, C, B, starts="boundary")
PADDED = dataclasses.replace(LAW, padded_chunks=True)


def made(hardware: Hardware = LAW, rows: int = 3000, noise: float = 0.0, seed: int = 1):
    """A log of random iterations, every fourth with a prefill."""
    rng = np.random.default_rng(seed)
    mixed = rng.random(rows) < 0.25
    mixed[:2] = True, False
    decodes = np.where(mixed, rng.integers(0, B, rows), rng.integers(1, B + 1, rows)).astype(float)
    kv_tokens = np.floor(decodes * rng.uniform(100, 2000, rows))
    chunk = np.where(mixed, rng.choice([C, C, 64, 200, 350], rows), 0.0)
    cached = np.where(mixed, C * rng.integers(0, 4, rows), 0.0)
    held_out = np.arange(rows) >= rows - rows // 3
    log = IterationLog(np.ones(rows), chunk, cached, decodes, kv_tokens, held_out)
    seconds = hardware_seconds(hardware, log) * np.exp(noise * rng.standard_normal(rows))
    return dataclasses.replace(log, seconds=seconds)


def write(path: Path, log: IterationLog, **more: np.ndarray) -> Path:
    columns = {name: getattr(log, name) for name in LOG_HEADER} | more
    np.savetxt(
        path, np.column_stack(list(columns.values())), "%.12g", ",", header=",".join(columns),
        comments="",
    )  # fmt: skip
    return path


def coefficients(hardware: Hardware) -> np.ndarray:
    assert hardware.solo is not None
    assert hardware.mixed is not None
    return np.array([*dataclasses.astuple(hardware.solo), *dataclasses.astuple(hardware.mixed)])


def test_a_law_without_noise_is_found_exactly():
    found = calibrate_logs(made())
    np.testing.assert_allclose(coefficients(found.hardware), coefficients(LAW), rtol=1e-6)
    assert found.hardware.starts == "boundary"
    assert not found.padded_chunks
    assert (found.chunk_tokens, found.batch_slots) == (C, B)
    assert found.held_out is not None
    assert found.held_out.holds()
    assert found.held_out.mixed.all.p95 < 1e-6


def test_noise_and_stragglers_do_not_move_a_law_and_are_counted():
    log = made(rows=8000, noise=0.02)
    slow = np.random.default_rng(2).choice(len(log), 240, replace=False)
    seconds = log.seconds.copy()
    seconds[slow] *= 4.0
    found = calibrate_logs(dataclasses.replace(log, seconds=seconds))
    np.testing.assert_allclose(coefficients(found.hardware), coefficients(LAW), rtol=0.08)
    fitted = found.fit.seconds(log)
    assert np.abs(fitted / hardware_seconds(LAW, log) - 1).max() < 0.01
    counts = [fit.stragglers.count for fit in (found.fit.solo, found.fit.mixed)]
    assert sum(counts) == len(slow)
    excess = found.fit.solo.stragglers.excess_seconds + found.fit.mixed.stragglers.excess_seconds
    assert excess == pytest.approx((seconds - log.seconds).sum(), rel=0.02)
    assert sum("were left out" in note for note in found.notes()) == 2


def test_a_step_that_the_law_does_not_have_is_no_straggler():
    log = made(rows=6000, noise=0.01)
    seconds = np.where(log.decodes > 24, 1.3, 1.0) * log.seconds
    found = calibrate_logs(dataclasses.replace(log, seconds=seconds))
    assert found.fit.solo.stragglers.count < 0.01 * len(log)
    assert found.held_out is not None
    assert not found.held_out.holds()
    assert any(note.startswith("warning: fewer than 95%") for note in found.notes())


def test_noise_does_not_bias_the_total_time():
    log = made(rows=20000, noise=0.1)
    found = calibrate_logs(log)
    assert found.fit.seconds(log).sum() == pytest.approx(log.seconds.sum(), rel=0.003)


@pytest.mark.parametrize("law", [LAW, PADDED])
def test_padding_is_detected(law):
    found = calibrate_logs(made(law, noise=0.02))
    assert found.hardware.padded_chunks == law.padded_chunks
    assert any(note.startswith("padded_chunks") for note in found.notes())


def test_padding_can_be_said():
    assert not calibrate_logs(made(PADDED), padded_chunks=False).padded_chunks


def test_padded_chunks_leave_a_coefficient_that_is_named():
    found = calibrate_logs(made(PADDED, noise=0.01))
    assert found.hardware.mixed is not None
    assert found.hardware.mixed.per_prompt_token == 0.0
    assert "padded" in found.fit.mixed.unidentified["per_prompt_token"]
    # The constant has taken its part.
    log = made(PADDED)
    np.testing.assert_allclose(found.fit.seconds(log), log.seconds, rtol=0.01)


def test_without_short_chunks_padding_is_an_assumption_that_is_told():
    log = made()
    whole = log.picked((log.prefill_tokens == 0) | (log.prefill_tokens == C))
    found = calibrate_logs(whole)
    assert any("too few chunks shorter than C" in note for note in found.notes())
    assert found.fit.mixed.unidentified == {
        "per_prompt_token": "it was the same in every iteration"
    }
    assert any("mixed per_prompt_token 0" in note and "measure" in note for note in found.notes())


@pytest.mark.parametrize(
    ("changed", "mode", "column"),
    [
        (lambda log: {"decodes": np.full(len(log), 4.0)}, "solo", "per_decode"),
        (lambda log: {"kv_tokens": 500 * log.decodes}, "solo", "per_kv_token"),
        (lambda log: {"kv_tokens": 500 * log.decodes}, "mixed", "per_kv_token"),
    ],
)
def test_what_a_log_cannot_tell_is_zero_and_named(changed, mode, column):
    log = made()
    log = dataclasses.replace(log, **changed(log))
    log = dataclasses.replace(log, seconds=hardware_seconds(LAW, log))
    found = calibrate_logs(log)
    fit = getattr(found.fit, mode)
    assert column in fit.unidentified
    assert fit.coefficients[column] == 0.0
    assert any(note.startswith(f"{mode} {column} 0: the log cannot tell") for note in found.notes())
    np.testing.assert_allclose(found.fit.seconds(log), log.seconds, rtol=1e-6)


@pytest.mark.parametrize("keep", [0, 1])
def test_a_log_of_one_mode_is_an_error(keep):
    log = made()
    with pytest.raises(CalibrationError, match=r"none of .* iterations is with"):
        calibrate_logs(log.picked(log.mixed == bool(keep)))


def test_auto_takes_the_simplest_law_that_holds():
    two_speed = Hardware.kv_aware(SoloIteration(0.01), MixedIteration(0.02, 1e-5), C, B)
    assert calibrate_logs(made(two_speed), iteration_law="auto").hardware.iteration_law == (
        "two-speed"
    )
    assert calibrate_logs(made(), iteration_law="auto").hardware.iteration_law == "kv-aware"
    # Law (1): decodes and prompt tokens alike, from b0 on.
    affine = Hardware(0.006, 1e-4, 125.0, C, B, iteration_law="affine")
    found = calibrate_logs(made(affine), iteration_law="auto").hardware
    assert found.iteration_law == "affine"
    assert (found.alpha, found.beta, found.gamma) == pytest.approx((0.006, 1e-4, 125.0), rel=1e-3)


def test_limits_that_the_log_contradicts_are_refused():
    for name, value in (("chunk_tokens", 256), ("batch_slots", 8)):
        with pytest.raises(ConfigurationError, match=f"{name}.*at least"):
            calibrate_logs(made(), **{name: value})
    with pytest.raises(ConfigurationError, match="iteration_law"):
        calibrate_logs(made(), iteration_law="linear")


def test_gaps_between_busy_iterations_are_the_requests_time(tmp_path):
    log = made(rows=900)
    gap = 2e-4
    starts = np.concatenate(([0.0], np.cumsum(log.seconds + gap)[:-1]))
    idle = (log.decodes == 0) & (log.prefill_context == 0)  # nothing went on before these
    starts += np.cumsum(0.5 * idle)
    read = read_iteration_logs([write(tmp_path / "log.csv", log, start_seconds=starts)])
    assert idle[1:].any()
    np.testing.assert_allclose(read.seconds, log.seconds + gap, atol=1e-9)
    assert read.host_gap == pytest.approx(gap)


def test_several_files_are_one_sample_in_any_order_of_columns_plain_or_gzip(tmp_path):
    log = made(rows=600)
    first, second = log.picked(np.arange(600) < 300), log.picked(np.arange(600) >= 300)
    plain = write(tmp_path / "a.csv", first, remark=np.zeros(300))
    zipped = tmp_path / "b.csv.gz"
    zipped.write_bytes(gzip.compress(write(tmp_path / "b.csv", second).read_bytes()))
    read = read_iteration_logs([plain, zipped])
    assert read.files == ("a.csv", "b.csv.gz")
    np.testing.assert_allclose(read.seconds, log.seconds)
    np.testing.assert_array_equal(read.kv_tokens, log.kv_tokens)
    # Without starts there is no order of time: every third row is held out.
    assert read.held_out.sum() == 200


GOOD = "0.01,0,0,2,300"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("seconds,prefill_tokens,prefill_context,decodes\n0.1,0,0,1", 1, "'kv_tokens' is missing"),
        (f"{','.join(LOG_HEADER)},decodes\n{GOOD},1", 1, "'decodes' is more than once"),
        ("-0.01,0,0,2,300", 3, "seconds is '-0.01'"),
        ("0,0,0,2,300", 3, "seconds must be > 0"),
        ("nan,0,0,2,300", 3, "seconds is 'nan'"),
        ("0.01,x,0,2,300", 3, "prefill_tokens is 'x'"),
        ("0.01,0,0,2.5,300", 3, "decodes is '2.5'"),
        ("0.01,0,0,2", 3, "5 fields"),
        ("0.01,0,0,0,0", 3, "prefill_tokens > 0, decodes > 0"),
        ("0.01,0,64,2,300", 3, "prefill_context must be 0"),
        ("0.01,0,0,2,1", 3, "kv_tokens counts"),
        ("0.01,8,0,0,5", 3, "kv_tokens counts"),
        ("", 0, "no rows"),
    ],
)
def test_a_bad_log_is_one_line(text, line, message, tmp_path):
    header = ",".join(LOG_HEADER)
    path = tmp_path / "log.csv"
    if line == 1:
        path.write_text(f"{text}\n")
    else:
        path.write_text(f"{header}\n{GOOD if line else ''}\n{text}\n")
    with pytest.raises(CalibrationError) as failure:
        read_iteration_logs([path])
    told = str(failure.value)
    assert "\n" not in told
    assert str(path) in told
    assert message in told
    if line:
        assert f"line {line}" in told


def test_starts_that_go_back_are_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"start_seconds,{','.join(LOG_HEADER)}\n1,{GOOD}\n\n2,{GOOD}\n1.5,{GOOD}\n")
    with pytest.raises(CalibrationError, match=r"line 5.*start_seconds does not increase"):
        read_iteration_logs([path])


def test_the_command_writes_a_hardware_file(run, tmp_path):
    path = write(tmp_path / "log.csv", made(noise=0.01))
    out, plot = tmp_path / "gpu.toml", tmp_path / "gpu.png"
    arguments = ["--device", "gpu", "--model", "m", "--engine", "e", "--date", "2026-01-31"]
    code, text, notes = run(
        "calibrate", path, *arguments, "--batch-slots", 40, "--out", out, "--plot", plot, "--json"
    )
    assert code == 0, notes
    found = json.loads(text)
    assert found["hardware"]["iteration_law"] == "kv-aware"
    assert found["ranges"]["prefill_tokens"] == [64, C]
    assert plot.stat().st_size > 0
    file = HardwareFile.load(out)
    assert file.hardware == load_hardware(out)
    assert (file.hardware.batch_slots, file.hardware.chunk_tokens) == (40, C)
    assert (file.hardware.starts, file.hardware.padded_chunks) == ("boundary", False)
    source = file.source
    assert source is not None
    assert (source.device, source.model, source.engine) == ("gpu", "m", "e")
    assert source.ranges is not None
    assert source.ranges.decodes == (0, B)
    assert source.held_out is not None
    assert source.held_out.iterations == 1000
    assert abs(source.held_out.solo_total) < 0.01


def test_the_command_prints_errors_by_decodes(run, tmp_path):
    code, text, _ = run("calibrate", write(tmp_path / "log.csv", made()))
    assert code == 0
    for word in ("17 to 32 decodes", "solo per_kv_token", "seen: decodes 0 to 32"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", 2], "--layers"),
        (["--from", 2], "--from"),
        (["--weights", "equal"], "--weights"),
        (["--iteration-law", "cubic"], "iteration_law"),
    ],
)
def test_options_of_other_formats_are_refused(run, options, message, tmp_path):
    code, _, told = run("calibrate", write(tmp_path / "log.csv", made(rows=90)), *options)
    assert code == 2
    assert message in told
