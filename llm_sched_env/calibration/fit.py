"""Fit a hardware to measured iteration times, check the fit, and write the hardware file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date as calendar_date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llm_sched_env.calibration.iteration_laws import (
    AffineLaw,
    MixedLine,
    fit_affine_law,
    fit_mixed_line,
)
from llm_sched_env.calibration.iteration_times import IterationTimes, read_iteration_times
from llm_sched_env.calibration.validity import Validity, require_tolerance, validity
from llm_sched_env.errors import CalibrationError, checked_integer
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.hardware_source import HardwareSource, require_date

TOLERANCE = 0.05
"""Relative residual up to which a law is called valid."""


@dataclass(frozen=True)
class IterationOfChunk:
    """An iteration of exactly the chunk, seconds: as measured and as the fits say."""

    tokens: int
    measured: float | None
    line: float
    affine: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """The fits of one device and model.

    Attributes:
        times: all iterations up to the largest that is used.
        line: alpha and beta of (3), over the iterations of a chunk and more.
        affine: law (1), over all of ``times``; its gamma is the hardware's.
        line_validity: how the line stands beside its iterations.
        affine_validity: how the affine law stands beside its iterations.
        chunk: what is said of an iteration of the chunk.
    """

    times: IterationTimes
    line: MixedLine
    affine: AffineLaw
    line_validity: Validity
    affine_validity: Validity
    chunk: IterationOfChunk

    def hardware(self, batch_slots: int, iteration_law: str = "two-speed") -> Hardware:
        """The hardware of the fits.

        Two-speed: alpha and beta of the line, gamma of the affine law. Affine: all of that law.
        """
        source = self.affine if iteration_law == "affine" else self.line
        beta = self.affine.a if iteration_law == "affine" else self.line.beta
        alpha, gamma = source.alpha.value, self.affine.gamma.value
        if alpha < 0:
            raise CalibrationError(
                f"hardware alpha: got {alpha:.4g} from the fit of the {iteration_law} law, allowed "
                "is a number >= 0; choose --from and --to where times are linear"
            )
        return Hardware(
            alpha, beta.value, gamma, self.chunk.tokens, batch_slots, iteration_law=iteration_law
        )

    def hardware_file(
        self,
        batch_slots: int,
        iteration_law: str = "two-speed",
        *,
        engine: str = "unknown",
        date: str | None = None,
    ) -> HardwareFile:
        """The hardware with where it comes from; ``date`` None is today."""
        date = calendar_date.today().isoformat() if date is None else date
        require_date("date", date)
        fit = self.affine_validity if iteration_law == "affine" else self.line_validity
        source = HardwareSource(
            self.times.device,
            self.times.model,
            engine,
            date,
            self.times.file or "measured here",
            fit.tokens,
            fit.r_squared,
            version("llm-sched-env"),
            iterations=fit.rows,
            note=self.times.note,
        )
        return HardwareFile(self.hardware(batch_slots, iteration_law), source)

    def notes(self, batch_slots: int) -> list[str]:
        """What a user should know before trusting the numbers with B slots, one line each."""
        notes = [self.times.note] if self.times.note else []
        chunk, fewest = self.chunk, float(self.times.tokens[0])
        fits = (
            ("line", self.line_validity, chunk.line),
            ("affine law", self.affine_validity, chunk.affine),
        )
        for name, fit, seconds in fits:
            if not fit.covers(chunk.tokens):
                beside = (
                    "nothing measured"
                    if chunk.measured is None
                    else f"{1e3 * chunk.measured:.2f} ms measured"
                )
                notes.append(
                    f"warning: a chunk of {chunk.tokens} tokens lies outside of the tokens "
                    f"({_range(fit.valid_tokens)}) in which the {name} is within "
                    f"{fit.tolerance:.0%}: {1e3 * seconds:.2f} ms, beside {beside}"
                )
        if fewest > batch_slots:
            notes.append(
                f"warning: gamma is that of iterations of {fewest:g} tokens and more, the fewest "
                f"measured; decode-only ones have at most {batch_slots}: measure those too"
            )
        elif self.affine.b0.value < batch_slots:
            notes.append(
                f"warning: iterations take longer from b0 = {self.affine.b0.value:.3g} tokens on, "
                f"and decode-only ones have up to {batch_slots}: gamma is too high for full ones"
            )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        line, affine = self.line, self.affine
        return {
            "device": self.times.device,
            "model": self.times.model,
            "rows": len(self.times),
            "line": {
                "alpha": asdict(line.alpha),
                "beta": asdict(line.beta),
                **asdict(self.line_validity),
            },
            "affine": {
                **{
                    name: asdict(getattr(affine, name))
                    for name in ("c", "a", "b0", "gamma", "alpha")
                },
                **asdict(self.affine_validity),
            },
            "chunk": asdict(self.chunk),
        }


def calibrate(
    times: IterationTimes | str | Path,
    *,
    device: str | None = None,
    model: str | None = None,
    layers: int | None = None,
    chunk_tokens: int = 256,
    tokens_from: float | None = None,
    tokens_to: float | None = None,
    weights: str = "relative",
    tolerance: float = TOLERANCE,
) -> Calibration:
    r"""Fit alpha, beta, gamma and the affine law to measured iteration times.

    Args:
        times: iterations, or the path of a CSV of them, or of a profile of Vidur's.
        device: which of the file; None if it has one.
        model: which of the file; None if it has one.
        layers: of the model, for a profile of one layer.
        chunk_tokens: prefill chunk C, tokens.
        tokens_from: fewest tokens of the line's iterations; None: the chunk, since no iteration
            with a prefill has fewer.
        tokens_to: most tokens of all iterations used; None: all.
        weights: of the affine law's squares, ``relative`` or ``equal``.
        tolerance: relative residual up to which a law is called valid.

    Raises:
        CalibrationError: for a file or iterations that cannot be used.
        ConfigurationError: for an option that is not allowed.

    Example:
        >>> import tempfile
        >>> rows = ["device,model,tokens_in_iteration,seconds"]
        >>> rows += [f"gpu,llm,{b},{0.01 + 1e-4 * max(0, b - 64)}" for b in range(1, 1025, 8)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "times.csv"
        ...     _ = file.write_text("\n".join(rows))
        ...     found = calibrate(file)
        >>> round(found.line.beta.value, 6)
        0.0001
    """
    chunk_tokens = checked_integer("chunk_tokens", chunk_tokens)
    require_tolerance(tolerance)
    if not isinstance(times, IterationTimes):
        times = read_iteration_times(times, device, model, layers)
    last = float(times.tokens[-1]) if tokens_to is None else tokens_to
    used = times.between(0, last)
    line = fit_mixed_line(used.between(chunk_tokens if tokens_from is None else tokens_from, last))
    affine = fit_affine_law(used, weights)
    return Calibration(
        used,
        line,
        affine,
        validity(line.times, line.seconds(line.times.tokens), tolerance),
        validity(used, affine.seconds(used.tokens), tolerance),
        IterationOfChunk(
            chunk_tokens,
            used.measured(chunk_tokens),
            float(line.seconds(chunk_tokens)),
            float(affine.seconds(chunk_tokens)),
        ),
    )


def _range(tokens: tuple[float, float] | None) -> str:
    return "none" if tokens is None else f"{tokens[0]:g} to {tokens[1]:g}"
