"""``make compare``: rules, PPO from scratch, and the best learned rule, one after the other.

Rules first, since their table is there within a minute; then PPO learns from scratch at two sizes
of one instance; then all of them are compared, with the learned rule that ships. Everything goes
through ``llmsched``, whose commands are printed.
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

from llm_sched_env.commands.compare import DEFAULT_POLICIES
from llm_sched_env.commands.options import TraceOption, integers, print_note, trace_paths
from llm_sched_env.workloads.locations import AZURE_2023_FILES, DATA_VARIABLE, find_azure_2023

INSTANCES = ("base", "overload")
LEARNING_INSTANCE = "overload"
BEST_LEARNED = "learned"
CURVES = "learning.png"


def main(
    out: Annotated[Path, typer.Option(help="Folder of agents and results.")],
    steps: Annotated[int, typer.Option(help="Environment steps per agent.")] = 130_000,
    gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "5,20,50,200",
    learning_gpus: Annotated[str, typer.Option(help="Sizes at which PPO learns.")] = "5,20",
    replications: Annotated[int, typer.Option(help="Independent runs.")] = 8,
    trace: TraceOption = None,
) -> None:
    """Compare rules, then train PPO from scratch, then compare all."""
    sizes = integers("--learning-gpus", learning_gpus)
    options = ["--instance", ",".join(INSTANCES), "--gpus", gpus]
    options += ["--replications", str(replications), "--out", str(out)]
    if traces := trace_paths(trace) or find_azure_2023():
        options += ["--trace", ",".join(map(str, traces))]
    else:
        print_note(
            f"no replay: {' and '.join(AZURE_2023_FILES)} were not found; "
            f"name their folder with {DATA_VARIABLE}"
        )
    print_note("1 of 3: rules")
    _run("compare", *options, "--policies", DEFAULT_POLICIES)
    print_note(f"2 of 3: PPO from scratch on {LEARNING_INSTANCE}, at n = {learning_gpus}")
    agents = _train(sizes, out, steps)
    _draw_curves(list(agents.values()), out / CURVES)
    print_note(f"3 of 3: all of them, and the learned rule that ships; curves are in {CURVES}")
    entering = ",".join(f"{LEARNING_INSTANCE}:{n}={path}" for n, path in agents.items())
    policies = f"{DEFAULT_POLICIES},{BEST_LEARNED}"
    _run("compare", *options, "--policies", policies, "--agents", entering)


def _train(sizes: Sequence[int], out: Path, steps: int) -> dict[int, Path]:
    """Train an agent at each size, all at the same time; returns their checkpoints."""
    folders = {n: out / "agents" / f"{LEARNING_INSTANCE}-{n}" for n in sizes}
    trainings = []
    for n, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        options = ["--instance", LEARNING_INSTANCE, "--gpus", str(n), "--variant", "ppo"]
        options += ["--steps", str(steps), "--out", str(folder)]
        trainings.append(_start("train", *options))
    codes = [training.wait() for training in trainings]
    if any(codes):
        sys.exit(max(codes))
    return {n: folder / "agent.zip" for n, folder in folders.items()}


def _draw_curves(agents: Sequence[Path], path: Path) -> None:
    from llm_sched_env.agents.checkpoint import Checkpoint
    from llm_sched_env.agents.curve_files import write_curves

    write_curves([Checkpoint.load(agent) for agent in agents], path)


def _run(*arguments: str) -> None:
    """Run a command of ``llmsched``; ends with its exit code if it fails."""
    if code := _start(*arguments).wait():
        sys.exit(code)


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    """Run a command of ``llmsched`` in a process of its own."""
    print(f"$ llmsched {shlex.join(arguments)}", file=sys.stderr, flush=True)
    return subprocess.Popen([sys.executable, "-m", "llm_sched_env", *arguments])


if __name__ == "__main__":
    typer.run(main)
