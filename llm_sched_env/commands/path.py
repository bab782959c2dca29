"""``llmsched path``: integrate the fluid dynamics from an initial state."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from llm_sched_env.commands.options import (
    FormerSloOption,
    InstanceOption,
    JsonOption,
    PricingOption,
    SloOption,
    numbers,
    objectives,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.files.atomic import write_rows
from llm_sched_env.planning import FluidPath, FluidPlan, fluid_path
from llm_sched_env.planning import plan as solve

STATIONS = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
# Rows of the table on the terminal.
_SHOWN = 7
_MOST_ROWS = 1e6
# The integration's own tolerance.
_LEAST_SECONDS = 1e-6


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched path --instance base --horizon 60 --out path.csv")
    def path(
        instance: InstanceOption = "base",
        pricing: PricingOption = "bundled",
        horizon: Annotated[float, typer.Option(help="Seconds.")] = 60.0,
        every: Annotated[float, typer.Option(help="Seconds between rows.")] = 0.5,
        router: Annotated[
            str,
            typer.Option(help="solo-first (gate-and-route) or randomized (SLI-aware)."),
        ] = "solo-first",
        start: Annotated[str, typer.Option(help="empty or plan.")] = "empty",
        backlog: Annotated[
            str | None,
            typer.Option(
                help="Requests per GPU that wait for prefill at the start, one number per class."
            ),
        ] = None,
        slo: SloOption = None,
        sli: FormerSloOption = None,
        out: Annotated[
            Path | None, typer.Option(help="CSV file; its figure is written next to it (.png).")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Integrate the fluid dynamics (24)-(37): occupancies per GPU over time."""
        times = _times(horizon, every)
        fluid = solve(instance, pricing, slos=objectives(slo, sli))
        state = _start(fluid, start, backlog)
        if out is not None:
            require_extra("report", "matplotlib")
            if out.suffix != ".csv":
                raise ConfigurationError("--out", str(out), "a file name that ends in .csv")
            output_folder(out.parent)
        found = fluid_path(fluid, horizon, router=router, start=state).at(times)
        if out is not None:
            _write(fluid, found, out)
        if as_json:
            print_json(_plain(fluid, found))
        else:
            _print(fluid, found, router)
        if fluid.note():
            print_note(f"note: {fluid.note()}")


def _times(horizon: float, every: float) -> np.ndarray:
    """Times of the rows, from 0 to the horizon, which is one of them."""
    for option, value in (("--horizon", horizon), ("--every", every)):
        if not is_finite_number(value, positive=True):
            raise ConfigurationError(option, value, "a finite number of seconds > 0")
    if horizon < _LEAST_SECONDS:
        raise ConfigurationError("--horizon", horizon, f"at least {_LEAST_SECONDS:g} s")
    if horizon / every > _MOST_ROWS:
        raise ConfigurationError("--every", every, f"at least {horizon / _MOST_ROWS:g} s")
    times: np.ndarray = np.append(np.arange(0.0, horizon - 1e-9 * every, every), horizon)
    return times


def _start(fluid: FluidPlan, start: str, backlog: str | None) -> np.ndarray:
    """The state at time 0, shape (5, I)."""
    if start not in {"empty", "plan"}:
        raise ConfigurationError("--start", start, "empty or plan")
    if start == "plan" and fluid.unstable_classes:
        raise ConfigurationError(
            "`--start plan` needs a plan with stable queues; use `--start empty`."
        )
    state = fluid.occupancy if start == "plan" else np.zeros((5, fluid.instance.n_classes))
    if backlog is not None:
        waiting = numbers("--backlog", backlog)
        if len(waiting) != fluid.instance.n_classes:
            raise ConfigurationError(
                "--backlog", backlog, f"{fluid.instance.n_classes} numbers, one per class"
            )
        state[0] += waiting
    return state


def _names(fluid: FluidPlan) -> list[str]:
    return [c.name for c in fluid.instance.classes]


def _write(fluid: FluidPlan, found: FluidPath, out: Path) -> None:
    """One row per time, one column per station and class; the figure next to it."""
    from llm_sched_env.evaluation.report import write_path_figure

    names = _names(fluid)
    columns = ["time", *(f"{station} {name}" for station in STATIONS for name in names)]
    rows = np.column_stack([found.times, found.occupancy.reshape(len(found.times), -1)])
    write_rows(out, columns, (dict(zip(columns, row, strict=True)) for row in rows.tolist()))
    figure = out.with_suffix(".png")
    write_path_figure(found, names, figure)
    print_note(f"wrote {out} and {figure}")


def _plain(fluid: FluidPlan, found: FluidPath) -> dict[str, Any]:
    """Plain data: times, switches, and per station a list of occupancies by class."""
    stations = {name: getattr(found, name).tolist() for name in STATIONS}
    return {
        "instance": fluid.instance.name,
        "classes": _names(fluid),
        "times": found.times.tolist(),
        "switches": found.switches.tolist(),
        **stations,
    }


def _print(fluid: FluidPlan, found: FluidPath, router: str) -> None:
    """A few times of the path, and the plan that it may lead to."""
    print_lines(
        f"fluid path of {fluid.instance.name}, router {router}, {len(found.switches)} regimes; "
        "requests per GPU"
    )
    chosen = np.unique(np.linspace(0, len(found.times) - 1, _SHOWN).round().astype(int))
    rows = []
    for i, name in enumerate(_names(fluid)):
        moments = [(f"{found.times[k]:g} s", found.occupancy[k, :, i]) for k in chosen]
        moments.append(("plan", fluid.occupancy[:, i]))
        rows += [(name, when, *(f"{value:.4f}" for value in values)) for when, values in moments]
    print_table(("class", "time", *STATIONS), rows)
