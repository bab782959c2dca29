"""``llmsched trace``: summarise a trace, or convert it to the canonical schema."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    JsonOption,
    print_json,
    print_lines,
    print_note,
    print_table,
)
from llm_sched_env.commands.trace_options import TraceReading, reads_traces
from llm_sched_env.files.atomic import require_writable
from llm_sched_env.workloads.summary import TraceSummary, summarize


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched trace BurstGPT_1.csv --classes-by Model --window 0,86400 "
        "--save day.csv.gz"
    )
    @reads_traces
    def trace(
        traces: Annotated[
            list[Path], typer.Argument(help="Trace files of a known format, plain or gzip.")
        ],
        reading: TraceReading,
        save: Annotated[
            Path | None,
            typer.Option(help="Write it in the canonical schema (.csv or .csv.gz)."),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Summarise trace files: format, rates, lengths, zero-token rows by class."""
        if save is not None:
            require_writable(save)
        loaded = reading.load(traces)
        summary = summarize(loaded)
        if save is not None:
            loaded.save(save)
        if as_json:
            print_json(summary.to_dict())
        else:
            _print(summary)
        if save is not None:
            print_note(f"wrote {len(loaded):,} requests to {save}")


def _print(summary: TraceSummary) -> None:
    for file in summary.files:
        print_lines(f"{file.path}: {file.rows:,} rows, {file}")
    rate = "no rate" if summary.rate is None else f"{summary.rate:.4g} requests/s"
    print_lines(f"{summary.requests:,} requests in {summary.duration:,.3f} s, {rate}")
    print_table(
        ("class", "requests", "per second", "gap CV", "no prompt", "no output", "dropped"),
        [
            (
                c.name,
                f"{c.requests:,}",
                *("-" if value is None else f"{value:.4g}" for value in (c.rate, c.gap_cv)),
                *(f"{n:,}" for n in (c.zero_rows.prompt, c.zero_rows.output, c.dropped)),
            )
            for c in summary.classes
        ],
    )
    lengths = [
        (c.name, kind, tokens)
        for c in summary.classes
        for kind, tokens in (("prompt", c.prompt_tokens), ("output", c.output_tokens))
        if tokens is not None
    ]
    print_table(
        ("class", "tokens", "mean", "p50", "p90", "p99", "maximum"),
        [
            (name, kind, *(f"{value:,.5g}" for value in asdict(tokens).values()))
            for name, kind, tokens in lengths
        ],
    )
