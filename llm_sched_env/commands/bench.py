"""``llmsched bench``: events per second of the engine and of a plain Python loop."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    InstanceOption,
    JsonOption,
    SeedOption,
    integers,
    messages,
    print_json,
    print_lines,
    print_table,
)
from llm_sched_env.errors import checked_integer
from llm_sched_env.presets import resolve_instance


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched bench --gpus 20,10000")
    def bench(
        instance: InstanceOption = "base",
        gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "20,10000",
        runs: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 5,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Measure events per second on one core under gate-and-route."""
        from llm_sched_env.benchmarks.engine_speed import machine, measure

        sizes = integers("--gpus", gpus)
        with messages.status("measuring") as status:
            rows = measure(
                resolve_instance(instance),
                sizes,
                checked_integer("--runs", runs),
                seed,
                status.update,
            )
        if as_json:
            print_json({"rows": [dataclasses.asdict(row) for row in rows], "machine": machine()})
            return
        yardstick = {row.n_gpus: row.median for row in rows if row.contender == "heapq loop"}
        print_table(
            ("n", "contender", "events/s (median)", "least", "greatest", "ratio"),
            [
                (
                    str(row.n_gpus),
                    row.contender,
                    *(f"{v:,.0f}" for v in (row.median, row.least, row.greatest)),
                    f"{row.median / yardstick[row.n_gpus]:.1f}x",
                )
                for row in rows
            ],
        )
        print_lines(", ".join(f"{key} {value}" for key, value in machine().items()))
