"""Calibrate a hardware from iteration logs: fit a law, check it on held-out rows, name gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date as calendar_date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.calibration.iteration_log import IterationLog, read_iteration_logs
from llm_sched_env.calibration.kv_aware_fit import LOG_LAWS, MEASURE, LogFit, fit_log
from llm_sched_env.calibration.log_errors import HeldOut, held_out_errors
from llm_sched_env.calibration.padding import chunks_are_padded
from llm_sched_env.calibration.relative_fit import RelativeFit
from llm_sched_env.calibration.validity import require_tolerance
from llm_sched_env.errors import CalibrationError, ConfigurationError, checked_integer
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.hardware_source import (
    HardwareSource,
    HeldOutSummary,
    IterationRanges,
    require_date,
)

TOLERANCE = 0.05
AUTO = "auto"
_MANY_STRAGGLERS = 0.01  # of the time of a mode


@dataclass(frozen=True, eq=False)
class LogCalibration:
    """A hardware from iteration logs.

    Attributes:
        log: all iterations.
        fit: to all of them.
        held_out: errors of the same law, fitted without the held-out rows, on these; None if the
            others have one mode only.
        chunk_tokens: prefill chunk C, tokens.
        batch_slots: B.
        padded_chunks: whether shorter chunks take the time of whole ones.
        assumptions: what was taken from the log since it was not said, one line each.
    """

    log: IterationLog
    fit: LogFit
    held_out: HeldOut | None
    chunk_tokens: int
    batch_slots: int
    padded_chunks: bool
    assumptions: tuple[str, ...]

    @property
    def hardware(self) -> Hardware:
        """The calibrated hardware."""
        return self.fit.hardware

    def hardware_file(
        self,
        *,
        device: str | None = None,
        model: str | None = None,
        engine: str = "unknown",
        date: str | None = None,
        note: str = "",
    ) -> HardwareFile:
        """The hardware with where it comes from; ``date`` None is today."""
        date = calendar_date.today().isoformat() if date is None else date
        require_date("date", date)
        tokens = self.log.decodes + self.log.prefill_tokens
        return HardwareFile(
            self.hardware,
            HardwareSource(
                device or "unknown",
                model or "unknown",
                engine,
                date,
                ", ".join(self.log.files) or "measured here",
                _range(tokens),
                self._r_squared(),
                version("llm-sched-env"),
                iterations=len(self.log),
                ranges=self.ranges(),
                held_out=self._held_out_summary(),
                note=note,
            ),
        )

    def ranges(self) -> IterationRanges:
        """What was seen, and so where the fit holds."""
        mixed = self.log.picked(self.log.mixed)
        return IterationRanges(
            _range(self.log.decodes),
            _range(self.log.kv_tokens),
            _range(mixed.prefill_tokens),
            _range(mixed.prefill_context),
        )

    def notes(self) -> list[str]:
        """What a user should know before trusting the numbers, one line each."""
        notes = list(self.assumptions)
        for mode, fit in self.modes:
            notes += _coefficient_notes(mode, fit)
            stragglers = fit.stragglers
            if stragglers.count:
                warning = "warning: " if stragglers.excess_share > _MANY_STRAGGLERS else ""
                notes.append(
                    f"{warning}{stragglers.count} {mode} iterations ({stragglers.share:.2%}) were "
                    "left out: others like them took another time; beyond the fit they took "
                    f"{stragglers.excess_seconds:.3g} s, {stragglers.excess_share:.2%} of the "
                    f"{mode} time, which the hardware does not have"
                )
        if self.held_out is None:
            notes.append("warning: no held-out check: the other rows have one mode only")
        elif not self.held_out.holds():
            notes.append(
                f"warning: fewer than 95% of the held-out iterations are within "
                f"{self.held_out.tolerance:.0%} of the {self.hardware.iteration_law} law: see its "
                "errors by number of decodes"
            )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rows": len(self.log),
            "iteration_law": self.hardware.iteration_law,
            "chunk_tokens": self.chunk_tokens,
            "batch_slots": self.batch_slots,
            "padded_chunks": self.padded_chunks,
            "host_gap_seconds": self.log.host_gap,
            "ranges": asdict(self.ranges()),
            "unidentified": {mode: fit.unidentified for mode, fit in self.modes},
            "at_zero": {mode: list(fit.at_zero) for mode, fit in self.modes},
            "stragglers": {mode: asdict(fit.stragglers) for mode, fit in self.modes},
            "held_out": None if self.held_out is None else asdict(self.held_out),
        }

    @property
    def modes(self) -> tuple[tuple[str, RelativeFit], ...]:
        """The fits of iterations without and with a prefill, by name."""
        return (("solo", self.fit.solo), ("mixed", self.fit.mixed))

    def _r_squared(self) -> float:
        seconds = self.log.seconds
        left = np.sum((seconds - self.fit.seconds(self.log)) ** 2)
        spread = np.sum((seconds - seconds.mean()) ** 2)
        return float(1.0 - left / spread) if spread > 0 else 1.0

    def _held_out_summary(self) -> HeldOutSummary | None:
        held = self.held_out
        if held is None or held.solo is None or held.mixed is None:
            return None
        solo, mixed = held.solo.all, held.mixed.all
        return HeldOutSummary(
            solo.rows + mixed.rows, solo.mean, mixed.mean, solo.total, mixed.total
        )


def calibrate_logs(
    logs: IterationLog | Sequence[str | Path],
    *,
    iteration_law: str = "kv-aware",
    chunk_tokens: int | None = None,
    batch_slots: int | None = None,
    padded_chunks: bool | None = None,
    tolerance: float = TOLERANCE,
) -> LogCalibration:
    r"""Fit a hardware to iteration logs, and hold it against rows that it was not fitted to.

    Args:
        logs: paths of files that are one sample, or what was read from them.
        iteration_law: ``two-speed``, ``affine``, ``kv-aware``, or ``auto``: the first of these
            that is within the tolerance for 95% of the held-out iterations, else the last.
        chunk_tokens: prefill chunk C; None: the longest of the log.
        batch_slots: B; None: the most requests in an iteration of the log.
        padded_chunks: whether shorter chunks take the time of whole ones; None: as the log says.
        tolerance: relative error up to which a law is called valid.

    Raises:
        CalibrationError: for logs that cannot be used, naming file and line.
        ConfigurationError: for an option that is not allowed or that the log contradicts.

    Example:
        >>> import tempfile
        >>> rows = ["seconds,prefill_tokens,prefill_context,decodes,kv_tokens"]
        >>> for b in range(1, 30):
        ...     for kv in (200 * b, 900 * b):
        ...         rows.append(f"{0.008 + 1e-4 * b + 1e-8 * kv},0,0,{b},{kv}")
        ...         rows.append(f"{0.016 + 2e-4 * b + 1e-8 * kv},512,0,{b},{kv}")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "iterations.csv"
        ...     _ = file.write_text("\n".join(rows))
        ...     found = calibrate_logs([file], chunk_tokens=512, batch_slots=32)
        >>> round(found.hardware.solo.per_decode, 6)
        0.0001
    """
    if iteration_law not in (*LOG_LAWS, AUTO):
        raise ConfigurationError("iteration_law", iteration_law, " or ".join((*LOG_LAWS, AUTO)))
    require_tolerance(tolerance)
    log = logs if isinstance(logs, IterationLog) else read_iteration_logs(logs)
    assumptions: list[str] = []
    chunk = _limit("chunk_tokens", chunk_tokens, log.prefill_tokens, assumptions)
    slots = _limit("batch_slots", batch_slots, log.decodes + log.mixed, assumptions)
    padded = padded_chunks
    if padded is None:
        padded = _detected_padding(log, chunk, assumptions)
    laws = LOG_LAWS if iteration_law == AUTO else (iteration_law,)
    for law in laws:
        last = law == laws[-1]
        try:
            held_out = _held_out(log, law, chunk, slots, padded, tolerance)
            if last or (held_out is not None and held_out.holds()):
                fit = fit_log(log, law, chunk, slots, padded=padded)
                break
        except CalibrationError:
            if last:
                raise
    return LogCalibration(log, fit, held_out, chunk, slots, padded, tuple(assumptions))


def _limit(name: str, given: int | None, seen: np.ndarray, assumptions: list[str]) -> int:
    """A limit of the engine as the user gives it, or the most of it that the log has."""
    most, least = int(seen.max()), 2 if name == "batch_slots" else 1
    if given is None:
        assumptions.append(
            f"{name} {max(most, least)}: the most in the log; give --{name.replace('_', '-')} if "
            "the engine allows more"
        )
        return max(most, least)
    given = checked_integer(name, given, least)
    if most > given:
        row = int(np.argmax(seen > given)) + 1
        raise ConfigurationError(
            name, given, f"at least {most}, which iteration {row} of the log has"
        )
    return given


def _detected_padding(log: IterationLog, chunk_tokens: int, assumptions: list[str]) -> bool:
    found = chunks_are_padded(log, chunk_tokens)
    if found is None:
        assumptions.append(
            "padded_chunks false: the log has too few chunks shorter than C to tell; measure "
            "prompts of other lengths or give --padded-chunks"
        )
        return False
    follows = "does not follow their tokens" if found else "follows their tokens"
    assumptions.append(f"padded_chunks {str(found).lower()}: the time of short chunks {follows}")
    return found


def _held_out(
    log: IterationLog, law: str, chunk: int, slots: int, padded: bool, tolerance: float
) -> HeldOut | None:
    others = log.picked(~log.held_out)
    if others.mixed.all() or not others.mixed.any() or not log.held_out.any():
        return None
    fit = fit_log(others, law, chunk, slots, padded=padded)
    return held_out_errors(log, fit.seconds(log), tolerance)


def _coefficient_notes(mode: str, fit: RelativeFit) -> list[str]:
    notes = [
        f"{mode} {name} 0: the log cannot tell it, {why}; measure {MEASURE[name]}"
        for name, why in fit.unidentified.items()
    ]
    return notes + [f"{mode} {name} 0: the log would have it negative" for name in fit.at_zero]


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
