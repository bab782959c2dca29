"""``llmsched train``: train an agent on an instance, with PPO by default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_sched_env.commands.options import (
    JsonOption,
    messages,
    output_folder,
    print_json,
    print_table,
    require_extra,
)
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.presets import resolve_instance


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched train --instance overload --gpus 20 --steps 250000 --out runs/a"
    )
    def train(
        out: Annotated[Path, typer.Option(help="Folder of the run; the agent is agent.zip in it.")],
        instance: Annotated[
            str | None, typer.Option(help="Preset name or instance file [overload].")
        ] = None,
        gpus: Annotated[int | None, typer.Option(help="Cluster size to train on [20].")] = None,
        steps: Annotated[
            int, typer.Option(help="Environment steps, rounded up to whole rollouts.")
        ] = 250_000,
        pricing: Annotated[str | None, typer.Option(help="bundled or separate [bundled].")] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of the training [0].")] = None,
        variant: Annotated[
            str | None, typer.Option(help="What is learned and how: see docs/training.md [trunk].")
        ] = None,
        budget: Annotated[
            list[str] | None,
            typer.Option(help="NAME=NUMBER, a cost's budget for ppo-lagrangian; repeatable."),
        ] = None,
        resume: Annotated[
            bool, typer.Option(help="Continue the run in --out up to --steps.")
        ] = False,
        tensorboard: Annotated[bool, typer.Option(help="Also log for TensorBoard.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Train an agent, PPO by default, and compare it with rules on the way (extra `agents`)."""
        require_extra("agents", "torch", "stable_baselines3", "sb3_contrib")
        if tensorboard:
            require_extra("tensorboard", "tensorboard")
        from llm_sched_env.agents.checkpoint import Checkpoint
        from llm_sched_env.agents.curve_files import write_curve
        from llm_sched_env.agents.imitation import with_measured_interval
        from llm_sched_env.agents.ppo import CHECKPOINT_NAME
        from llm_sched_env.agents.ppo import train as run
        from llm_sched_env.agents.training_variants import variant as find_variant

        existing = out / CHECKPOINT_NAME
        chosen: dict[str, Any] = {
            "instance": instance,
            "gpus": gpus,
            "pricing": pricing,
            "seed": seed,
        }
        chosen |= {"tensorboard": tensorboard or None, "variant": variant, "budget": budget or None}
        if resume:
            _require_unset(chosen)
            configuration = dataclasses.replace(
                Checkpoint.load(existing).configuration,
                total_steps=checked_integer("--steps", steps),
            )
        else:
            if existing.exists():
                raise ConfigurationError(
                    f"The folder {str(out)!r} (`--out`) has an agent already; "
                    "continue its training with `--resume`, or choose another folder."
                )
            configuration = find_variant(variant or "trunk").configuration(
                resolve_instance("overload" if instance is None else instance).to_dict(),
                n_gpus=20 if gpus is None else checked_integer("--gpus", gpus),
                pricing="bundled" if pricing is None else pricing,
                total_steps=checked_integer("--steps", steps),
                seed=0 if seed is None else seed,
                tensorboard=tensorboard,
                **({"budgets": _budgets(budget)} if budget else {}),
            )
            configuration = with_measured_interval(configuration)
        folder = output_folder(out)
        columns = (
            TextColumn(f"{configuration.instance['name']}, {configuration.n_gpus} GPUs"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps, score {task.fields[score]}"),
            TextColumn("{task.fields[difference]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=messages) as progress:
            task = progress.add_task("", total=steps, score="-", difference="")

            def show(row: dict[str, float]) -> None:
                score = "-" if math.isnan(row["score"]) else f"{row['score']:.4f}"
                progress.update(
                    task,
                    completed=min(row["steps"], steps),
                    score=score,
                    difference=_difference_text(row, configuration.references),
                )

            path = run(configuration, folder, resume=resume, on_update=show)
        saved = Checkpoint.load(path)
        written = write_curve(saved, folder)
        result = {
            "checkpoint": str(path),
            "steps": saved.steps,
            "seconds": saved.seconds,
            "score": saved.held_out["score"],
            "held_out": saved.held_out,
            "weights_steps": saved.weights_steps,
            "curve": [str(file) for file in written],
            "versions": saved.versions,
        }
        if as_json:
            print_json(result)
        else:
            print(f"{path}: {saved.steps:,} steps in {saved.seconds:.0f} s")
            print(f"kept: the weights after {saved.weights_steps:,} steps, the best evaluation")
            _print_held_out(saved.held_out, configuration.references, configuration.budgets)


def _difference_text(row: dict[str, float], references: Sequence[str]) -> str:
    """Compare the last evaluation with the first reference."""
    if "difference" not in row:
        return ""
    return f"{references[0]} {100 * row['difference']:+.2f}±{100 * row['half_width']:.2f}%"


def _budgets(given: Sequence[str]) -> dict[str, float]:
    """Budgets by name, from NAME=NUMBER each."""
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.partition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise ConfigurationError("--budget", text, "NAME=NUMBER, such as tpot=0.024") from None
    return found


def _print_held_out(
    row: dict[str, float], references: Sequence[str], budgets: dict[str, float]
) -> None:
    """The selected weights, on fresh requests."""
    from llm_sched_env.agents.training_evaluation import difference

    lines = [("score", f"{100 * row['score']:.2f}")]
    for name in references:
        mean, half_width = difference(row, name)
        lines.append((f"beyond {name}", f"{100 * mean:+.2f} ± {100 * half_width:.2f}"))
    print_table(("on new requests", "% of R*"), lines)
    costs = [
        (name, f"{row[f'cost {name}']:.4g} ± {row[f'cost {name} high'] - row[f'cost {name}']:.2g}")
        for name in budgets
    ]
    if costs:
        kept = [(*line, f"{budgets[line[0]]:g}") for line in costs]
        print_table(("cost", "of an episode", "budget"), kept)


def _require_unset(chosen: dict[str, Any]) -> None:
    """A resumed run keeps its own settings: naming others would do nothing."""
    given = [name for name, value in chosen.items() if value is not None]
    if given:
        raise ConfigurationError(
            "`--resume` cannot be combined with "
            f"{', '.join(f'`--{name}`' for name in given)}: a resumed run keeps its settings, only "
            "`--steps` may change."
        )
