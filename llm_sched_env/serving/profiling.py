"""Measure an engine: a grid of iterations and short loads, and the hardware that fits them."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llm_sched_env.calibration.iteration_log import LOG_HEADER, request_seconds
from llm_sched_env.calibration.log_calibration import LogCalibration, calibrate_logs
from llm_sched_env.calibration.log_figure import write_log_figure
from llm_sched_env.errors import checked_integer
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.files.atomic import make_folder, write_rows, write_whole
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.presets import base
from llm_sched_env.serving.decoder import Decoder
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.real_machine import Iteration, RealMachine
from llm_sched_env.serving.serve import PATIENT, require_device
from llm_sched_env.serving.served import ITERATION_HEADER, iteration_row
from llm_sched_env.serving.shapes import DecoderShape, decoder_shape
from llm_sched_env.simulation.machine import Sent
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.workloads.trace import Trace

_Law = TypeVar("_Law", SoloIteration, MixedIteration)

_CONTEXTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the longest request
_LOAD_SHARE = 0.5  # of the time
_LOADS = (1.0, 0.6)  # the first of more requests than can be served, then of what it served
_MANY = 2000  # requests of the first
_SHORT_PROMPT = 0.3  # of requests of the loads: shorter than a chunk


@dataclass(frozen=True, eq=False)
class Profile:
    """What was measured of an engine.

    Attributes:
        iterations: of the grid, then of the loads.
        calibration: the hardware that fits them.
        shape: of the decoder.
        device: in words.
        served: how many of the iterations, the last, are those of the loads.
    """

    iterations: list[Iteration]
    calibration: LogCalibration
    shape: DecoderShape
    device: str
    served: int

    @property
    def factors(self) -> tuple[float, float]:
        """Time of the solo and of the mixed iterations, over what the law says of them.

        Of the loads alone: the grid has none of the scheduler's work between its iterations. The
        fit leaves stragglers out; where others use the machine they are many, and a run has them.
        """
        log = self.calibration.log
        log = log.picked(np.arange(len(log)) >= len(log) - self.served)
        law = self.calibration.fit.seconds(log)
        solo, mixed = (float(log.seconds[m].sum() / law[m].sum()) for m in (~log.mixed, log.mixed))
        return solo, mixed

    def hardware_file(self) -> HardwareFile:
        """The fitted hardware and where it is from."""
        fitted = self.calibration.hardware_file(
            device=self.device, model=self.shape.name, engine="llm-sched-env serving"
        )
        hardware = fitted.hardware
        assert hardware.solo is not None
        assert hardware.mixed is not None
        solo, mixed = self.factors
        scaled = Hardware.kv_aware(
            _scaled(hardware.solo, solo),
            _scaled(hardware.mixed, mixed),
            hardware.chunk_tokens,
            hardware.batch_slots,
            kv_tokens=hardware.kv_tokens,
            starts="boundary",
            padded_chunks=hardware.padded_chunks,
        )
        return dataclasses.replace(fitted, hardware=scaled)


def _scaled(law: _Law, factor: float) -> _Law:
    values = {field.name: factor * getattr(law, field.name) for field in dataclasses.fields(law)}
    return dataclasses.replace(law, **values)


def profile(
    shape: str | Path | DecoderShape,
    device: str,
    folder: Path,
    *,
    batch_slots: int,
    chunk_tokens: int,
    tokens: int = 4096,
    seconds: float = 110.0,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Profile:
    """Measure, fit, and write log, hardware file, figure and page.

    They are ``grid.csv``, ``load_0.csv``, ``load_1.csv``, ``hardware.toml``, ``fit.png`` and
    ``profile.md``.

    First requests of random lengths are served first come, first served, with every slot taken and
    at a part of that load; then iterations of requests that all have one context, over numbers of
    decodes and contexts, with and without a prefill beside them.

    Args:
        shape: of the decoder.
        device: ``cpu`` or ``cuda``.
        folder: written into.
        batch_slots: B.
        chunk_tokens: C.
        tokens: longest request, prompt and output.
        seconds: to measure for, without the preparation.
        seed: of weights and lengths.
        progress: told the share of the time that is over.
    """
    checked_integer("batch_slots", batch_slots, least=2)
    checked_integer("chunk_tokens", chunk_tokens)
    checked_integer("tokens", tokens, least=64)
    require_device(device)
    make_folder(folder)
    given = decoder_shape(shape)
    engine = Engine(Decoder(given, device, seed=seed), batch_slots, chunk_tokens, tokens)
    rng = np.random.default_rng(seed)
    begun = time.perf_counter()

    def tell() -> None:
        progress(min(1.0, (time.perf_counter() - begun) / seconds))

    served, gap = _loads(engine, (batch_slots, chunk_tokens, tokens), rng, seconds, tell)
    bench = _Bench(engine, tokens, tell)
    bench.grid(batch_slots, chunk_tokens, seconds * (1 - _LOAD_SHARE))
    logs = [folder / "grid.csv", *(folder / f"load_{k}.csv" for k in range(len(served)))]
    # A grid has no host's work between its iterations; requests of a run wait for that, too.
    rows = ({**iteration_row(i), "seconds": i.seconds + gap} for i in bench.iterations)
    write_rows(logs[0], LOG_HEADER, ({name: row[name] for name in LOG_HEADER} for row in rows))
    for log, own in zip(logs[1:], served, strict=True):
        write_rows(log, ITERATION_HEADER, map(iteration_row, own))
    calibration = calibrate_logs(
        logs,
        chunk_tokens=chunk_tokens,
        batch_slots=batch_slots,
        padded_chunks=engine.pads_chunks,
    )
    measured = [*bench.iterations, *itertools.chain(*served)]
    found = Profile(measured, calibration, given, device_name(device), sum(map(len, served)))
    found.hardware_file().save(folder / "hardware.toml")
    write_log_figure(calibration, folder / "fit.png")
    write_whole(folder / "profile.md", profile_page(found))
    return found


def _loads(
    engine: Engine,
    sizes: tuple[int, int, int],
    rng: np.random.Generator,
    seconds: float,
    tell: Callable[[], None],
) -> tuple[list[list[Iteration]], float]:
    """Serve more than the engine can, then a part of it; iterations, and the host's gap between."""
    batch_slots, chunk_tokens, tokens = sizes
    given = base()
    hardware = dataclasses.replace(
        given.only_hardware, batch_slots=batch_slots, chunk_tokens=chunk_tokens, starts="boundary"
    )
    instance = dataclasses.replace(given, hardware=hardware)
    each = seconds * _LOAD_SHARE / len(_LOADS)
    served, gaps, rate = [], [], _MANY / each
    with RealMachine([engine]) as machine:
        for share in _LOADS:
            trace = _trace(rng, share * rate, each, chunk_tokens, tokens)
            result = evaluate(
                "fcfs-immediate",
                instance,
                1,
                trace=trace,
                horizon=each,
                replications=1,
                machine=machine,
            )
            machine.finish()
            tell()
            rate = result.requests["completed"] / each
            own = [i for i in machine.iterations[0] if np.isfinite(i.end)]
            served.append(own)
            goes_on = [i.content.decodes > 0 or i.content.prefill_context > 0 for i in own[1:]]
            starts, lasted = (np.array([getattr(i, n) for i in own]) for n in ("start", "seconds"))
            gaps.append(request_seconds(starts, lasted, np.array(goes_on))[1])
    return served, float(np.mean(gaps))


def _trace(
    rng: np.random.Generator, rate: float, seconds: float, chunk_tokens: int, tokens: int
) -> Trace:
    """Patient requests of random lengths; some prompts are shorter than a chunk."""
    count = max(2, int(rate * seconds))
    room = tokens // 2
    prompts = np.minimum(room, 1 + rng.exponential(1.5 * chunk_tokens, count).astype(int))
    short = rng.random(count) < _SHORT_PROMPT
    prompts[short] = 1 + rng.integers(min(chunk_tokens, room), size=int(short.sum()))
    outputs = np.minimum(room, 1 + rng.exponential(tokens / 16, count).astype(int))
    times = np.sort(rng.uniform(0.0, seconds, count))
    times[0] = 0.0
    return Trace(
        ("load",),
        times,
        np.zeros(count, np.int32),
        prompts.astype(float),
        outputs.astype(float),
        patience_seconds=np.full(count, PATIENT),
        end=seconds,
    )


class _Bench:
    """Runs an engine without a scheduler and notes every iteration."""

    def __init__(self, engine: Engine, tokens: int, tell: Callable[[], None]) -> None:
        self._engine, self._tokens, self._tell = engine, tokens, tell
        self.iterations: list[Iteration] = []
        self._origin = time.perf_counter()

    def grid(self, batch_slots: int, chunk_tokens: int, seconds: float) -> None:
        """Numbers of decodes by contexts, as often as there is time for."""
        end = self._now() + seconds
        counts = sorted({1, *(max(1, k * batch_slots // 8) for k in range(1, 9))})
        cells = list(itertools.product(counts, _CONTEXTS))
        np.random.default_rng(0).shuffle(cells)
        for decodes, share in itertools.cycle(cells):
            if self._now() >= end:
                return
            self._cell(int(decodes), max(2, int(share * self._tokens)), batch_slots, chunk_tokens)

    def _cell(self, decodes: int, context: int, batch_slots: int, chunk_tokens: int) -> None:
        """Some iterations of so many decodes of one context, then beside a prefill."""
        left = self._tokens - context
        steps = min(8, left)
        prompts = [context] * decodes
        beside = decodes < batch_slots
        if beside:
            prompts.append(min(3 * chunk_tokens + chunk_tokens // 2, self._tokens - 1))
        self._engine.begin(_stream(prompts, [left] * decodes + [1] * beside))
        # Contexts are what matters, not what is in them: no prefill is run to fill the cache.
        parked = {r: self._engine.blank(context) for r in range(decodes)}
        self._engine.join([Sent(r, is_prefill=False) for r in range(decodes)], parked)
        for _ in range(steps):
            self._iterate(())
        if beside:
            sent: tuple[Sent, ...] = (Sent(decodes, is_prefill=True),)
            self._engine.join(sent, {})
            while not self._iterate(sent)[0] and self._engine.load.prefill is not None:
                sent = ()

    def _iterate(self, sent: tuple[Sent, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        content = self._engine.content()
        start = self._now()
        prefilled, completed = self._engine.iterate()
        seconds = self._now() - start
        self.iterations.append(
            Iteration(start, seconds, content, sent, prefilled, completed, start + seconds)
        )
        self._tell()
        return prefilled, completed

    def _now(self) -> float:
        return time.perf_counter() - self._origin


def _stream(prompts: Any, outputs: Any) -> RequestStream:
    count = len(prompts)
    lengths = (np.array(prompts, float), np.array(outputs, float))
    return RequestStream(np.zeros(count), np.zeros(count, np.int32), *lengths)


def device_name(device: str) -> str:
    """What an engine ran on, in words."""
    import torch

    if device.startswith("cuda"):
        name: str = torch.cuda.get_device_name(device)
        return name
    return f"CPU, {torch.get_num_threads()} threads"


def profile_page(found: Profile) -> str:
    """What was measured, as a page in Markdown."""
    calibration = found.calibration
    hardware, (solo, mixed) = calibration.hardware, found.factors
    measured = (
        f"{len(found.iterations):,} iterations, C {hardware.chunk_tokens}, B "
        f"{hardware.batch_slots}, fitted by the {hardware.iteration_law} law: `hardware.toml`."
    )
    stragglers = (
        f"The hardware's iterations last {solo:.3f} (solo) and {mixed:.3f} (mixed) times that, "
        "so that the stragglers that the fit leaves out count, too."
    )
    lines = [
        f"# {found.shape.name} on {found.device}",
        "",
        measured,
        "",
        "| | coefficient | seconds |",
        "|---|---|---|",
        *_coefficient_rows(calibration),
        "",
        stragglers,
        "",
        *_error_lines(calibration),
        "![Measured iterations beside the law](fit.png)",
        "",
        *(f"- {note}" for note in calibration.notes()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _coefficient_rows(calibration: LogCalibration) -> Iterator[str]:
    for mode, fit in calibration.modes:
        for name, value in fit.coefficients.items():
            yield f"| {mode} | {name.replace('_', ' ')} | {value:.4g} |"


def _error_lines(calibration: LogCalibration) -> list[str]:
    held = calibration.held_out
    if held is None:
        return []
    rows = [
        f"| {mode} | {errors.all.rows} | {errors.all.mean:.1%} | {errors.all.p95:.1%} | "
        f"{errors.all.total:+.1%} |"
        for mode, errors in (("solo", held.solo), ("mixed", held.mixed))
        if errors is not None
    ]
    return [
        "Iterations that were held out of the fit, a third of each log:",
        "",
        "| | iterations | mean error | 95th percentile | time in all |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]
