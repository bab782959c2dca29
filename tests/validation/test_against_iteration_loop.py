"""A loop over iterations replays the measured engine exactly, and a calibrated one predicts it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from iteration_loop import Content, IterationLoop

from llm_sched_env.calibration.log_calibration import calibrate_logs
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.validation.figures_of_run import LATENCIES, RunFigures
from llm_sched_env.validation.served_files import read_served_run
from llm_sched_env.validation.served_run import ABANDONED, COMPLETED, INSIDE, ServedRun
from llm_sched_env.validation.validate import validate
from llm_sched_env.workloads.locations import DATA_VARIABLE, data_folders

B32 = ("iterations_b32_light.csv", "iterations_b32_heavy.csv")
B64 = ("iterations_b64_heavy.csv",)
# Run, logs that its hardware is calibrated on, C, B.
RUNS = [("b32_light", B32, 512, 32), ("b32_heavy", B32, 512, 32), ("b64_heavy", B64, 1024, 64)]
REVENUE, MEAN, P99 = 0.01, 0.03, 0.07


def data(name: str) -> Path:
    for folder in data_folders():
        if (folder / "h100" / name).is_file():
            return folder / "h100" / name
    pytest.skip(f"h100/{name} is in none of the data folders; name one with {DATA_VARIABLE}")


def loop_of(run: ServedRun, slots: int, chunk: int, seconds, **options) -> IterationLoop:
    arrays = (run.arrival_time, run.prompt_tokens, run.output_tokens, run.patience_seconds)
    return IterationLoop(*arrays, slots, chunk, seconds, **options)


def predicted(run: ServedRun, hardware: Hardware) -> ServedRun:
    """What the loop says of a run on a hardware."""

    def seconds(_: int, content: Content) -> float:
        chunk, cached, decodes, kv_tokens = content
        assert hardware.solo is not None
        assert hardware.mixed is not None
        if chunk == 0:
            return hardware.solo.time(decodes, kv_tokens)
        counted = hardware.chunk_tokens if hardware.padded_chunks else chunk
        return hardware.mixed.time(counted, cached, decodes, kv_tokens)

    served = loop_of(run, hardware.batch_slots, hardware.chunk_tokens, seconds).run(run.last_event)
    done, left = ~np.isnan(served.completed), ~np.isnan(served.abandoned)
    return ServedRun(
        run.class_names,
        run.arrival_time,
        run.request_class,
        run.prompt_tokens,
        run.output_tokens,
        run.patience_seconds,
        np.where(done, COMPLETED, np.where(left, ABANDONED, INSIDE)),
        served.prefill_start,
        served.first_token,
        np.where(done, served.completed, served.abandoned),
    )


def figures(run: ServedRun, horizon: float) -> RunFigures:
    return RunFigures.of(run, horizon, 1, PAPER_PRICES)


def calibrated(logs: tuple[str, ...], chunk: int, slots: int) -> Hardware:
    paths = [data(name) for name in logs]
    return calibrate_logs(paths, chunk_tokens=chunk, batch_slots=slots).hardware


@pytest.mark.parametrize(("name", "logs", "chunk", "slots"), RUNS)
def test_the_measured_engine_is_the_loop_row_by_row(name, logs, chunk, slots):
    run = read_served_run(data(f"serve_{name}.csv"))
    log = np.genfromtxt(data(f"iterations_{name}.csv"), delimiter=",", names=True)
    served = loop_of(
        run,
        slots,
        chunk,
        lambda k, _: log["seconds"][k],
        start=lambda k, _: log["start_seconds"][k],
    ).run(iterations=len(log))
    columns = ("prefill_tokens", "prefill_context", "decodes", "kv_tokens")
    measured = np.column_stack([log[column] for column in columns])
    np.testing.assert_array_equal(np.array(served.iterations), measured)
    same = {"atol": 2e-4, "rtol": 0, "equal_nan": True}
    np.testing.assert_allclose(served.first_token, run.first_token, **same)
    done = run.outcome == COMPLETED
    np.testing.assert_allclose(served.completed, np.where(done, run.end, np.nan), **same)


@pytest.mark.parametrize(("name", "logs", "chunk", "slots"), RUNS)
def test_a_calibrated_loop_predicts_the_run(name, logs, chunk, slots):
    run = read_served_run(data(f"serve_{name}.csv"))
    hardware = calibrated(logs, chunk, slots)
    assert_close(run, predicted(run, hardware), name)


def assert_close(run: ServedRun, simulated: ServedRun, name: str) -> None:
    measured, found = (figures(each, run.last_event) for each in (run, simulated))
    assert found.revenue_rate == pytest.approx(measured.revenue_rate, rel=REVENUE)
    for latency in LATENCIES:
        expected, got = getattr(measured, latency), getattr(found, latency)
        assert got.mean == pytest.approx(expected.mean, rel=MEAN), latency
        # A few short answers beside prefills only make the last hundredth at B = 64.
        if (name, latency) != ("b64_heavy", "tpot"):
            assert got.p99 == pytest.approx(expected.p99, rel=P99), latency


def test_a_run_by_hand():
    """C 4, B 2; every mixed iteration takes 2 s, every other one 1 s.

    Request 0 comes at 0: chunks end at 2 and 4, its two tokens at 6 (beside the prefill of
    request 1, which came at 3 and started at 4) and 7. Request 2 leaves at 3.5. Request 3 comes at
    4.5, starts at 6 beside nobody: request 0 has a token to go, so it waits for a slot till 7.
    """
    seconds = lambda _, content: 2.0 if content.chunk else 1.0  # noqa: E731
    arrivals = np.array([0.0, 3.0, 3.2, 4.5])
    loop = IterationLoop(
        arrivals,
        np.array([8, 3, 4, 4]),
        np.array([2, 4, 1, 1]),
        np.array([9.0, 9.0, 0.3, 9.0]),
        2,
        4,
        seconds,
    )
    served = loop.run()
    np.testing.assert_array_equal(served.prefill_start, [0.0, 4.0, np.nan, 7.0])
    np.testing.assert_array_equal(served.first_token, [4.0, 6.0, np.nan, 9.0])
    np.testing.assert_array_equal(served.completed, [7.0, 11.0, np.nan, 10.0])
    np.testing.assert_array_equal(served.abandoned, [np.nan, np.nan, 3.5, np.nan])
    assert served.iterations[:3] == [Content(4, 0, 0, 0), Content(4, 4, 0, 0), Content(3, 0, 1, 9)]


@pytest.fixture(scope="module")
def kv_aware_engine() -> None:
    """Skip where the engine takes no account of decodes in an iteration's time."""
    hardware = Hardware.kv_aware(
        SoloIteration(1.0, per_decode=1.0), MixedIteration(1.0), 4, 2, starts="boundary"
    )
    one, zero = np.ones(1), np.zeros(1)
    run = ServedRun(
        ("only",),
        zero,
        zero.astype(int),
        4 * one,
        one,
        99 * one,
        zero.astype(int),
        zero,
        one,
        3 * one,
    )
    found = validate(run, hardware)
    if found.simulated_run.end[0] != 3.0:
        pytest.skip("this engine runs the two-speed law only")


@pytest.mark.usefixtures("kv_aware_engine")
@pytest.mark.parametrize(("name", "logs", "chunk", "slots"), RUNS)
def test_the_engine_is_the_loop(name, logs, chunk, slots):
    run = read_served_run(data(f"serve_{name}.csv"))
    hardware = calibrated(logs, chunk, slots)
    found, expected = validate(run, hardware).simulated_run, predicted(run, hardware)
    for times in ("first_token", "end"):
        np.testing.assert_allclose(
            getattr(found, times), getattr(expected, times), rtol=0, atol=1e-6, equal_nan=True
        )
    assert_close(run, found, name)
