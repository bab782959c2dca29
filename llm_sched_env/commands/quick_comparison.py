"""``make compare``: train a PPO agent per instance, then compare everything.

The trainings run side by side; everything goes through ``llmsched``, whose commands it prints.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.compare import TRACE_INSTANCE, TRACE_REFERENCE_GPUS
from llm_sched_env.commands.options import TraceOption, output_folder, print_note, trace_paths
from llm_sched_env.presets import azure2023
from llm_sched_env.workloads.locations import AZURE_2023_FILES, DATA_VARIABLE, find_azure_2023
from llm_sched_env.workloads.traces import load_traces

INSTANCES = ("base", "overload")


def main(
    out: Annotated[Path, typer.Option(help="Folder of agents and results.")],
    steps: Annotated[int, typer.Option(help="Environment steps per agent.")] = 250_000,
    gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "5,20,50,200",
    replications: Annotated[int, typer.Option(help="Independent runs.")] = 8,
    trace: TraceOption = None,
) -> None:
    """Train an agent on each instance at 20 GPUs, then run ``llmsched compare``."""
    traces = trace_paths(trace) or find_azure_2023()
    instances = {name: name for name in INSTANCES}
    options = ["--instance", ",".join(INSTANCES), "--gpus", gpus]
    options += ["--replications", str(replications), "--out", str(out)]
    if traces:
        instances[TRACE_INSTANCE] = str(_instance_file(traces, out))
        options += ["--trace", ",".join(map(str, traces))]
    else:
        print_note(
            f"no replay: {' and '.join(AZURE_2023_FILES)} were not found; "
            f"name their folder with {DATA_VARIABLE}"
        )
    agents = _train(instances, out, steps)
    options += ["--agents", ",".join(f"{name}={path}" for name, path in agents.items())]
    sys.exit(_start("compare", *options).wait())


def _instance_file(traces: Sequence[Path], out: Path) -> Path:
    """The trace as an instance of Poisson arrivals at the load of its replay, to train on."""
    recorded = load_traces(traces)
    load = len(recorded) / (recorded.duration * TRACE_REFERENCE_GPUS)
    output_folder(out)
    path = out / f"{TRACE_INSTANCE}.json"
    azure2023(traces, arrival_rate=load).save(path)
    return path


def _train(instances: dict[str, str], out: Path, steps: int) -> dict[str, Path]:
    """Train an agent per instance, all at the same time; returns their checkpoints."""
    folders = {name: out / "agents" / name for name in instances}
    trainings = []
    for name, instance in instances.items():
        shutil.rmtree(folders[name], ignore_errors=True)
        options = ["--instance", instance, "--steps", str(steps), "--out", str(folders[name])]
        trainings.append(_start("train", *options))
    codes = [training.wait() for training in trainings]
    if any(codes):
        sys.exit(max(codes))
    return {name: folder / "agent.zip" for name, folder in folders.items()}


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    """Run a command of ``llmsched`` in a process of its own."""
    print(f"$ llmsched {shlex.join(arguments)}", file=sys.stderr, flush=True)
    return subprocess.Popen([sys.executable, "-m", "llm_sched_env", *arguments])


if __name__ == "__main__":
    typer.run(main)
