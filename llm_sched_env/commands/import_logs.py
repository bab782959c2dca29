"""``llmsched import-logs``: a measured run from what the clients of vLLM or SGLang write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import print_note


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("import-logs", epilog="Example: llmsched import-logs vllm.json --out requests.csv")
    def import_logs(
        log: Annotated[
            Path,
            typer.Argument(
                metavar="RESULT",
                help="Of vllm bench serve --save-detailed or sglang.bench_serving "
                "--output-details.",
            ),
        ],
        out: Annotated[Path, typer.Option(help="Measured run to write, for `llmsched validate`.")],
        class_name: Annotated[str, typer.Option("--class", help="Class of all requests.")] = "all",
    ) -> None:
        """Make a measured run of a benchmark client's result."""
        from llm_sched_env.serving.benchmark_logs import read_benchmark_log
        from llm_sched_env.serving.served import write_requests

        found = read_benchmark_log(log, class_name)
        write_requests(out, found.run)
        if found.failed:
            print_note(f"left out {found.failed} requests that did not complete")
        print_note(f"wrote {out}: {len(found.run)} requests")
