"""``llmsched calibrate``: fit a hardware file to measured iteration times."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.calibration.figure import (
    require_figure_path,
    write_calibration_figure,
)
from llm_sched_env.calibration.fit import TOLERANCE, Calibration
from llm_sched_env.calibration.fit import calibrate as fit
from llm_sched_env.calibration.least_squares import Coefficient
from llm_sched_env.calibration.validity import Validity
from llm_sched_env.commands.options import (
    JsonOption,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.files.tables import require_table_suffix


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched calibrate linear_operator_iteration_times.csv --device a100 "
        "--model Meta-Llama-3-8B --engine vidur-profile --out a100.toml --plot a100.png"
    )
    def calibrate(
        file: Annotated[
            Path,
            typer.Argument(
                help="CSV with the columns device, model, tokens_in_iteration and seconds, or a "
                "profile of Vidur's linear operators (mlp.csv)."
            ),
        ],
        device: Annotated[str | None, typer.Option(help="Which device of the file.")] = None,
        model: Annotated[str | None, typer.Option(help="Which model of the file.")] = None,
        layers: Annotated[
            int | None, typer.Option(help="Layers of the model, for a profile, which has one.")
        ] = None,
        engine: Annotated[
            str, typer.Option(help="What was measured, for the hardware file.")
        ] = "unknown",
        tokens_from: Annotated[
            float | None,
            typer.Option("--from", help="Fewest tokens of the fit of alpha, beta (default: C)."),
        ] = None,
        tokens_to: Annotated[
            float | None, typer.Option("--to", help="Most tokens of all fits (default: all).")
        ] = None,
        chunk_tokens: Annotated[int, typer.Option(help="Prefill chunk C, tokens.")] = 256,
        batch_slots: Annotated[int, typer.Option(help="Requests in service on one GPU, B.")] = 16,
        iteration_law: Annotated[
            str, typer.Option(help="Law of the hardware: two-speed or affine.")
        ] = "two-speed",
        weights: Annotated[
            str, typer.Option(help="Squares of the affine law: relative or equal.")
        ] = "relative",
        tolerance: Annotated[
            float, typer.Option(help="Relative residual up to which a fit is valid.")
        ] = TOLERANCE,
        date: Annotated[
            str | None, typer.Option(help="Date in the hardware file (default: today).")
        ] = None,
        out: Annotated[
            Path | None, typer.Option(help="Write a hardware file (.toml, .json).")
        ] = None,
        plot: Annotated[
            Path | None, typer.Option(help="Draw data, fits and residuals (.png, .pdf, .svg).")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Fit alpha, beta, gamma and the affine law (1) to measured iteration times."""
        if out is not None:
            require_table_suffix(out, "hardware file")
        if plot is not None:
            require_extra("report", "matplotlib")
            require_figure_path(plot)
        calibration = fit(
            file,
            device=device,
            model=model,
            layers=layers,
            chunk_tokens=chunk_tokens,
            tokens_from=tokens_from,
            tokens_to=tokens_to,
            weights=weights,
            tolerance=tolerance,
        )
        result = calibration.hardware_file(batch_slots, iteration_law, engine=engine, date=date)
        if out is not None:
            result.save(out)
            print_note(f"wrote {out}")
        if plot is not None:
            write_calibration_figure(calibration, plot)
            print_note(f"wrote {plot}")
        notes = calibration.notes(batch_slots)
        for note in notes:
            print_note(note)
        if as_json:
            print_json({**calibration.to_dict(), **asdict(result), "notes": notes})
        else:
            _print(calibration)


def _print(calibration: Calibration) -> None:
    times, line, affine = calibration.times, calibration.line, calibration.affine
    print_lines(f"{times.model} on {times.device}: {len(times)} iterations")
    laws = (
        (
            "line (3): alpha + beta b",
            calibration.line_validity,
            (
                ("alpha", line.alpha, 1e3, "ms"),
                ("beta", line.beta, 1e6, "us/token"),
            ),
        ),
        (
            "affine law (1): c + a max(0, b - b0)",
            calibration.affine_validity,
            (
                ("c", affine.c, 1e3, "ms"),
                ("a", affine.a, 1e6, "us/token"),
                ("b0", affine.b0, 1.0, "tokens"),
                ("gamma = 1/c", affine.gamma, 1.0, "1/s"),
                ("alpha = c - a b0", affine.alpha, 1e3, "ms"),
            ),
        ),
    )
    for title, held, coefficients in laws:
        print_table(
            ("", "value", "95% interval", "unit"),
            [(name, *_shown(c, factor), unit) for name, c, factor, unit in coefficients],
            title=title,
        )
        print_lines(_fit_line(held))
    chunk = calibration.chunk
    measured = "-" if chunk.measured is None else f"{1e3 * chunk.measured:.4g} ms"
    print_lines(
        f"an iteration of {chunk.tokens} tokens: measured {measured}, "
        f"line {1e3 * chunk.line:.4g} ms, affine law {1e3 * chunk.affine:.4g} ms"
    )


def _shown(coefficient: Coefficient, factor: float) -> tuple[str, str]:
    low, high = coefficient.ci95
    interval = f"{factor * low:.5g} to {factor * high:.5g}"
    return f"{factor * coefficient.value:.5g}", interval


def _fit_line(fit: Validity) -> str:
    valid = fit.valid_tokens
    where = "nowhere" if valid is None else f"throughout {valid[0]:g} to {valid[1]:g}"
    return (
        f"R^2 {fit.r_squared:.5f} over {fit.tokens[0]:g} to {fit.tokens[1]:g} tokens "
        f"({fit.rows} iterations); within {fit.tolerance:.3g} of the measured time {where}, "
        f"for {fit.share_within:.1%} of the iterations; worst {fit.worst:+.1%} at "
        f"{fit.worst_tokens:g}; correlation of neighbouring residuals {fit.autocorrelation:.2f}"
    )
