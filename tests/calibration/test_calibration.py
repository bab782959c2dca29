"""Calibration: known laws are found, intervals cover, files round-trip, bad input is one line."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.calibration.iteration_laws import fit_affine_law, fit_mixed_line
from llm_sched_env.calibration.iteration_times import (
    HEADER,
    IterationTimes,
    read_iteration_times,
)
from llm_sched_env.calibration.least_squares import Coefficient
from llm_sched_env.calibration.validity import validity
from llm_sched_env.errors import CalibrationError, ConfigurationError
from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.model.hardware_source import HardwareSource
from llm_sched_env.validation.served_files import SERVED_HEADER
from llm_sched_env.workloads.locations import DATA_VARIABLE, data_folders

C, A, B0 = 0.0105, 6.7e-5, 75.25
TRUTH = {"c": C, "a": A, "b0": B0, "gamma": 1 / C, "alpha": C - A * B0}
TOKENS = np.concatenate(([1.0, 2.0, 4.0], np.arange(8, 1024, 8), np.arange(1024, 4097, 32)))
PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
REAL_FILE = "linear_operator_iteration_times.csv"


def law(tokens: np.ndarray) -> np.ndarray:
    return C + A * np.maximum(0.0, tokens - B0)


def measured(seconds: np.ndarray, tokens: np.ndarray = TOKENS) -> IterationTimes:
    return IterationTimes("gpu", "model", tokens, seconds)


def noisy(rng: np.random.Generator, size: float, power: float, correlation: float) -> np.ndarray:
    """Times with errors that grow like a power of the time and hang together."""
    errors = rng.standard_normal(len(TOKENS))
    for k in range(1, len(errors)):
        errors[k] = correlation * errors[k - 1] + np.sqrt(1 - correlation**2) * errors[k]
    return law(TOKENS) + size * errors * law(TOKENS) ** power


def write(path: Path, rows: list[tuple[object, ...]], header: tuple[str, ...] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows(device: str = "gpu", model: str = "model", factor: float = 1.0) -> list[tuple]:
    times = factor * law(TOKENS)
    return [(device, model, int(b), t) for b, t in zip(TOKENS, times.tolist(), strict=True)]


@pytest.fixture
def real_file() -> Path:
    for folder in data_folders():
        if (folder / REAL_FILE).is_file():
            return folder / REAL_FILE
    pytest.skip(f"{REAL_FILE} is in none of the data folders; name one with {DATA_VARIABLE}")


@pytest.mark.parametrize("weights", ["relative", "equal"])
@pytest.mark.parametrize("knot", [B0, 72.0, 4.0, 1500.5])
def test_noiseless_times_give_the_law_back(weights, knot):
    times = measured(C + A * np.maximum(0.0, TOKENS - knot))
    fit = fit_affine_law(times, weights)
    truth = {**TRUTH, "b0": knot, "alpha": C - A * knot}
    for name, value in truth.items():
        found = getattr(fit, name)
        assert found.value == pytest.approx(value, rel=1e-9)
        assert found.ci95 == pytest.approx((value, value), rel=1e-7)
    assert validity(times, fit.seconds(TOKENS), 0.05).r_squared == pytest.approx(1.0)
    line = fit_mixed_line(times.between(2000, 4096))
    assert line.alpha.value == pytest.approx(truth["alpha"], rel=1e-9)
    assert line.beta.value == pytest.approx(A, rel=1e-9)


def test_the_line_is_ordinary_least_squares():
    seconds = noisy(np.random.default_rng(1), 0.03, 1.0, 0.5)
    line = fit_mixed_line(measured(seconds))
    assert [line.beta.value, line.alpha.value] == pytest.approx(np.polyfit(TOKENS, seconds, 1))


@pytest.mark.parametrize("weights", ["relative", "equal"])
def test_no_knot_of_a_grid_fits_better(weights):
    seconds = noisy(np.random.default_rng(2), 0.05, 1.0, 0.7)
    fit = fit_affine_law(measured(seconds), weights)
    root = np.ones(len(TOKENS)) if weights == "equal" else 1 / seconds
    own = np.sum((root * (seconds - fit.seconds(TOKENS))) ** 2)
    for knot in np.linspace(2.5, 4060, 1500):
        design = np.column_stack((np.ones(len(TOKENS)), np.maximum(0, TOKENS - knot)))
        best = np.linalg.lstsq(design * root[:, None], seconds * root, rcond=None)[0]
        assert own <= np.sum((root * (seconds - design @ best)) ** 2) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("size", "power", "correlation", "weights"),
    [(0.03, 1, 0, "relative"), (0.04, 1, 0.6, "relative"), (0.0003, 0, 0, "equal")],
)
def test_intervals_cover_the_truth(size, power, correlation, weights):
    """95% nominal; of 80 samples 85% is four standard errors of a binomial below."""
    samples, hits = 80, dict.fromkeys([*TRUTH, "line alpha", "line beta"], 0)
    for seed in range(samples):
        rng = np.random.default_rng(seed)
        times = measured(noisy(rng, size, power, correlation))
        fit, line = fit_affine_law(times, weights), fit_mixed_line(times.between(256, 4096))
        found = {name: (getattr(fit, name), value) for name, value in TRUTH.items()}
        found |= {"line alpha": (line.alpha, TRUTH["alpha"]), "line beta": (line.beta, A)}
        for name, (estimate, value) in found.items():
            hits[name] += covers(estimate, value)
    assert min(hits.values()) >= 0.85 * samples, hits


def covers(estimate: Coefficient, value: float) -> bool:
    return estimate.ci95[0] <= value <= estimate.ci95[1]


def test_correlated_residuals_widen_the_intervals():
    widths = []
    for correlation in (0.0, 0.8):
        times = measured(noisy(np.random.default_rng(3), 0.03, 1.0, correlation))
        low, high = fit_mixed_line(times).beta.ci95
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_validity_is_the_widest_range_without_an_iteration_outside():
    tokens = np.array([1.0, 2, 3, 3, 4, 8, 9])
    factor = np.array([1, 1.04, 1, 1.2, 0.97, 1.02, 0.9])
    times = measured(tokens, tokens)
    found = validity(times, tokens * factor, 0.05)
    assert found.valid_tokens == (4, 8)
    assert found.share_within == pytest.approx(5 / 7)
    assert (found.worst, found.worst_tokens) == (pytest.approx(0.2), 3)
    assert found.covers(4)
    assert not found.covers(3)
    nowhere = validity(times, 2 * tokens, 0.05)
    assert nowhere.valid_tokens is None
    assert not nowhere.covers(4)


def test_measured_times_are_interpolated_means():
    times = measured(np.array([1.0, 2.0, 4.0, 9.0]), np.array([1.0, 3.0, 3.0, 5.0]))
    assert times.measured(3) == pytest.approx(3.0)
    assert times.measured(2) == pytest.approx(2.0)
    assert times.measured(5.5) is None


def test_hardware_of_both_laws():
    fit = lse.calibrate(measured(law(TOKENS)), chunk_tokens=512)
    two_speed, affine = fit.hardware(16), fit.hardware(8, "affine")
    assert (two_speed.alpha, two_speed.beta) == pytest.approx((TRUTH["alpha"], A))
    assert two_speed.gamma == affine.gamma == pytest.approx(1 / C)
    assert affine.flat_tokens == pytest.approx(B0)
    assert affine.tau_mixed == pytest.approx(law(np.array(512.0)))
    assert (affine.batch_slots, affine.chunk_tokens) == (8, 512)
    assert fit.notes(16) == []
    assert fit.line.times.tokens[0] == 512


def test_notes_warn_of_the_chunk_and_of_a_flat_part_that_is_not_that_of_decodes():
    seconds = law(TOKENS)
    seconds[TOKENS == 256] *= 1.2
    first, *_ = lse.calibrate(measured(seconds)).notes(16)
    assert "a chunk of 256 tokens lies outside" in first
    high = TOKENS >= 128
    late = lse.calibrate(measured(law(TOKENS)[high], TOKENS[high]))
    assert "iterations of 128 tokens and more" in late.notes(16)[-1]
    assert lse.calibrate(measured(law(TOKENS))).notes(75) == []
    assert "from b0 = 75.2 tokens on" in lse.calibrate(measured(law(TOKENS))).notes(76)[-1]
    beyond = lse.calibrate(measured(law(TOKENS)), chunk_tokens=5000, tokens_from=256)
    assert "nothing measured" in beyond.notes(16)[0]


def test_columns_in_any_order_more_of_them_and_gzip(tmp_path):
    plain = read_iteration_times(write(tmp_path / "plain.csv", rows()))
    mixed = [(t, "x", b, m, d) for d, m, b, t in reversed(rows())]
    header = ("seconds", "note", "tokens_in_iteration", "model", "device")
    text = write(tmp_path / "mixed.csv", mixed, header).read_bytes()
    (tmp_path / "mixed.csv.gz").write_bytes(gzip.compress(text + b"\n\n"))
    again = read_iteration_times(tmp_path / "mixed.csv.gz")
    assert (again.device, again.model, again.file) == ("gpu", "model", "mixed.csv.gz")
    np.testing.assert_array_equal(again.tokens, plain.tokens)
    np.testing.assert_array_equal(again.seconds, plain.seconds)


def test_device_and_model_are_chosen(tmp_path):
    path = write(tmp_path / "t.csv", [*rows("a", "x"), *rows("a", "y", 2.0), *rows("b", "x", 3.0)])
    assert read_iteration_times(path, "b").seconds[0] == pytest.approx(3 * C)
    assert read_iteration_times(path, model="y").seconds[0] == pytest.approx(2 * C)
    for choice, message in (
        ({}, "3 pairs of device and model"),
        ({"device": "a"}, "--device a --model x; --device a --model y"),
        ({"device": "c"}, "no device 'c' with any model"),
        ({"device": "b", "model": "y"}, "no device 'b' with model 'y'"),
    ):
        with pytest.raises(CalibrationError, match=re.escape(message)):
            read_iteration_times(path, **choice)


SOURCE = HardwareSource("a100", "m", "vllm", "2026-01-31", "t.csv", (256.0, 4096.0), 0.998, "0.1.0")
HARDWARE = lse.Hardware(0.0058, 6.7e-5, 95.0, 256, 16, iteration_law="affine", kv_tokens=60000)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_hardware_files_round_trip(tmp_path, suffix):
    path = tmp_path / f"a100{suffix}"
    for file in (HardwareFile(HARDWARE, SOURCE), HardwareFile(HARDWARE)):
        file.save(path)
        assert HardwareFile.load(path) == file
        assert lse.load_hardware(path) == HARDWARE


def test_an_instance_file_names_a_hardware_file_beside_it(tmp_path):
    HardwareFile(HARDWARE, SOURCE).save(tmp_path / "a100.toml")
    plain = {**lse.presets.base().to_dict(), "hardware": "a100.toml"}
    (tmp_path / "mine.json").write_text(json.dumps(plain))
    instance = lse.Instance.load(tmp_path / "mine.json")
    assert instance.hardware == HARDWARE
    assert lse.Instance.from_dict(instance.to_dict()) == instance
    assert lse.Instance.from_dict(plain, folder=tmp_path) == instance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": {"alpa": 1}}, "unknown key: got 'alpa', expected alpha"),
        ({"source": {"gpu": "x"}}, "unknown key: got 'gpu', expected device"),
        ({"sources": {}}, "unknown key: got 'sources', expected hardware, source"),
        ({"hardware": None}, "a table with the keys alpha"),
        ({"source": {"date": "2026-02-30"}}, "a day as a text"),
        ({"source": {"date": 20260131}}, "a day as a text"),
        ({"source": {"engine": " "}}, "hardware source engine"),
        ({"source": {"tokens": [4096, 256]}}, "[fewest, most]"),
        ({"source": {"r_squared": 1.5}}, "r_squared"),
        ({"hardware": {"gamma": 0}}, "hardware gamma"),
    ],
)
def test_bad_hardware_files_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "a100.json"
    HardwareFile(HARDWARE, SOURCE).save(path)
    data = json.loads(path.read_text())
    for key, value in change.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        lse.load_hardware(path)


def test_a_missing_key_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "a.toml").write_text("[source]\n")
    with pytest.raises(ConfigurationError, match="missing key 'hardware'"):
        lse.load_hardware(tmp_path / "a.toml")
    with pytest.raises(ConfigurationError, match=r"hardware file: got .*none\.toml"):
        lse.load_hardware(tmp_path / "none.toml")
    with pytest.raises(
        ConfigurationError, match=re.escape("a file name that ends in .json or .toml")
    ):
        lse.load_hardware(write(tmp_path / "a.csv", []))


def test_command_writes_the_hardware_and_prints_one_object(run, tmp_path):
    path = write(tmp_path / "t.csv", rows())
    out = tmp_path / "gpu.toml"
    shared = ["calibrate", path, "--engine", "vllm", "--date", "2026-01-31", "--out", out]
    code, text, err = run(*shared, "--json")
    assert code == 0
    data = json.loads(text)
    assert data["hardware"]["gamma"] == pytest.approx(1 / C)
    assert data["line"]["beta"]["value"] == pytest.approx(A)
    assert data["affine"]["b0"]["value"] == pytest.approx(B0)
    assert data["source"]["date"] == "2026-01-31"
    assert str(out) in err
    first = out.read_bytes()
    file = HardwareFile.load(out)
    assert dataclasses.asdict(file.hardware) == data["hardware"]
    assert file.source == HardwareSource(
        "gpu", "model", "vllm", "2026-01-31", "t.csv", (256, 4096), 1.0, lse.__version__, 193
    )
    code, text, _ = run(*shared)
    assert code == 0
    assert out.read_bytes() == first
    assert "R^2 1.00000 over 256 to 4096 tokens" in " ".join(text.split())


def test_figures(run, tmp_path):
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "t.csv", rows())
    plot = tmp_path / "fit.svg"
    assert run("calibrate", path, "--plot", plot)[0] == 0
    assert plot.read_text().startswith("<?xml")


OPERATORS = (
    *("emb", "input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj"),
    *("post_attention_layernorm", "mlp_up_proj", "mlp_act", "mlp_down_proj", "add"),
)
# Medians of Meta-Llama-3-8B on one A100, ms, for 1 and 8 tokens.
PROFILED = {
    1: (0.003, 0.005, 0.033, 0.004, 0.025, 0.005, 0.142, 0.011, 0.076, 0.002),
    8: (0.008, 0.004, 0.034, 0.004, 0.025, 0.004, 0.149, 0.012, 0.078, 0.002),
}


def profile(
    path: Path, table: dict[int, tuple[float, ...]], operators: tuple[str, ...] = OPERATORS
) -> Path:
    """A profile as Vidur writes it: means that nobody reads, and rows of two GPUs."""
    header = [f"time_stats.{name}.{kind}" for name in operators for kind in ("mean", "median")]
    lines = [
        [*(x for t in times for x in (9.0, t / workers)), 4096, tokens, workers]
        for workers in (1, 2)
        for tokens, times in table.items()
    ]
    columns = (*header, "n_embd", "num_tokens", "num_tensor_parallel_workers")
    return write(path, [tuple(line) for line in lines], columns)


NAMED = {"device": "a100", "model": "Meta-Llama-3-8B", "layers": 32}


def test_a_profile_of_operators_is_an_iteration_of_all_layers(tmp_path, real_file):
    times = read_iteration_times(profile(tmp_path / "mlp.csv", PROFILED), **NAMED)
    assert (times.device, times.model, times.file) == ("a100", "Meta-Llama-3-8B", "mlp.csv")
    assert times.tokens.tolist() == [1, 8]
    summed = read_iteration_times(real_file, "a100", "Meta-Llama-3-8B")
    expected = [summed.seconds[summed.tokens == tokens][0] for tokens in (1, 8)]
    assert times.seconds == pytest.approx(expected, abs=5e-7)  # whole microseconds there


def test_a_profile_of_a_law_gives_the_law_back(run, tmp_path):
    """Each operator has its share of the iteration; the embedding is not in the layers."""
    shares = np.array([32.0, 1, 2, 1, 2, 1, 8, 1, 5, 1])
    runs = np.array([1, *[32] * 8, 64])
    table = {
        int(b): tuple(1e3 * t * shares / (shares @ runs))
        for b, t in zip(TOKENS, law(TOKENS), strict=True)
    }
    path = profile(tmp_path / "mlp.csv", table)
    fit = lse.calibrate(path, **NAMED)
    assert fit.affine.c.value == pytest.approx(C)
    assert fit.affine.b0.value == pytest.approx(B0)
    assert "attention" in fit.notes(16)[0]
    short = [name for name in OPERATORS if name != "post_attention_layernorm"]
    assert read_iteration_times(
        profile(tmp_path / "one_norm.csv", {1: (1.0,) * 9}, tuple(short)), **NAMED
    ).seconds == pytest.approx([0.289])  # 9 additions and operators in 32 layers, an embedding
    options = ["--device", "a100", "--model", "llama", "--layers", "32"]
    code, _, err = run("calibrate", path, *options)
    assert code == 0
    assert "a profile of linear operators: attention" in err
    for missing, message in (
        (options[2:], "--device and --model"),
        (options[:2], "--device and --model"),
        (options[:4], "give --layers"),
        ([*options[:5], "0"], "an integer >= 1"),
    ):
        refused(*run("calibrate", path, *missing), message)
    whole = write(tmp_path / "t.csv", rows())
    refused(*run("calibrate", whole, "--layers", "32"), "layers: got 32, expected none for")


def test_other_profiles_are_one_line(tmp_path):
    attention = ("attn_input_reshape", "attn_prefill", "attn_decode")
    for name, table, operators, message in (
        ("attention.csv", {1: (1, 1, 1)}, attention, "(mlp.csv)"),
        ("more.csv", {1: (1,) * 11}, (*OPERATORS, "lm_head"), "a profile with lm_head"),
        ("twice.csv", {1: (1,) * 11}, (*OPERATORS, "add"), "the operator 'add' twice"),
        ("zero.csv", {1: (1,) * 10, 0: (1,) * 10}, OPERATORS, "line 3: got "),
        ("empty.csv", {}, OPERATORS, "no row after the header"),
    ):
        with pytest.raises(CalibrationError, match=re.escape(message)) as caught:
            read_iteration_times(profile(tmp_path / name, table, operators), **NAMED)
        assert "\n" not in str(caught.value)
    path = profile(tmp_path / "mlp.csv", PROFILED)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[3:]]) + "\n")
    with pytest.raises(CalibrationError, match="only rows of several GPUs"):
        read_iteration_times(path, **NAMED)
    path.write_text("\n".join([lines[0], "", lines[1], lines[2].replace("0.008", "fast")]))
    with pytest.raises(CalibrationError, match=r"line 4: .*time_stats.emb.median is 'fast'"):
        read_iteration_times(path, **NAMED)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_byte_order_marks_are_read_and_utf_16_is_refused(tmp_path, suffix):
    hardware, instance = tmp_path / f"gpu{suffix}", tmp_path / f"mine{suffix}"
    HardwareFile(HARDWARE, SOURCE).save(hardware)
    lse.presets.base().save(instance)
    for path, load, expected in (
        (hardware, HardwareFile.load, HardwareFile(HARDWARE, SOURCE)),
        (instance, lse.Instance.load, lse.Instance.load(instance)),
    ):
        text = path.read_text(encoding="utf-8")
        path.write_text(text, encoding="utf-8-sig")
        assert load(path) == expected
        path.write_text(text, encoding="utf-16")
        with pytest.raises(ConfigurationError, match="it is in UTF-16: convert it") as caught:
            load(path)
        assert "\n" not in str(caught.value)
    times = write(tmp_path / "t.csv", rows())
    text = times.read_text()
    times.write_text(text, encoding="utf-8-sig")
    assert len(read_iteration_times(times)) == len(TOKENS)
    times.write_text(text, encoding="utf-16")
    with pytest.raises(CalibrationError, match="text in UTF-16, expected UTF-8"):
        read_iteration_times(times)


BAD_FILES = {
    "header": ("device,model,tokens,seconds\n", "line 1: got 'device,model,tokens,seconds'"),
    "twice": ("device,model,seconds,seconds,tokens_in_iteration\n", "line 1"),
    "empty": ("", "an empty file"),
    "no rows": (",".join(HEADER) + "\n\n", "no row after the header"),
    "text": (",".join(HEADER) + "\na,m,1,.1\n\na,m,two,.1\n", "line 4: got 'a,m,two,.1'"),
    "zero": (",".join(HEADER) + "\na,m,0,.1\n", "line 2"),
    "no time": (",".join(HEADER) + "\na,m,1,0\n", "line 2"),
    "negative": (",".join(HEADER) + "\na,m,1,-2\n", "line 2"),
    "nan": (",".join(HEADER) + "\na,m,1,nan\n", "line 2"),
    "fields": (",".join(HEADER) + "\na,m,1\n", "line 2"),
    "no device": (",".join(HEADER) + "\n,m,1,1\n", "line 2"),
    "few": (",".join(HEADER) + "\na,m,300,1\na,m,400,2\n", "at least 8 rows"),
    "one count": (",".join(HEADER) + "\n" + "a,m,300,1\n" * 9, "of 2 counts"),
    "flat": (",".join(HEADER) + "\n" + "".join(f"a,m,{k},1\n" for k in range(256, 290)), "grow"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line(run, tmp_path, name):
    text, message = BAD_FILES[name]
    path = tmp_path / "t.csv"
    path.write_text(text)
    code, out, err = run("calibrate", path, "--out", tmp_path / "gpu.toml")
    refused(code, out, err, message)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from", "5000"], "none of 5000 to 4096 tokens"),
        (["--from", "4090"], "at least 8 rows"),
        (["--to", "200"], "none of 256 to 200 tokens"),
        (["--device", "h100"], "--device gpu --model model"),
        (["--chunk-tokens", "0"], "chunk_tokens"),
        (["--batch-slots", "1"], "batch_slots"),
        (["--iteration-law", "cubic"], "two-speed or affine"),
        (["--weights", "none"], "relative or equal"),
        (["--tolerance", "0"], "a share in (0, 1)"),
        (["--date", "yesterday"], "a day as a text"),
        (["--engine", ""], "hardware source engine"),
        (["--out", "gpu.yaml"], "a file name that ends in .json or .toml"),
        (["--out", "none/gpu.toml"], "cannot be written"),
        (["--plot", "fit.bmp"], "a name in .png"),
        (["--plot", "none/fit.png"], "a folder that exists"),
    ],
)
def test_bad_options_are_one_line(run, tmp_path, monkeypatch, options, message):
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "t.csv", rows())
    refused(*run("calibrate", path, *options), message)
    assert list(tmp_path.iterdir()) == [path]


def test_fits_that_make_no_hardware_are_one_line(run, tmp_path):
    """Times that start late on a steep line have a negative alpha."""
    steep = [("g", "m", int(b), max(0.001, 1e-4 * (b - 100))) for b in TOKENS]
    refused(*run("calibrate", write(tmp_path / "t.csv", steep)), "hardware alpha: got -0.01")
    code, out, err = run("calibrate", tmp_path / "t.csv", "--from", "1")
    refused(code, out, err, "a fit of -")
    refused(*run("calibrate", tmp_path / "none.csv"), "no readable file")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 999)[:20])
    refused(*run("calibrate", tmp_path / "cut.gz"), "iteration times")


def refused(code: int, out: str, err: str, message: str) -> None:
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("llmsched: ")
    assert message in err


def test_arrays_that_are_no_measurements_are_refused():
    for tokens, seconds in (([1, 2], [1]), ([], []), ([1], [0]), ([0], [1]), ([1], [np.inf])):
        with pytest.raises(CalibrationError, match="expected as many"):
            IterationTimes("g", "m", np.array(tokens), np.array(seconds))


def test_the_real_file(real_file):
    fit = lse.calibrate(real_file, device="a100", model="Meta-Llama-3-8B")
    assert fit.line_validity.tokens == (256, 4096)
    assert fit.line.alpha.value == pytest.approx(0.00585, abs=1e-5)
    assert fit.line.beta.value == pytest.approx(6.747e-5, abs=1e-8)
    assert fit.line_validity.r_squared == pytest.approx(0.9978, abs=1e-4)
    assert 48 < fit.affine.b0.value < 103
    assert covers(fit.affine.c, float(fit.times.seconds[fit.times.tokens <= 64].mean()))
    assert fit.chunk.measured == pytest.approx(0.019631)
    assert "a chunk of 256 tokens" in fit.notes(16)[0]
    assert fit.hardware(16, "affine").iteration_law == "affine"


def test_the_table_of_the_page_is_what_comes_out(real_file):
    table = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| [AH]\d+, ", line)]
    assert len(table) == 4
    for cells in table:
        device, model = cells[1].strip().split(", ")
        name = {"Llama-2-7b": "Llama-2-7b-hf"}.get(model, model)
        fit = lse.calibrate(real_file, device=device.lower(), model=name)
        chunk = fit.chunk
        expected = [
            *rounded(cells[2], fit.line.alpha, 1e3),
            *rounded(cells[3], fit.line.beta, 1e6),
            (cells[4], fit.line_validity.r_squared),
            *rounded(cells[5], fit.affine.b0, 1),
            *rounded(cells[6], fit.affine.gamma, 1),
            *zip(cells[7].split("-"), fit.line_validity.valid_tokens, strict=True),
            *zip(cells[8].split(","), (1e3 * chunk.measured, 1e3 * chunk.line), strict=True),
        ]
        for shown, value in expected:
            decimals = len(shown.strip().partition(".")[2])
            assert float(shown) == pytest.approx(value, abs=0.51 * 10**-decimals)


def rounded(cell: str, found: Coefficient, factor: float) -> list[tuple[str, float]]:
    """The three numbers of a cell beside those found."""
    shown = re.findall(r"[\d.]+", cell)
    return list(zip(shown, factor * np.array([found.value, *found.ci95]), strict=True))


def write_log_and_run() -> None:
    """The files that the page's commands for logs name, small."""
    header = (
        "start_seconds",
        "seconds",
        "prefill_tokens",
        "prefill_context",
        "decodes",
        "kv_tokens",
    )
    rng = np.random.default_rng(6)
    for name in ("light", "heavy"):
        start, lines = 0.0, []
        for k in range(90):
            chunk, decodes = (0, 256, 0, 512)[k % 4], int(rng.integers(1, 32))
            tokens = decodes * int(rng.integers(100, 900))
            seconds = 8e-3 + 2e-5 * chunk + 1e-4 * decodes + 2e-8 * tokens
            lines.append((start, seconds, chunk, 0, decodes, tokens))
            start += seconds
        write(Path(f"{name}.csv"), lines, header)
    requests = [
        (k, 0.1 * k, "chat", 300, 20, 9.0, "completed", 0.1 * k, 0.1 * k + 0.02, 0.1 * k + 0.5)
        for k in range(30)
    ]
    write(Path("requests.csv"), requests, SERVED_HEADER)


def test_the_page_runs(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    write(Path(REAL_FILE), [*rows("a100", "Meta-Llama-3-8B"), *rows("h100", "Llama-2-7b-hf")])
    times = law(TOKENS)
    profile(Path("mlp.csv"), {int(b): (t,) * 10 for b, t in zip(TOKENS, times, strict=True)})
    rng = np.random.default_rng(5)
    for name in ("conv", "code"):
        stamped = [
            (f"2023-11-16 18:{15 + k // 60:02}:{k % 60:02}", 300 + k, 1 + int(rng.exponential(90)))
            for k in range(200)
        ]
        header = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
        write(Path(f"AzureLLMInferenceTrace_{name}.csv"), stamped, header)
    write_log_and_run()
    commands = re.findall(r"^llmsched .*$", PAGE, re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        assert run(*shlex.split(command)[1:])[0] == 0, command
    Path("chat.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
    assert lse.Instance.load("chat.toml").hardware == lse.load_hardware("a100.toml")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/calibration.md", "exec"), names)
    assert {c.output_lengths.kind for c in names["instance"].classes} <= {"gamma", "exponential"}
