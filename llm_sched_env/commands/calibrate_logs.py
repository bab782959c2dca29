"""``llmsched calibrate`` for iteration logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llm_sched_env.calibration.log_calibration import LogCalibration, calibrate_logs
from llm_sched_env.calibration.log_errors import Errors, ModeErrors
from llm_sched_env.calibration.log_figure import write_log_figure
from llm_sched_env.commands.options import print_json, print_lines, print_note, print_table

_UNITS = {"seconds": (1e3, "ms"), "per_decode": (1e6, "us"), "per_prompt_token": (1e6, "us")}
_OTHER_UNIT = (1e9, "ns")


@dataclass(frozen=True)
class LogOptions:
    """Options of a fit to logs, as :func:`calibrate_logs` has them."""

    iteration_law: str | None
    chunk_tokens: int | None
    batch_slots: int | None
    padded_chunks: bool | None
    tolerance: float


def calibrate_from_logs(
    files: Sequence[Path],
    options: LogOptions,
    source: dict[str, str | None],
    out: Path | None,
    plot: Path | None,
    *,
    as_json: bool,
) -> None:
    """Fit, write and print; ``source`` has device, model, engine and date."""
    chosen = {**asdict(options), "iteration_law": options.iteration_law or "kv-aware"}
    calibration = calibrate_logs(files, **chosen)
    result = calibration.hardware_file(
        device=source["device"],
        model=source["model"],
        engine=source["engine"] or "unknown",
        date=source["date"],
    )
    if out is not None:
        result.save(out)
        print_note(f"wrote {out}")
    if plot is not None:
        write_log_figure(calibration, plot)
        print_note(f"wrote {plot}")
    notes = calibration.notes()
    for note in notes:
        print_note(note)
    if as_json:
        hardware = {"hardware": result.hardware.to_dict(), "source": asdict(result)["source"]}
        print_json({**calibration.to_dict(), **hardware, "notes": notes})
    else:
        _print(calibration)


def _print(calibration: LogCalibration) -> None:
    hardware = calibration.hardware
    print_lines(
        f"{len(calibration.log)} iterations, {hardware.iteration_law} law, C "
        f"{hardware.chunk_tokens}, B {hardware.batch_slots}, "
        f"{'padded' if calibration.padded_chunks else 'exact'} chunks"
    )
    if hardware.iteration_law != "affine":
        rows = []
        for mode, fit in calibration.modes:
            for name, value in fit.coefficients.items():
                factor, unit = _UNITS.get(name, _OTHER_UNIT)
                rows.append((f"{mode} {name}", f"{factor * value:.5g}", unit))
        print_table(("coefficient", "value", "unit"), rows)
    if calibration.held_out is not None:
        held = calibration.held_out
        lines = [*_error_rows("solo", held.solo), *_error_rows("mixed", held.mixed)]
        print_table(
            (
                "held-out iterations",
                "rows",
                "mean error",
                "95th percentile",
                "total time",
                "within",
            ),
            lines,
            title=f"errors of the law, fitted without them (within: {held.tolerance:.0%})",
        )
    ranges = asdict(calibration.ranges())
    print_lines(
        "seen: " + ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in ranges.items())
    )


def _error_rows(mode: str, errors: ModeErrors | None) -> list[tuple[str, ...]]:
    if errors is None:
        return []
    rows = [_error_row(mode, errors.all)]
    for low, high, group in errors.by_decodes:
        count = f"{low}" if low == high else f"{low} to {high}"
        rows.append(_error_row(f"  {count} decodes", group))
    return rows


def _error_row(name: str, errors: Errors) -> tuple[str, ...]:
    return (
        name,
        str(errors.rows),
        f"{errors.mean:.2%}",
        f"{errors.p95:.2%}",
        f"{errors.total:+.2%}",
        f"{errors.share_within:.1%}",
    )
