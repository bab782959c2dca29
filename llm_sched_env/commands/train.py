"""``llmsched train``: train an agent on an instance, with PPO by default."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_sched_env.commands.options import (
    JsonOption,
    messages,
    output_folder,
    print_json,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.presets import resolve_instance
from llm_sched_env.tasks import evaluate_task

if TYPE_CHECKING:
    from llm_sched_env.agents.configuration import TrainingConfiguration

DEFAULT_VARIANT = "ppo-residual"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched train --instance overload --gpus 20 --steps 250000 --out runs/a"
    )
    def train(
        out: Annotated[Path, typer.Option(help="Folder of the run; the agent is agent.zip in it.")],
        task: Annotated[
            str | None, typer.Option(help="A registered task, in place of an instance.")
        ] = None,
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
            str | None,
            typer.Option(help="What is learned and how: see docs/training.md [ppo-residual]."),
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
        own = {"instance": instance, "gpus": gpus, "pricing": pricing, "budget": budget or None}
        chosen = {"task": task, **own, "seed": seed, "variant": variant}
        chosen["tensorboard"] = tensorboard or None
        checked_integer("--steps", steps)
        configuration = _resumed(out, chosen, steps) if resume else _new(out, own, chosen, steps)
        path = _train(configuration, out, steps, resume=resume)
        _tell(path, as_json=as_json)


def _resumed(out: Path, chosen: dict[str, Any], steps: int) -> TrainingConfiguration:
    """The configuration of the run in a folder, up to so many steps."""
    from llm_sched_env.agents.checkpoint import Checkpoint
    from llm_sched_env.agents.ppo import CHECKPOINT_NAME

    kept = "a resumed run keeps its settings, only `--steps` may change."
    _require_unset(chosen, "--resume", kept)
    saved = Checkpoint.load(out / CHECKPOINT_NAME)
    return dataclasses.replace(saved.configuration, total_steps=steps)


def _new(
    out: Path, own: dict[str, Any], chosen: dict[str, Any], steps: int
) -> TrainingConfiguration:
    """The configuration of the options, ``own`` those that a task decides."""
    from llm_sched_env.agents.imitation import with_measured_interval
    from llm_sched_env.agents.ppo import CHECKPOINT_NAME
    from llm_sched_env.agents.task_training import task_configuration
    from llm_sched_env.agents.training_variants import variant as find_variant

    if (out / CHECKPOINT_NAME).exists():
        raise ConfigurationError(
            f"The folder {str(out)!r} (`--out`) has an agent already; "
            "continue its training with `--resume`, or choose another folder."
        )
    variant = chosen["variant"] or DEFAULT_VARIANT
    given: dict[str, Any] = {"total_steps": steps}
    given["tensorboard"] = bool(chosen["tensorboard"])
    given["seed"] = chosen["seed"] or 0
    if chosen["task"] is not None:
        _require_unset(own, "--task", "a task has its own.")
        return task_configuration(chosen["task"], variant, **given)
    if own["budget"]:
        given["budgets"] = _budgets(own["budget"])
    configuration = find_variant(variant).configuration(
        resolve_instance(own["instance"] or "overload").to_dict(),
        n_gpus=20 if own["gpus"] is None else checked_integer("--gpus", own["gpus"]),
        pricing="bundled" if own["pricing"] is None else own["pricing"],
        **given,
    )
    return with_measured_interval(configuration)


def _train(configuration: TrainingConfiguration, out: Path, steps: int, *, resume: bool) -> Path:
    """Train with a progress bar; returns the path of the checkpoint."""
    from llm_sched_env.agents.ppo import CHECKPOINT_NAME, train

    folder = output_folder(out)
    how = "`--resume` goes on from there"
    will_be_kept("weights and curves", out / CHECKPOINT_NAME, how)
    workload = configuration.task or configuration.instance["name"]
    columns = (
        TextColumn(f"{workload}, {configuration.n_gpus} GPUs"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps, score {task.fields[score]}"),
        TextColumn("{task.fields[difference]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages) as progress:
        bar = progress.add_task("", total=steps, score="-", difference="")

        def show(row: dict[str, float]) -> None:
            score = "-" if math.isnan(row["score"]) else f"{row['score']:.4f}"
            progress.update(
                bar,
                completed=min(row["steps"], steps),
                score=score,
                difference=_difference_text(row, configuration.references),
            )

        return train(configuration, folder, resume=resume, on_update=show)


def _tell(path: Path, *, as_json: bool) -> None:
    """What became of a training, and its curve."""
    from llm_sched_env.agents.checkpoint import Checkpoint
    from llm_sched_env.agents.curve_files import write_curve

    saved = Checkpoint.load(path)
    configuration = saved.configuration
    result: dict[str, Any] = {
        "checkpoint": str(path),
        "steps": saved.steps,
        "seconds": saved.seconds,
        "score": saved.held_out["score"],
        "held_out": saved.held_out,
        "weights_steps": saved.weights_steps,
        "curve": [str(file) for file in write_curve(saved, path.parent)],
        "versions": saved.versions,
    }
    if configuration.task:
        result["task"] = evaluate_task(configuration.task, str(path)).to_dict()
    if as_json:
        print_json(result)
        return
    print(f"{path}: {saved.steps:,} steps in {saved.seconds:.0f} s")
    print(f"kept: the weights after {saved.weights_steps:,} steps, the best evaluation")
    _print_held_out(saved.held_out, configuration.references, configuration.budgets)
    if configuration.task:
        _print_task(result["task"])


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


def _print_task(result: dict[str, Any]) -> None:
    """The selected weights on the held-out runs of their task."""
    share, closed = result["share"], result["closed"]
    lines = [
        ("share of the bound", _interval(share)),
        (f"best rule, {result['best_rule']}", _interval(result["best_rule_share"])),
        ("headroom closed", _interval(closed)),
    ]
    print_table(("held out", "%"), lines, title=result["task"])


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{100 * estimate['mean']:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _require_unset(chosen: dict[str, Any], option: str, reason: str) -> None:
    """Options that another one decides: naming them would do nothing."""
    given = [name for name, value in chosen.items() if value is not None]
    if given:
        raise ConfigurationError(
            f"`{option}` cannot be combined with "
            f"{', '.join(f'`--{name}`' for name in given)}: {reason}"
        )
