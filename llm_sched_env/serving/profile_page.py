"""What a profile measured, as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llm_sched_env.calibration.log_calibration import LogCalibration


def profile_page(
    title: str,
    calibration: LogCalibration,
    factors: tuple[float, float],
    notes: Sequence[str],
) -> str:
    """The page of a fitted engine.

    Args:
        title: of the page.
        calibration: the fit.
        factors: by which iterations of the hardware last longer than those of the fit.
        notes: on the measurement; those of the fit follow.
    """
    hardware, (solo, mixed) = calibration.hardware, factors
    measured = (
        f"{len(calibration.log):,} iterations, C {hardware.chunk_tokens}, B "
        f"{hardware.batch_slots}, fitted by the {hardware.iteration_law} law: `hardware.toml`."
    )
    stragglers = (
        f"The hardware's iterations last {solo:.3f} (solo) and {mixed:.3f} (mixed) times that, "
        "so that the stragglers that the fit leaves out count, too."
    )
    lines = [
        f"# {title}",
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
        "*What to see: how near measured iterations lie to the law; far above are stragglers.*",
        "",
        *(f"- {note}" for note in (*notes, *calibration.notes())),
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
