"""``llmsched sweep``: train PPO over instances, cluster sizes and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    BackendOption,
    InstancesOption,
    JsonOption,
    PricingOption,
    RayAddressOption,
    WorkersOption,
    integers,
    messages,
    names,
    output_folder,
    print_json,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.presets import resolve_instance

if TYPE_CHECKING:
    from llm_sched_env.agents.sweep import TrainingRun


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched sweep --instance base,overload --gpus 5,20 --seeds 0,1 "
        "--jobs 2 --out runs/sweep"
    )
    def sweep(
        out: Annotated[Path, typer.Option(help="Gets a folder per run, the agent in agent.zip.")],
        instance: InstancesOption = "base,overload",
        gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "20",
        seeds: Annotated[str, typer.Option(help="Seeds of the training, comma-separated.")] = "0",
        steps: Annotated[
            int, typer.Option(help="Environment steps of each run, rounded up to whole rollouts.")
        ] = 250_000,
        part_steps: Annotated[
            int, typer.Option(help="Steps between saved parts: the most that a stop can lose.")
        ] = 500_000,
        pricing: PricingOption = "bundled",
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Train a PPO agent for every combination (extra `agents`); resumes when started again.

        Finished runs are left alone; with more --steps they are continued.
        """
        require_extra("agents", "torch", "stable_baselines3", "sb3_contrib")
        from llm_sched_env.agents.checkpoint import Checkpoint
        from llm_sched_env.agents.configuration import TrainingConfiguration
        from llm_sched_env.agents.sweep import sweep as train_all
        from llm_sched_env.agents.sweep import training_runs

        executor = Executor(jobs, backend, ray_address)
        configurations = [
            TrainingConfiguration(
                instance=resolved.to_dict(),
                n_gpus=n_gpus,
                pricing=pricing,
                total_steps=checked_integer("--steps", steps),
                seed=seed,
            )
            for resolved in [resolve_instance(name) for name in names("--instance", instance)]
            for n_gpus in integers("--gpus", gpus)
            for seed in _seeds(seeds)
        ]
        runs = training_runs(configurations, out, checked_integer("--part-steps", part_steps))
        finished = sum(run.next_target() is None for run in runs)
        executor.connect()
        will_be_kept("finished parts", output_folder(out))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=messages) as progress:
            task = progress.add_task("runs", total=len(runs), completed=finished)

            def show(run: TrainingRun) -> None:
                ended = run.next_target() is None
                progress.update(task, description=run.folder.name, advance=ended)

            train_all(runs, executor, show)
        _print([Checkpoint.load(r.checkpoint) for r in runs], [r.checkpoint for r in runs], as_json)


def _seeds(text: str) -> list[int]:
    """A comma-separated list of whole numbers >= 0."""
    items = names("--seeds", text)
    if not all(item.isdecimal() for item in items):
        raise ConfigurationError("--seeds", text, "comma-separated integers >= 0, such as 0,1,2")
    return [int(item) for item in items]


def _print(saved: list[Any], paths: list[Path], as_json: bool) -> None:
    """A line per run; the score is that of the selected weights, on fresh requests."""
    rows = [
        {
            "instance": agent.configuration.instance["name"],
            "n_gpus": agent.configuration.n_gpus,
            "seed": agent.configuration.seed,
            "steps": agent.steps,
            "seconds": agent.seconds,
            "score": agent.held_out["score"],
            "checkpoint": str(path),
        }
        for agent, path in zip(saved, paths, strict=True)
    ]
    if as_json:
        print_json({"runs": rows})
        return
    print_table(
        ("instance", "n", "seed", "steps", "score", "checkpoint"),
        [
            (
                row["instance"],
                f"{row['n_gpus']}",
                f"{row['seed']}",
                f"{row['steps']:,}",
                f"{row['score']:.4f}",
                row["checkpoint"],
            )
            for row in rows
        ],
    )
