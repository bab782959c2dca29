"""``llmsched plan``: the fluid plan of an instance."""

from __future__ import annotations

import numpy as np
import typer

from llm_sched_env.commands.options import (
    FormerSloOption,
    InstanceOption,
    JsonOption,
    PricingOption,
    SloOption,
    objectives,
    print_json,
    print_lines,
    print_note,
    print_table,
)
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning import plan as solve
from llm_sched_env.planning.fleet_plan import FleetPlan


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched plan --instance base --slo prefill-fairness@limit=0.1 --json"
    )
    def plan(
        instance: InstanceOption = "base",
        pricing: PricingOption = "bundled",
        slo: SloOption = None,
        sli: FormerSloOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Solve the fluid program: R*, occupancies, admission fractions, shadow prices."""
        result = solve(instance, pricing, slos=objectives(slo, sli))
        if as_json:
            print_json(result.to_dict())
        elif isinstance(result, FleetPlan):
            _print_fleet(result)
        else:
            _print(result)
        if result.note():
            print_note(f"note: {result.note()}")


def _print_fleet(result: FleetPlan) -> None:
    """What each group of GPUs does for each class."""
    name = f"{result.instance.name}, {result.pricing}"
    print_lines(f"R* = {result.value:.4f} per GPU and second ({name})")
    groups = zip(result.groups, result.given.groups, strict=True)
    rows = [(g["name"], group.role, f"{group.share:.4g}", g) for g, group in groups]
    print_table(
        ("group", "role", "share", "solo iterations /s", "mixed /s", "time in use"),
        [
            (*known, *(f"{g[k]:.4f}" for k in ("solo_iterations", "mixed_iterations", "time")))
            for *known, g in rows
        ],
    )
    places = [
        (f"{c.name} in {group.name}", i, g)
        for i, c in enumerate(result.given.classes)
        for g, group in enumerate(result.given.groups)
    ]
    arrays = (
        *(result.x, result.y_mixed, result.y_solo),
        *(result.admission_fraction, result.decode_share),
    )
    print_table(
        ("class and group", "x", "y_m", "y_s", "f", "share of decodes"),
        [(name, *(f"{array[i, g]:.5f}" for array in arrays)) for name, i, g in places],
    )
    for name, dual in result.duals.items():
        values = np.ravel(dual).tolist()
        print_lines(f"shadow price {name}: {', '.join(f'{v:.4f}' for v in values)}")


def _print(result: FluidPlan) -> None:
    print_lines(
        f"R* = {result.value:.4f} per GPU and second ({result.instance.name}, {result.pricing}); "
        f"mixed pool {result.mixed_fraction:.4f} of the GPUs"
    )
    if result.given.hardware.iteration_law == "kv-aware":
        speeds = result.instance.hardware
        print_lines(
            f"mean iteration: {1e3 * speeds.tau_mixed:.3f} ms with a prefill, "
            f"{1e3 * speeds.tau_solo:.3f} ms without"
        )
    if result.slos:
        print_lines(
            f"with service levels: revenue {result.revenue_rate:.4f}, "
            f"{result.revenue_rate / result.value:.4f} of R*; less penalties {result.objective:.4f}"
        )
    columns = [*result.occupancy[[1, 3, 4, 0, 2]]]
    columns += [result.admission_fraction, result.solo_probability]
    print_table(
        ("class", "x", "y_m", "y_s", "q_p", "q_d", "f", "p_s"),
        [
            (request_class.name, *(f"{column[i]:.5f}" for column in columns))
            for i, request_class in enumerate(result.instance.classes)
        ],
    )
    for name, dual in result.duals.items():
        values = dual.tolist() if hasattr(dual, "tolist") else [dual]
        print_lines(f"shadow price {name}: {', '.join(f'{v:.4f}' for v in values)}")
    for name, level in result.slos.items():
        limited = "" if level.limit is None else f", limit {level.limit:g}, dual {level.dual:.4f}"
        priced = (
            "" if level.price is None else f", price {level.price:g}, penalty {level.penalty:.4f}"
        )
        print_lines(f"service level {name}: {level.value:.6g}{limited}{priced}")
