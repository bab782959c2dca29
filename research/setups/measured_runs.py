"""Measured runs of an engine on one GPU, and hardware fitted without them, whole or simplified."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llm_sched_env.calibration.iteration_log import IterationLog, read_iteration_logs
from llm_sched_env.calibration.log_calibration import LogCalibration, calibrate_logs
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.validation.validate import Validation, validate
from research.setups.hardware_presets import found

POLICY = "fcfs-immediate"


@dataclass(frozen=True)
class Case:
    """A run that is predicted.

    Attributes:
        run: its name in ``h100/serve_RUN.csv``.
        logs: runs whose iterations the hardware is fitted to.
        part: of the rows of these logs, from the start.
        chunk_tokens: C of the engine.
        batch_slots: B of the engine.
    """

    run: str
    logs: tuple[str, ...]
    part: float
    chunk_tokens: int
    batch_slots: int

    @property
    def fitted_to(self) -> str:
        """The logs in words."""
        names = " and ".join(f"`{name}`" for name in self.logs)
        return names if self.part == 1.0 else f"the first half of {names}"


CASES = (
    Case("b32_heavy", ("b32_light",), 1.0, 512, 32),
    Case("b32_light", ("b32_heavy",), 1.0, 512, 32),
    Case("b64_heavy", ("b64_heavy",), 0.5, 1024, 64),
)
"""Each predicted by what was not its own run, or half of it: there is one run with B = 64."""
TOGETHER = (
    Case("b32_light", ("b32_light", "b32_heavy"), 1.0, 512, 32),
    Case("b32_heavy", ("b32_light", "b32_heavy"), 1.0, 512, 32),
    Case("b64_heavy", ("b64_heavy",), 1.0, 1024, 64),
)
"""Each with the hardware preset of its engine."""


def calibration_of(
    case: Case, law: str = "kv-aware", *, host: bool = True, padded: bool | None = None
) -> LogCalibration:
    """The hardware of a case; without ``host`` of the seconds inside of iterations alone."""
    log = read_iteration_logs([found(f"h100/iterations_{name}.csv") for name in case.logs])
    if not host:
        log = dataclasses.replace(log, seconds=np.concatenate([_inside(n) for n in case.logs]))
    log = _beginning(log, case.part)
    return calibrate_logs(
        log,
        iteration_law=law,
        chunk_tokens=case.chunk_tokens,
        batch_slots=case.batch_slots,
        padded_chunks=padded,
    )


def predicted(case: Case, hardware: Hardware | None = None) -> Validation:
    """The run of a case as measured and as simulated, on its own hardware or another."""
    hardware = calibration_of(case).hardware if hardware is None else hardware
    return validate(found(f"h100/serve_{case.run}.csv"), hardware, 1, POLICY)


def _without_padding(case: Case) -> Hardware:
    return calibration_of(case, padded=False).hardware


def _immediate(case: Case) -> Hardware:
    return dataclasses.replace(calibration_of(case).hardware, starts="immediate")


def _two_speed(case: Case) -> Hardware:
    return calibration_of(case, "two-speed").hardware


def _two_speed_immediate(case: Case) -> Hardware:
    return dataclasses.replace(_two_speed(case), starts="immediate")


SIMPLIFIED: dict[str, Callable[[Case], Hardware]] = {
    "all of it": lambda case: calibration_of(case).hardware,
    "the host's work between iterations left out": lambda case: (
        calibration_of(case, host=False).hardware
    ),
    "chunks not padded": _without_padding,
    "starts within an iteration": _immediate,
    "the affine law": lambda case: calibration_of(case, "affine").hardware,
    "the two-speed law": _two_speed,
    "the two-speed law, starts within an iteration": _two_speed_immediate,
}
"""What the prediction is worth without one part of the hardware."""


def _inside(run: str) -> np.ndarray:
    """Seconds of the iterations of a run, without what lies between them."""
    table = np.genfromtxt(found(f"h100/iterations_{run}.csv"), delimiter=",", names=True)
    seconds: np.ndarray = table["seconds"]
    return seconds


def _beginning(log: IterationLog, part: float) -> IterationLog:
    return log if part == 1.0 else log.picked(np.arange(len(log)) < part * len(log))
