"""Train over a grid of configurations, one folder each; a sweep that was killed resumes.

A training run is cut into parts of a fixed number of steps. Each part is a function of the
configuration and of the files that the previous part left. So it can run on any machine, the agents
are the same wherever and however often the sweep was stopped, and a kill loses running parts only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.ppo import CHECKPOINT_NAME, train
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.files.result_cache import result_key

DEFAULT_PART_STEPS = 500_000
Files = dict[str, bytes]
"""Files of a run's folder, by their paths in it."""


@dataclass(frozen=True)
class TrainingRun:
    """A configuration, the folder of its agent, and how many steps a part has."""

    configuration: TrainingConfiguration
    folder: Path
    part_steps: int

    @property
    def checkpoint(self) -> Path:
        """Where the agent is."""
        return self.folder / CHECKPOINT_NAME

    def next_target(self) -> int | None:
        """Up to which step the next part trains, None at the end; raises CheckpointError."""
        saved = Checkpoint.load(self.checkpoint) if self.checkpoint.exists() else None
        done = saved.steps if saved is not None else 0
        total = self.configuration.total_steps
        # A part ends with a whole rollout, a little after its target.
        following = (done // self.part_steps + 1) * self.part_steps
        if saved is not None and done >= total and saved.held_out:
            return None
        return min(total, following)


def training_runs(
    configurations: Sequence[TrainingConfiguration],
    out: Path,
    part_steps: int = DEFAULT_PART_STEPS,
) -> list[TrainingRun]:
    """A run per configuration, in the folder ``INSTANCE-nGPUS-seedSEED-KEY`` of ``out``.

    The key is a hash of everything that decides the agent but the number of steps: with more steps
    the run is continued, with anything else changed it is another one.

    Args:
        configurations: no two of them may differ in ``total_steps`` only.
        out: gets the folders.
        part_steps: after so many steps an agent comes back and is kept. Another number can give
            other agents: a part ends with an evaluation, whose weights may be those that are
            kept, and where it ends within episodes the next one starts new ones.

    Raises:
        ConfigurationError: for a run that is there twice.
    """
    checked_integer("part_steps", part_steps)
    runs = [TrainingRun(c, out / _folder_name(c, part_steps), part_steps) for c in configurations]
    folders = [run.folder for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigurationError(f"The sweep has {folder.name} twice; remove one of them.")
    return runs


def _folder_name(configuration: TrainingConfiguration, part_steps: int) -> str:
    content = configuration.to_dict() | {"part_steps": part_steps}
    del content["total_steps"]
    key = result_key(content)[:10]
    name = "".join(c if c.isalnum() else "-" for c in str(configuration.instance["name"]))
    return f"{name}-n{configuration.n_gpus}-seed{configuration.seed}-{key}"


def sweep(
    runs: Sequence[TrainingRun],
    executor: Executor,
    on_part: Callable[[TrainingRun], None] | None = None,
) -> None:
    """Train every run up to its ``total_steps``; what is finished is left alone.

    Args:
        runs: of :func:`training_runs`.
        executor: where parts run; the agents do not depend on it.
        on_part: called with the run whose part has ended and is kept.

    Raises:
        CheckpointError: for a file in a run's folder that is no checkpoint.
    """
    while parts := [(run, target) for run in runs if (target := run.next_target()) is not None]:
        tasks = [
            (dataclasses.replace(run.configuration, total_steps=target), _read(run.folder))
            for run, target in parts
        ]
        for k, files in executor.run(_train_part, tasks):
            run, _ = parts[k]
            _write(run.folder, files)
            if on_part is not None:
                on_part(run)


def _train_part(part: tuple[TrainingConfiguration, Files]) -> Files:
    """Continue a run up to the configuration's steps; runs in a worker, maybe elsewhere."""
    configuration, files = part
    with TemporaryDirectory(prefix="llmsched-") as name:
        folder = Path(name)
        _write(folder, files)
        train(configuration, folder, resume=CHECKPOINT_NAME in files)
        return _read(folder)


def _read(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _write(folder: Path, files: Files) -> None:
    """Write each file whole or not at all, the checkpoint last: it says what is done."""
    for name in sorted(files, key=lambda name: name == CHECKPOINT_NAME):
        write_whole(folder / name, files[name])
