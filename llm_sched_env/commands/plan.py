"""``llmsched plan``: the fluid plan of an instance."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from llm_sched_env.commands.options import (
    InstanceOption,
    JsonOption,
    PricingOption,
    messages,
    print_json,
)
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning import plan as solve


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched plan --instance base --json")
    def plan(
        instance: InstanceOption = "base",
        pricing: PricingOption = "bundled",
        as_json: JsonOption = False,
    ) -> None:
        """Solve the fluid program: R*, occupancies, admission fractions, shadow prices."""
        result = solve(instance, pricing)
        if as_json:
            print_json(result.to_dict())
        else:
            _print(result)
        if result.note():
            messages.print(f"note: {result.note()}")


def _print(result: FluidPlan) -> None:
    console = Console()
    console.print(
        f"R* = {result.value:.4f} per GPU and second ({result.instance.name}, {result.pricing}); "
        f"mixed pool {result.mixed_fraction:.4f} of the GPUs"
    )
    columns = ("x", "y_mixed", "y_solo", "q_prefill", "q_decode")
    columns += ("admission_fraction", "solo_probability")
    table = Table("class", *columns)
    for i, request_class in enumerate(result.instance.classes):
        table.add_row(request_class.name, *(f"{getattr(result, c)[i]:.5f}" for c in columns))
    console.print(table)
    for name, dual in result.duals.items():
        values = dual.tolist() if hasattr(dual, "tolist") else [dual]
        console.print(f"dual {name}: {', '.join(f'{v:.4f}' for v in values)}")
