"""Measure an engine: a grid of iterations and short loads, and the hardware that fits them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from llm_sched_env.calibration.iteration_log import LOG_HEADER, IterationLog
from llm_sched_env.calibration.log_calibration import LogCalibration, calibrate_logs
from llm_sched_env.calibration.log_figure import write_log_figure
from llm_sched_env.errors import checked_integer
from llm_sched_env.files.atomic import make_folder, write_rows, write_whole
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.serving.clocks import clock_of
from llm_sched_env.serving.decoder import Decoder
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.engine_settings import require_device
from llm_sched_env.serving.profile_grid import Grid
from llm_sched_env.serving.profile_loads import Loads
from llm_sched_env.serving.profile_page import profile_page
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.serving.served import ITERATION_HEADER, iteration_row, processor_share
from llm_sched_env.serving.shapes import DecoderShape, decoder_shape

_Law = TypeVar("_Law", SoloIteration, MixedIteration)

_ROUNDS = 3
_PILOT_SHARE, _LOAD_SHARE = 0.05, 0.55  # of the time; the rest is the grid's
_LOADS = (1.3, 0.6, 0.3)  # rates over that which can be served


@dataclass(frozen=True, eq=False)
class Profile:
    """What was measured of an engine.

    Attributes:
        grid: iterations of the grid.
        loads: iterations of the loads.
        calibration: what fits both.
        shape: of the decoder.
        device: in words.
    """

    grid: Sequence[Iteration]
    loads: Sequence[Iteration]
    calibration: LogCalibration
    shape: DecoderShape
    device: str

    @property
    def factors(self) -> tuple[float, float]:
        """Those of the loads alone: the grid has none of the scheduler's work in between.

        The fit leaves stragglers out; where others use the machine they are many, and a run has
        them.
        """
        log = self.calibration.log
        return self.factors_of(log.picked(np.arange(len(log)) >= len(self.grid)))

    def factors_of(self, log: IterationLog) -> tuple[float, float]:
        """Time of the solo and of the mixed iterations, over what the law says of them."""
        law = self.calibration.fit.seconds(log)
        solo, mixed = (float(log.seconds[m].sum() / law[m].sum()) for m in (~log.mixed, log.mixed))
        return solo, mixed

    def hardware_file(self, factors: tuple[float, float] | None = None) -> HardwareFile:
        """The fitted hardware, with its law times the factors (default those of the loads)."""
        fitted = self.calibration.hardware_file(
            device=self.device, model=self.shape.name, engine="llm-sched-env serving"
        )
        hardware = fitted.hardware
        assert hardware.solo is not None
        assert hardware.mixed is not None
        solo, mixed = self.factors if factors is None else factors
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
    clock: str = "wall",
    progress: Callable[[float], None] = lambda _: None,
) -> Profile:
    """Measure, fit, and write logs, hardware file, figure and page.

    They are ``grid.csv``, ``loads.csv``, ``hardware.toml``, ``fit.png`` and ``profile.md``.

    In turns, so that what else the machine does meets both: requests of random lengths are served
    first come, first served, with every slot taken and at parts of that load; and iterations
    of requests that all have one context are run, over numbers of decodes and contexts, with and
    without a prefill beside them.

    Args:
        shape: of the decoder.
        device: ``cpu`` or ``cuda``.
        folder: written into.
        batch_slots: B.
        chunk_tokens: C.
        tokens: longest request, prompt and output.
        seconds: to measure for, without the preparation.
        seed: of weights and lengths.
        clock: ``wall``, or ``processor`` for a CPU that others use.
        progress: told the share of the time that is over.
    """
    checked_integer("batch_slots", batch_slots, least=2)
    checked_integer("chunk_tokens", chunk_tokens)
    checked_integer("tokens", tokens, least=64)
    require_device(device)
    measuring = clock_of(clock, device)
    make_folder(folder)
    given = decoder_shape(shape)
    engine = Engine(Decoder(given, device, seed=seed), batch_slots, chunk_tokens, tokens)
    begun = time.perf_counter()

    def tell() -> None:
        progress(min(1.0, (time.perf_counter() - begun) / seconds))

    sizes = (batch_slots, chunk_tokens, tokens)
    loads = Loads(engine, *sizes, np.random.default_rng(seed), measuring)
    grid = Grid(engine, *sizes, measuring, tell)
    loads.find_capacity(seconds * _PILOT_SHARE)
    for _ in range(_ROUNDS):
        for share in _LOADS:
            loads.run(seconds * _LOAD_SHARE / (_ROUNDS * len(_LOADS)), share)
            tell()
        grid.run(seconds * (1 - _PILOT_SHARE - _LOAD_SHARE) / _ROUNDS)
    logs = [folder / "grid.csv", folder / "loads.csv"]
    # A grid has no host's work between its iterations; requests of a run wait for that, too.
    gap = loads.mean_gap
    rows = ({**iteration_row(i), "seconds": i.seconds + gap} for i in grid.iterations)
    write_rows(logs[0], LOG_HEADER, ({name: row[name] for name in LOG_HEADER} for row in rows))
    write_rows(logs[1], ITERATION_HEADER, map(iteration_row, loads.iterations))
    calibration = calibrate_logs(
        logs,
        chunk_tokens=chunk_tokens,
        batch_slots=batch_slots,
        padded_chunks=engine.pads_chunks,
    )
    found = Profile(grid.iterations, loads.iterations, calibration, given, device_name(device))
    found.hardware_file().save(folder / "hardware.toml")
    write_log_figure(calibration, folder / "fit.png")
    title, notes = f"{given.name} on {found.device}", []
    if device == "cpu":
        notes.append(f"of the processor the engine got {processor_share(found.loads):.0%}")
    write_whole(folder / "profile.md", profile_page(title, calibration, found.factors, notes))
    return found


def device_name(device: str) -> str:
    """What an engine ran on, in words."""
    import torch

    if device.startswith("cuda"):
        name: str = torch.cuda.get_device_name(device)
        return name
    return f"CPU, {torch.get_num_threads()} threads"
