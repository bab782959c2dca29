"""``llmsched adapt``: the operating point of each hour, with a simulator that may be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.adaptation.cases import SIMULATORS, default_cluster
from llm_sched_env.adaptation.experiment import Adaptation, AdaptationResult, default_points
from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    RevenueOption,
    SeedOption,
    WorkersOption,
    messages,
    names,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.presets import resolve_instance

if TYPE_CHECKING:
    from llm_sched_env.evaluation.results import Estimate


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched adapt --simulators right,a100-llama3-8b --out adapted")
    def adapt(
        out: Annotated[
            Path, typer.Option(help="Folder for adapt.json, adapt.png and finished runs, cells/.")
        ],
        instance: Annotated[
            str | None,
            typer.Option(
                help="The real cluster: preset or instance file; default h100-chat with deadlines."
            ),
        ] = None,
        simulators: Annotated[
            str,
            typer.Option(
                help="What the offline data are from: right, two-speed, or a hardware file or "
                "preset; comma-separated."
            ),
        ] = ",".join(SIMULATORS),
        gpus: Annotated[int, typer.Option(help="Cluster size n.")] = 8,
        days: Annotated[int, typer.Option(help="Days of 24 hours that are played.")] = 30,
        repetitions: Annotated[
            int, typer.Option(help="Plays of each method; the intervals are over them.")
        ] = 10,
        revenue: RevenueOption = "goodput",
        noise: Annotated[
            float, typer.Option(help="Noise that policies assume, share of R* when busiest.")
        ] = 0.1,
        seed: SeedOption = 0,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare bandits that set reserves, prefill GPUs, chunk and slots of each hour.

        An interrupted run resumes: finished simulations are cached in cells/.
        """
        require_extra("report", "matplotlib")
        executor = Executor(jobs, backend, ray_address)
        adaptation = Adaptation(
            default_cluster() if instance is None else resolve_instance(instance),
            tuple(names("--simulators", simulators)),
            default_points(),
            n_gpus=gpus,
            days=days,
            repetitions=repetitions,
            revenue=revenue,
            noise=noise,
            seed=seed,
        )
        executor.connect()
        folder = output_folder(out)
        will_be_kept("finished simulations", folder / "cells")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
            task = progress.add_task("simulations", total=adaptation.evaluations)
            result = adaptation.run(
                executor, folder / "cells", lambda: progress.update(task, advance=1)
            )
        _write(result, folder)
        if as_json:
            print_json(result.to_dict())
        else:
            _print(result)
        print_note(f"wrote adapt.json and adapt.png to {folder}")


def _write(result: AdaptationResult, folder: Path) -> None:
    from llm_sched_env.adaptation.figure import write_figure

    write_whole(folder / "adapt.json", json.dumps(result.to_dict(), indent=1, allow_nan=False))
    write_figure(result, folder / "adapt.png")


def _print(result: AdaptationResult) -> None:
    """A row a method, a column a simulator; then what each simulator takes for the best."""
    cases = result.cases
    print_table(
        ("lost, %", *(f"{case.simulator} {case.kind}".strip() for case in cases)),
        [(method, *(_percent(case.at[method]["end"]) for case in cases)) for method in cases[0].at],
        title=f"share of the best fixed point's revenue lost in {result.adaptation.days} days",
    )
    print_lines(
        f"best fixed point: {cases[0].best_point.text()}",
        *(
            f"{case.simulator}: takes {case.simulated_best_point.text()} for the best, "
            f"which loses {case.loss:.1%}"
            for case in cases
        ),
    )


def _percent(estimate: Estimate) -> str:
    """A mean in percent with half of its 95% interval, where it has one."""
    half = estimate.ci95[1] - estimate.mean
    return f"{100 * estimate.mean:.2f}" + (f" ± {100 * half:.2f}" if math.isfinite(half) else "")
