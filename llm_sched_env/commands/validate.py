"""``llmsched validate``: hold the simulator against a measured run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    JsonOption,
    SeedOption,
    numbers,
    print_json,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.commands.static_priority import (
    PriorityOption,
    ReserveOption,
    ordered_policy,
)
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Prices
from llm_sched_env.validation.report import figure_rows, write_validation
from llm_sched_env.validation.validate import validate as compare


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched validate serve_b32_heavy.csv --hardware h100-llama3-8b-b32 "
        "--gpus 1 --policy fcfs-immediate --out validation"
    )
    def validate(
        requests: Annotated[
            Path,
            typer.Argument(
                metavar="REQUESTS.csv",
                help="A measured run, a row a request: id, arrival_seconds, class, prompt_tokens, "
                "output_tokens, patience_seconds, outcome, prefill_start, first_token, end.",
            ),
        ],
        hardware: Annotated[
            str, typer.Option(help="Hardware file (`llmsched calibrate`) or a preset's name.")
        ],
        gpus: Annotated[int, typer.Option(help="Cluster size n.")] = 1,
        policy: Annotated[
            str, typer.Option(help="Compiled rule that the measured scheduler follows.")
        ] = "fcfs-immediate",
        priority: PriorityOption = None,
        reserve: ReserveOption = None,
        horizon: Annotated[
            float | None, typer.Option(help="Seconds (default: to the last event of the file).")
        ] = None,
        prices: Annotated[
            str, typer.Option(help="Revenue per prompt and output token.", metavar="CP,CD")
        ] = "0.1,0.2",
        seed: SeedOption = 0,
        out: Annotated[
            Path | None, typer.Option(help="Folder for figures, table and requests.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Replay a measured run and show how far off the simulator is, figure by figure."""
        if out is not None:
            require_extra("report", "matplotlib")
        result = compare(
            requests,
            hardware,
            gpus,
            ordered_policy(policy, priority, reserve),
            horizon=horizon,
            prices=_prices(prices),
            seed=seed,
        )
        if out is not None:
            print_note(
                f"wrote {', '.join(str(out / name) for name in write_validation(result, out))}"
            )
        if as_json:
            print_json(result.to_dict())
        else:
            print_table(
                ("", "measured", "simulated", "error"),
                figure_rows(result),
                title=f"{len(result.measured_run)} requests, {result.horizon:.6g} s",
            )


def _prices(text: str) -> Prices:
    values = numbers("--prices", text)
    if len(values) != len(("prefill", "decode")):
        raise ConfigurationError("--prices", text, "CP,CD: per prompt and output token")
    return Prices(*values)
