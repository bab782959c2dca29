"""``make compare``: train a PPO agent per instance, then compare everything.

The two trainings run side by side; everything goes through ``llmsched``, whose commands it prints.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.compare import TRACE_INSTANCE
from llm_sched_env.commands.options import messages
from llm_sched_env.workloads.locations import AZURE_2023_FILES, DATA_VARIABLE, find_azure_2023

INSTANCES = ("base", "overload")
# Two classes, overloaded and prefill-light like the trace: the nearest of the trained agents.
TRACE_AGENT = "overload"


def main(
    out: Annotated[Path, typer.Option(help="Folder of agents and results.")],
    steps: Annotated[int, typer.Option(help="Environment steps per agent.")] = 400_000,
    gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "5,20,50,200",
    replications: Annotated[int, typer.Option(help="Independent runs.")] = 8,
    trace: Annotated[list[Path] | None, typer.Option(help="Trace files.")] = None,
) -> None:
    """Train an agent on each instance at 20 GPUs, then run ``llmsched compare``."""
    folders = {name: out / "agents" / name for name in INSTANCES}
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    trainings = [
        _start("train", "--instance", name, "--steps", str(steps), "--out", str(folder))
        for name, folder in folders.items()
    ]
    codes = [training.wait() for training in trainings]
    if any(codes):
        sys.exit(max(codes))
    traces = trace or find_azure_2023()
    agents = [f"{name}={folder / 'agent.zip'}" for name, folder in folders.items()]
    if traces:
        agents.append(f"{TRACE_INSTANCE}={folders[TRACE_AGENT] / 'agent.zip'}")
    else:
        messages.print(
            f"no replay: {' and '.join(AZURE_2023_FILES)} were not found; "
            f"name their folder with {DATA_VARIABLE}"
        )
    options = ["--instance", ",".join(INSTANCES), "--gpus", gpus, "--agents", ",".join(agents)]
    options += ["--replications", str(replications), "--out", str(out)]
    for path in traces:
        options += ["--trace", str(path)]
    sys.exit(_start("compare", *options).wait())


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    """Run a command of ``llmsched`` in a process of its own."""
    print(f"$ llmsched {shlex.join(arguments)}", file=sys.stderr, flush=True)
    return subprocess.Popen([sys.executable, "-m", "llm_sched_env", *arguments])


if __name__ == "__main__":
    typer.run(main)
