"""``llmsched instances``: list the presets, or write one as a file to start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    JsonOption,
    TraceOption,
    print_json,
    print_table,
    trace_paths,
)
from llm_sched_env.model.hardware_presets import HARDWARE_PRESETS
from llm_sched_env.model.instance import Instance, load_hardware
from llm_sched_env.planning import plan
from llm_sched_env.presets import NAMED_INSTANCES, TRACE_ARRIVAL_RATE, azure2023, resolve_instance


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched instances --show overload --save my.toml")
    def instances(
        show: Annotated[str | None, typer.Option(help="Show one: a preset or a file.")] = None,
        trace: TraceOption = None,
        load: Annotated[
            float, typer.Option(help="Requests per second and GPU of azure2023.")
        ] = TRACE_ARRIVAL_RATE,
        hardware: Annotated[
            str | None,
            typer.Option(help="Use the hardware of this file, or of this preset of hardware."),
        ] = None,
        save: Annotated[
            Path | None, typer.Option(help="Write it as an instance file (.json, .toml).")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """List the presets, show one, or write one as an instance file."""
        if trace:
            chosen = [azure2023(trace_paths(trace), arrival_rate=load)]
        elif show:
            chosen = [resolve_instance(show)]
        else:
            chosen = [make() for make in NAMED_INSTANCES.values()]
        if hardware is not None:
            measured = load_hardware(hardware)
            chosen = [replace(instance, hardware=measured) for instance in chosen]
        if save is not None:
            if len(chosen) > 1:
                raise typer.BadParameter(
                    "--save needs one instance: name it with --show or --trace"
                )
            chosen[0].save(save)
        if as_json:
            print_json({i.name: i.to_dict() for i in chosen})
            return
        _print(chosen)
        if not trace and not show:
            print_table(("hardware", "measured on"), HARDWARE_PRESETS.items())


def _print(instances: Sequence[Instance]) -> None:
    rows = []
    for instance in instances:
        title = f"{instance.name} (R* {plan(instance).value:.2f})"
        for k, c in enumerate(instance.classes):
            numbers = (c.prompt_tokens, c.output_tokens, c.arrival_rate, c.patience_rate)
            rows.append((title if k == 0 else "", c.name, *(f"{v:.5g}" for v in numbers)))
    print_table(("instance", "class", "prompt", "output", "arrivals /s/GPU", "patience /s"), rows)
