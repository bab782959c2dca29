"""How the hardware files that come with the package are fitted to measurements.

Of the engine runs only ``light`` and ``heavy`` are used; the grid has GPU times of single
iterations; the profile of linear operators is Vidur's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llm_sched_env.calibration.fit import calibrate
from llm_sched_env.calibration.log_calibration import calibrate_logs
from llm_sched_env.errors import FileError
from llm_sched_env.model.hardware import HardwareFile
from llm_sched_env.workloads.locations import DATA_VARIABLE, data_folders

DATE = "2026-11-29"
_H100, _SHAPE = "NVIDIA H100 80GB HBM3", "Llama-3-8B shape, random bf16 weights"
_ENGINE = "continuous batching with CUDA graphs, chunks padded to C"
_PROFILE = "linear_operator_iteration_times.csv"
_HOST = "start to start of iterations, with the host's work between them"
_GRID = "medians of GPU time alone; a serving engine's host adds about 1 ms an iteration"
_NO_ATTENTION = "linear operators alone: attention, KV cache, host and network are left out"
_PROFILED_FROM, _PROFILED_TO = 512, 2048


def found(name: str) -> Path:
    """A file of measurements in the data folders; raises FileError without it."""
    for folder in data_folders():
        if (folder / name).is_file():
            return folder / name
    raise FileError(
        f"{name}: in none of the data folders; name the one that has it with {DATA_VARIABLE}"
    )


def _logged(
    logs: Sequence[str], chunk: int, slots: int, engine: str, note: str
) -> Callable[[], HardwareFile]:
    def fit() -> HardwareFile:
        paths = [found(f"h100/{name}.csv") for name in logs]
        calibration = calibrate_logs(paths, chunk_tokens=chunk, batch_slots=slots)
        return calibration.hardware_file(
            device=_H100, model=_SHAPE, engine=engine, date=DATE, note=note
        )

    return fit


def _grid(chunk: int, slots: int) -> Callable[[], HardwareFile]:
    """The grid has chunks up to 2048, twice the C of the preset."""

    def fit() -> HardwareFile:
        calibration = calibrate_logs([found("h100/iteration_times.csv")], padded_chunks=False)
        file = calibration.hardware_file(
            device=_H100, model=_SHAPE, engine="single iterations", date=DATE, note=_GRID
        )
        hardware = file.hardware
        assert hardware.solo is not None
        assert hardware.mixed is not None
        shaped = type(hardware).kv_aware(
            hardware.solo, hardware.mixed, chunk, slots, starts=hardware.starts
        )
        return HardwareFile(shaped, file.source)

    return fit


def _profiled(device: str, model: str, chunk: int, slots: int) -> Callable[[], HardwareFile]:
    def fit() -> HardwareFile:
        calibration = calibrate(
            found(_PROFILE),
            device=device,
            model=model,
            chunk_tokens=chunk,
            tokens_from=_PROFILED_FROM,
            tokens_to=_PROFILED_TO,
        )
        file = calibration.hardware_file(slots, engine="vidur-profile", date=DATE)
        assert file.source is not None
        return HardwareFile(file.hardware, replace(file.source, note=_NO_ATTENTION))

    return fit


FITS: dict[str, Callable[[], HardwareFile]] = {
    "h100-llama3-8b-b32": _logged(
        ("iterations_b32_light", "iterations_b32_heavy"), 512, 32, _ENGINE, _HOST
    ),
    "h100-llama3-8b-b64": _logged(("iterations_b64_heavy",), 1024, 64, _ENGINE, _HOST),
    "h100-llama3-8b-b128": _grid(1024, 128),
    "a100-llama3-8b": _profiled("a100", "Meta-Llama-3-8B", 1024, 64),
    "a100-llama2-7b": _profiled("a100", "Llama-2-7b-hf", 1024, 64),
    "h100-llama2-7b": _profiled("h100", "Llama-2-7b-hf", 1024, 48),
}
"""Each preset from its measurements."""
