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
from llm_sched_env.calibration.iteration_log import is_iteration_log
from llm_sched_env.calibration.least_squares import Coefficient
from llm_sched_env.calibration.validity import Validity
from llm_sched_env.commands.calibrate_logs import LogOptions, calibrate_from_logs
from llm_sched_env.commands.options import (
    JsonOption,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.tables import require_table_suffix

CHUNK_TOKENS, BATCH_SLOTS = 256, 16


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched calibrate linear_operator_iteration_times.csv --device a100 "
        "--model Meta-Llama-3-8B --engine vidur-profile --out a100.toml --plot a100.png"
    )
    def calibrate(
        files: Annotated[
            list[Path],
            typer.Argument(
                metavar="FILE...",
                help="Iteration logs of one GPU (columns seconds, prefill_tokens, prefill_context, "
                "decodes, kv_tokens); or one CSV with the columns device, model, "
                "tokens_in_iteration and seconds, or a profile of Vidur's linear operators "
                "(mlp.csv).",
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
        chunk_tokens: Annotated[
            int | None,
            typer.Option(help="Prefill chunk C, tokens (default: 256; logs: the longest)."),
        ] = None,
        batch_slots: Annotated[
            int | None,
            typer.Option(help="Requests in service on one GPU, B (default: 16; logs: the most)."),
        ] = None,
        iteration_law: Annotated[
            str | None,
            typer.Option(
                help="two-speed, affine, kv-aware (logs only) or auto: the simplest that holds "
                "(default: two-speed; logs: kv-aware)."
            ),
        ] = None,
        padded_chunks: Annotated[
            bool | None,
            typer.Option(
                help="Logs: short chunks take the time of whole ones (default: as the log says)."
            ),
        ] = None,
        weights: Annotated[
            str | None,
            typer.Option(help="Squares of the affine law: relative (default) or equal."),
        ] = None,
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
        """Fit an iteration law to measured iteration times, and write a hardware file."""
        if out is not None:
            require_table_suffix(out, "hardware file")
        if plot is not None:
            require_extra("report", "matplotlib")
            require_figure_path(plot)
        if is_iteration_log(files[0]):
            _refuse(
                "for iteration logs",
                {
                    "--layers": layers,
                    "--from": tokens_from,
                    "--to": tokens_to,
                    "--weights": weights,
                },
            )
            chosen = LogOptions(iteration_law, chunk_tokens, batch_slots, padded_chunks, tolerance)
            source = {"device": device, "model": model, "engine": engine, "date": date}
            calibrate_from_logs(files, chosen, source, out, plot, as_json=as_json)
            return
        _refuse("without iteration logs", {"--padded-chunks": padded_chunks})
        if len(files) > 1:
            raise ConfigurationError(
                "calibrate", list(map(str, files)), "several files only if they are iteration logs"
            )
        slots = BATCH_SLOTS if batch_slots is None else batch_slots
        calibration = fit(
            files[0],
            device=device,
            model=model,
            layers=layers,
            chunk_tokens=CHUNK_TOKENS if chunk_tokens is None else chunk_tokens,
            tokens_from=tokens_from,
            tokens_to=tokens_to,
            weights=weights or "relative",
            tolerance=tolerance,
        )
        law = _chosen_law(calibration, iteration_law)
        result = calibration.hardware_file(slots, law, engine=engine, date=date)
        if out is not None:
            result.save(out)
            print_note(f"wrote {out}")
        if plot is not None:
            write_calibration_figure(calibration, plot)
            print_note(f"wrote {plot}")
        notes = calibration.notes(slots)
        for note in notes:
            print_note(note)
        if as_json:
            print_json({**calibration.to_dict(), **asdict(result), "notes": notes})
        else:
            _print(calibration)


def _refuse(where: str, options: dict[str, object]) -> None:
    """Raise ConfigurationError for an option that has no meaning for these files."""
    for name, value in options.items():
        if value is not None:
            raise ConfigurationError(name, value, f"none {where}", "leave it out")


def _chosen_law(calibration: Calibration, law: str | None) -> str:
    """The law to write: by default two speeds, with auto the affine one unless the line holds."""
    if law == "kv-aware":
        raise ConfigurationError(
            "--iteration-law",
            law,
            "two-speed, affine or auto for times by tokens alone",
            "give iteration logs",
        )
    if law == "auto":
        return "two-speed" if calibration.line_validity.holds() else "affine"
    return law or "two-speed"


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
