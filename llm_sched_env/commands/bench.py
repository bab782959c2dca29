"""``llmsched bench``: events per second of the engine and of other simulators."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_sched_env.commands.options import (
    InstanceOption,
    JsonOption,
    SeedOption,
    integers,
    messages,
    names,
    output_folder,
    print_json,
    print_lines,
    print_table,
    require_extra,
    warn_former_option,
)
from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number
from llm_sched_env.presets import resolve_instance

if TYPE_CHECKING:
    from llm_sched_env.model.instance import Instance

DEFAULT_SIMULATORS = "llm-sched-env,llm-sched-env-kv,heapq,simpy,ciw,floor"


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What both kinds of measurement share, checked."""

    instance: Instance
    runs: int
    seed: int
    seconds: float
    out: Path | None
    as_json: bool

    def seed_note(self) -> str:
        """What was simulated, with which seed."""
        return f"Instance {self.instance.name}, seed {self.seed}, {self.seconds:g} s per run."


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched bench --gpus 20,10000")
    def bench(
        instance: InstanceOption = "base",
        gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "20,10000",
        runs: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 5,
        simulators: Annotated[
            str, typer.Option(help="Compared with the engine, comma-separated.")
        ] = DEFAULT_SIMULATORS,
        contenders: Annotated[str | None, typer.Option(hidden=True)] = None,
        seconds: Annotated[float, typer.Option(help="Length of a run, about.")] = 0.5,
        scaling: Annotated[
            int | None,
            typer.Option(help="Cost per event at n = 1, 3, 10, ... up to this, and its memory."),
        ] = None,
        vector: Annotated[
            bool, typer.Option("--vector", help="Measure the vector environments instead.")
        ] = False,
        out: Annotated[
            Path | None, typer.Option(help="Folder for the results as CSV, Markdown and PNG.")
        ] = None,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Measure events per second on one CPU under gate-and-route."""
        sizes = integers("--gpus", gpus)
        if not is_finite_number(seconds, positive=True):
            raise ConfigurationError("--seconds", seconds, "a number > 0")
        settings = _Settings(
            resolve_instance(instance),
            checked_integer("--runs", runs),
            checked_integer("--seed", seed, 0),
            seconds,
            out,
            as_json,
        )
        if vector:
            _bench_vector(settings)
            return
        largest = None if scaling is None else checked_integer("--scaling", scaling)
        if contenders is not None:
            warn_former_option("--contenders", "--simulators")
            simulators = contenders
        _bench_engine(settings, sizes, names("--simulators", simulators), largest)


def _bench_engine(
    settings: _Settings, sizes: list[int], simulators: list[str], largest: int | None
) -> None:
    """The table of simulators and, if asked for, memory and cost per event."""
    from llm_sched_env.benchmarks import result_files as files
    from llm_sched_env.benchmarks.cost_per_event import log_grid, measure_costs, write_cost_figure
    from llm_sched_env.benchmarks.engine_speed import measure
    from llm_sched_env.benchmarks.machine import machine
    from llm_sched_env.benchmarks.peak_memory import measure_memory
    from llm_sched_env.benchmarks.simulators import chosen_simulators

    chosen = chosen_simulators(simulators)
    folder = _folder(settings.out, figure=largest is not None)
    instance, runs, seed = settings.instance, settings.runs, settings.seed
    memory, costs = None, []
    with messages.status("measuring") as status:
        rows = measure(instance, sizes, runs, seed, chosen, settings.seconds, status.update)
        if largest is not None:
            memory = measure_memory(instance, largest, seed)
            grid = log_grid(largest)
            costs = measure_costs(instance, grid, runs, seed, settings.seconds, status.update)
    notes = [settings.seed_note(), files.machine_line(machine())]
    if folder is not None:
        files.write_csv(rows, folder / "speed.csv")
        files.write_speed_page(rows, costs, memory, notes, folder / "speed.md")
        if costs:
            files.write_csv(costs, folder / "cost_per_event.csv")
            write_cost_figure(costs, folder / "cost_per_event.png")
    if settings.as_json:
        print_json(
            {
                "rows": [dataclasses.asdict(row) for row in rows],
                "cost_per_event": [dataclasses.asdict(row) for row in costs],
                "memory": None if memory is None else dataclasses.asdict(memory),
                "machine": machine(),
            }
        )
        return
    # Without the model, which files and documentation tell: a terminal is narrow.
    n, simulator, _, *rest = files.SPEED_HEADER
    cells = [(row[0], row[1], *row[3:]) for row in files.speed_cells(rows)]
    print_table((n, simulator, *rest), cells)
    if costs:
        print_table(files.COST_HEADER, files.cost_cells(costs))
    if memory is not None:
        print_lines(files.memory_line(memory))
    print_lines(*notes)


def _bench_vector(settings: _Settings) -> None:
    """Compare the native vector environment with Gymnasium's."""
    from llm_sched_env.benchmarks import result_files as files
    from llm_sched_env.benchmarks.decision_speed import measure_decisions
    from llm_sched_env.benchmarks.machine import machine
    from llm_sched_env.benchmarks.vector_speed import NUM_ENVS, measure_api_overhead, measure_vector

    folder = _folder(settings.out, figure=False)
    measured = (settings.instance, settings.runs, settings.seed, settings.seconds)
    with messages.status("measuring") as status:
        rows = measure_vector(*measured, on_run=status.update)
        api_overhead = measure_api_overhead(*measured)
        decisions = measure_decisions(*measured, on_run=status.update)
    notes = [settings.seed_note(), files.machine_line(machine())]
    if folder is not None:
        files.write_csv(rows, folder / "vector.csv")
        files.write_csv(decisions, folder / "decisions.csv")
        files.write_vector_page(rows, api_overhead, decisions, notes, folder / "vector.md")
    if settings.as_json:
        print_json(
            {
                "rows": [dataclasses.asdict(row) for row in rows],
                "api_overhead_microseconds": dataclasses.asdict(api_overhead),
                "decisions": [dataclasses.asdict(row) for row in decisions],
                "machine": machine(),
            }
        )
        return
    print_table(files.VECTOR_HEADER, files.vector_cells(rows))
    print_table(files.DECISION_HEADER, files.vector_cells(decisions))
    print_lines(files.api_overhead_line(api_overhead, NUM_ENVS), *notes)


def _folder(out: Path | None, *, figure: bool) -> Path | None:
    """The folder for results, made before anything is measured."""
    if out is None:
        return None
    if figure:
        require_extra("report", "matplotlib")
    return output_folder(out)
