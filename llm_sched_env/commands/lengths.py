"""``llmsched lengths``: fit distributions to the output lengths of a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import JsonOption, SeedOption, print_json, print_table
from llm_sched_env.commands.trace_options import TraceReading, reads_traces
from llm_sched_env.workloads.length_fits import ClassLengths, fit_output_lengths


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched lengths AzureLLMInferenceTrace_conv.csv "
        "AzureLLMInferenceTrace_code.csv --json"
    )
    @reads_traces
    def lengths(
        traces: Annotated[
            list[Path], typer.Argument(help="Trace files of a known format, plain or gzip.")
        ],
        reading: TraceReading,
        bins: Annotated[
            int | None, typer.Option(help="Equally likely bins (default: 2 N^(2/5)).")
        ] = None,
        replications: Annotated[int, typer.Option(help="Bootstrap samples.")] = 200,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Fit exponential, log-normal and gamma output lengths to each class; KL divergences."""
        classes = fit_output_lengths(
            reading.load(traces), bins=bins, replications=replications, seed=seed
        )
        if as_json:
            print_json({"classes": [c.to_dict() for c in classes]})
        else:
            _print(classes)


def _print(classes: tuple[ClassLengths, ...]) -> None:
    print_table(
        ("class", "requests", "no output", "mean", "cv"),
        [
            (
                c.name,
                f"{c.requests:,}",
                f"{c.without_output:,}",
                *("-" if value is None else f"{value:.5g}" for value in (c.mean, c.cv)),
            )
            for c in classes
        ],
    )
    rows = []
    for c in classes:
        for fit in c.fits:
            far = fit.divergence
            low, high = far.kl_ci95
            rows.append(
                (
                    c.name,
                    fit.distribution.kind,
                    *(f"{v:.4f}" for v in (fit.cv, far.kl, far.kl_bias)),
                    f"{low:.4f} to {high:.4f}",
                    f"{far.bins}",
                    f"{far.ks:.4f}",
                )
            )
    print_table(("class", "fit", "cv", "KL", "bias", "95% interval", "bins", "KS"), rows)
