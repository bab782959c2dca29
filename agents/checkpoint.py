"""One file per trained agent: weights, normaliser, configuration, versions, training curve."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.errors import CheckpointError
from llm_sched_env.whole_files import write_whole

if TYPE_CHECKING:
    from llm_sched_env.agents.trained_policy import TrainedPolicy

_WEIGHTS, _MODEL, _METADATA = "weights.npz", "model.zip", "metadata.json"
_PACKAGES = ("llm-sched-env", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

Row = dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """A trained agent as it lies on disk.

    Attributes:
        weights: of the networks that act, by name: of the best evaluation so far.
        observation: mean and var of the observations that these weights expect, shape (F,).
        weights_steps: environment steps after which the weights were these.
        configuration: all knobs.
        steps: environment steps so far.
        seconds: of training, evaluations included.
        curve: score of the training episodes after each update.
        evaluations: see :class:`llm_sched_env.agents.training_evaluation.PairedEvaluation`.
        held_out: the same of these weights on requests that chose nothing; empty until the end.
        versions: of what trained.
        model: the newest model with its optimiser as SB3 saves it, to resume; None if stripped.
        normaliser: moments of observations and returns of that model.
    """

    weights: dict[str, np.ndarray]
    observation: dict[str, Any]
    weights_steps: int
    configuration: TrainingConfiguration
    steps: int
    seconds: float
    curve: list[Row]
    evaluations: list[Row]
    held_out: Row
    versions: dict[str, str]
    model: bytes | None = None
    normaliser: dict[str, Any] | None = None

    @property
    def description(self) -> str:
        """How it was trained, in a line."""
        trained = self.configuration
        return (
            f"{trained.algorithm.upper()} trained for {self.steps:,} steps in {self.seconds:.0f} s "
            f"on {trained.instance['name']} at n = {trained.n_gpus}"
        )

    def stripped(self) -> Checkpoint:
        """What acting needs and a reader wants to know: a few dozen kB, no pickled code."""
        return dataclasses.replace(self, model=None, normaliser=None, curve=[])

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        kept_apart = {"weights", "model", "configuration"}
        metadata = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in kept_apart
        }
        metadata["configuration"] = self.configuration.to_dict()
        weights = io.BytesIO()
        np.savez(weights, allow_pickle=False, **self.weights)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_WEIGHTS, weights.getvalue())
            if self.model is not None:
                archive.writestr(_MODEL, self.model)
            archive.writestr(_METADATA, json.dumps(metadata, indent=1))
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint; raises CheckpointError in one line."""
        try:
            with zipfile.ZipFile(path) as archive:
                metadata = json.loads(archive.read(_METADATA))
                with np.load(io.BytesIO(archive.read(_WEIGHTS)), allow_pickle=False) as arrays:
                    weights = dict(arrays)
                model = archive.read(_MODEL) if _MODEL in archive.namelist() else None
            configuration = TrainingConfiguration.from_dict(metadata.pop("configuration"))
            return cls(weights=weights, model=model, configuration=configuration, **metadata)
        except FileNotFoundError:
            raise CheckpointError(
                f"checkpoint {path}: got no such file, allowed is what `llmsched train` wrote; "
                "check the path"
            ) from None
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {path}: got no agent of this package "
                f"({' '.join(str(error).split())}), allowed is what `llmsched train` wrote"
            ) from None


def package_versions() -> dict[str, str]:
    """Versions of what trains."""
    return {name: version(name) for name in _PACKAGES}


def load_policy(path: str | Path) -> TrainedPolicy:
    """The policy of a checkpoint file."""
    from llm_sched_env.agents.trained_policy import TrainedPolicy

    return TrainedPolicy(Checkpoint.load(path))
