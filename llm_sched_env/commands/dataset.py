"""``llmsched dataset``: record episodes of a policy as a Minari dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from llm_sched_env.commands.options import (
    JsonOption,
    SeedOption,
    given_command,
    messages,
    print_json,
    require_extra,
)
from llm_sched_env.errors import ConfigurationError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched dataset --policy trunk-reservation --episodes 20 "
        "--out llmsched/overload/trunk-v0"
    )
    def dataset(
        out: Annotated[
            str, typer.Option(help="Id of the dataset for minari.load_dataset: NAMESPACE/NAME-vN.")
        ],
        task: Annotated[
            str, typer.Option(help="Environment: LLMSched-v0, LLMSchedEvent-v0, LLMSched/NAME-v0.")
        ] = "LLMSched-v0",
        policy: Annotated[
            str,
            typer.Option(help="random, plan, wait, a registered name, module:Name, or a .zip."),
        ] = "random",
        episodes: Annotated[int, typer.Option(help="How many episodes.")] = 10,
        seed: SeedOption = 0,
        epsilon: Annotated[
            float, typer.Option(help="Probability of a random action instead, at each step.")
        ] = 0.0,
        instance: Annotated[
            str | None, typer.Option(help="Preset name or instance file (.json, .toml).")
        ] = None,
        gpus: Annotated[int | None, typer.Option(help="Cluster size.")] = None,
        argument: Annotated[
            list[str] | None,
            typer.Option(help="NAME=VALUE, another argument of the environment; repeatable."),
        ] = None,
        root: Annotated[
            Path | None,
            typer.Option(help="Folder of datasets [$MINARI_DATASETS_PATH, ~/.minari/datasets]."),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Record episodes of a policy as a Minari dataset (extra `offline`)."""
        require_extra("offline", "minari", "h5py")
        from llm_sched_env.offline.datasets import record_dataset

        arguments = dict(_argument(text) for text in argument or ())
        named = {"instance": instance, "n_gpus": gpus}
        arguments |= {name: value for name, value in named.items() if value is not None}
        with Progress(console=messages) as progress:
            bar = progress.add_task(out, total=episodes)
            written = record_dataset(
                out,
                task,
                policy,
                episodes,
                seed=seed,
                epsilon=epsilon,
                arguments=arguments,
                root=root,
                command=given_command(),
                on_episode=lambda _: progress.update(bar, advance=1),
            )
        returns = written.mean_return
        result = {
            "dataset": written.dataset_id,
            "path": str(written.path),
            "policy": written.policy,
            "episodes": len(written.episode_returns),
            "steps": written.steps,
            "mean_return": returns.mean,
            "return_ci95": list(returns.ci95) if len(written.episode_returns) > 1 else None,
        }
        if as_json:
            print_json(result)
        else:
            print(f"{written.dataset_id}: {written.policy}, {written.steps:,} steps")
            print(f"mean return of {len(written.episode_returns)} episodes: {returns.mean:.4f}")
            print(f"in {written.path}")


def _argument(text: str) -> tuple[str, Any]:
    """A name and a value in JSON, or as it stands."""
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ConfigurationError("--argument", text, "NAME=VALUE, such as horizon=100")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
