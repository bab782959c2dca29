"""The checkpoint of an agent: weights, normaliser, configuration, versions, training curve."""

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

from llm_sched_env.agents.archives import UNREADABLE, arrays_content, read_arrays, read_members
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.normaliser import check_moments, checked_moments
from llm_sched_env.errors import CheckpointError, is_finite_number
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.files.records import from_plain, to_plain
from llm_sched_env.model.instance import Instance

if TYPE_CHECKING:
    from llm_sched_env.agents.trained_policy import TrainedPolicy

_FORMAT = 2
_METADATA, _WEIGHTS, _LEARNER = "metadata.json", "weights.npz", "learner.npz"
_MOST_BYTES = {_METADATA: 64 * 2**20, _WEIGHTS: 256 * 2**20, _LEARNER: 2**30}
_PACKAGES = ("llm-sched-env", "stable-baselines3", "sb3-contrib", "torch", "numpy", "gymnasium")

Row = dict[str, float]

_CURVE_COLUMNS = {"steps", "seconds", "score"}
_FACTS: dict[str, Any] = {
    "weights_steps": int,
    "steps": int,
    "seconds": float,
    "curve": list[Row],
    "evaluations": list[Row],
    "held_out": Row,
    "versions": dict[str, str],
}


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
        learner: the newest networks with their optimisers, to resume
            (:func:`llm_sched_env.agents.learner.learner_arrays`); None if exported.
        normaliser: moments of observations and returns of that learner.
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
    learner: dict[str, np.ndarray] | None = None
    normaliser: dict[str, Any] | None = None

    @property
    def description(self) -> str:
        """How it was trained, in a line."""
        trained = self.configuration
        return (
            f"{trained.algorithm.upper()} trained for {self.steps:,} steps in {self.seconds:.0f} s "
            f"on {trained.instance['name']} at n = {trained.n_gpus}"
        )

    def exported(self) -> Checkpoint:
        """What acting needs and a reader wants to know: a few dozen kB."""
        return dataclasses.replace(self, learner=None, normaliser=None, curve=[])

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_WEIGHTS, arrays_content(self.weights))
            if self.learner is not None:
                archive.writestr(_LEARNER, arrays_content(self.learner))
            archive.writestr(_METADATA, json.dumps(self._metadata(), indent=1, allow_nan=False))
        write_whole(path, content.getvalue())

    def _metadata(self) -> dict[str, Any]:
        """All but arrays, as JSON holds it."""
        return {
            "format": _FORMAT,
            "configuration": self.configuration.to_dict(),
            "observation": self.observation,
            "normaliser": self.normaliser,
            **{name: to_plain(kind, getattr(self, name)) for name, kind in _FACTS.items()},
        }

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint, which may be anybody's: no code of it runs.

        Raises:
            CheckpointError: for what :meth:`save` did not write, in one line.
        """
        path = Path(path)
        try:
            members = read_members(path, _MOST_BYTES, (_METADATA, _WEIGHTS))
            metadata = json.loads(members[_METADATA])
            weights = read_arrays(members[_WEIGHTS], _MOST_BYTES[_WEIGHTS])
            learner = members.get(_LEARNER)
            return cls(
                weights=_checked_weights(weights),
                learner=None if learner is None else read_arrays(learner, _MOST_BYTES[_LEARNER]),
                **_checked_metadata(metadata),
            )
        except FileNotFoundError:
            raise CheckpointError(
                f"checkpoint {path}: no such file; give one that `llmsched train` wrote"
            ) from None
        except UNREADABLE as error:
            raise CheckpointError(
                f"checkpoint {path}: got no agent of this package "
                f"({' '.join(str(error).split())}), expected a file that `llmsched train` wrote"
            ) from None


def _checked_metadata(metadata: Any) -> dict[str, Any]:
    """Arguments of a checkpoint; raises ValueError for what is not of their types."""
    keys = {"format", "configuration", "observation", "normaliser", *_FACTS}
    if not isinstance(metadata, dict) or metadata.keys() != keys:
        raise ValueError(f"its metadata are not {', '.join(sorted(keys))}")
    if metadata["format"] != _FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}, not {_FORMAT}")
    facts = {name: from_plain(kind, metadata[name], name) for name, kind in _FACTS.items()}
    for name in ("steps", "weights_steps", "seconds"):
        if not is_finite_number(facts[name]):
            raise ValueError(f"{name} is {facts[name]}, expected a number >= 0")
    configuration = _checked_configuration(metadata["configuration"])
    for row in facts["curve"]:
        _require_columns("curve", row, _CURVE_COLUMNS)
    measured = _measured_columns(configuration)
    for row in facts["evaluations"]:
        _require_columns("evaluations", row, measured | {"steps", "seconds"})
    if facts["held_out"]:
        _require_columns("held_out", facts["held_out"], measured)
    return {
        **facts,
        "configuration": configuration,
        "observation": _checked_observation(metadata["observation"]),
        "normaliser": _checked_normaliser(metadata["normaliser"]),
    }


def _measured_columns(configuration: TrainingConfiguration) -> set[str]:
    """The result of an evaluation, compared with the references."""
    columns = {"score", "score_low", "score_high"}
    for name in configuration.references:
        columns |= {f"minus {name}{end}" for end in ("", " low", " high")}
    for name in configuration.budgets:
        columns |= {f"cost {name}{end}" for end in ("", " low", " high")}
    return columns


def _require_columns(where: str, row: Row, columns: set[str]) -> None:
    if lacking := sorted(columns - row.keys()):
        raise ValueError(f"{where} lack {lacking[0]!r}")


def _checked_configuration(data: Any) -> TrainingConfiguration:
    if not isinstance(data, dict):
        raise ValueError("its configuration is no table")  # noqa: TRY004 - of a file, not of code
    configuration = TrainingConfiguration.from_dict(data)
    if not isinstance(configuration.instance.get("hardware"), dict):
        # The path of a hardware file would be read.
        raise ValueError("its instance does not hold its hardware")  # noqa: TRY004
    Instance.from_dict(configuration.instance)
    return configuration


def _checked_observation(data: Any) -> dict[str, list[float]]:
    observation: dict[str, list[float]] = from_plain(dict[str, list[float]], data, "observation")
    if observation.keys() != {"mean", "var"}:
        raise ValueError("observation is not mean and var")
    check_moments(observation["mean"], observation["var"], "observation")
    return observation


def _checked_normaliser(data: Any) -> dict[str, Any] | None:
    if data is None:
        return None
    if not isinstance(data, dict) or data.keys() != {"observation", "return"}:
        raise ValueError("normaliser is not observation and return")
    return {name: checked_moments(moments, f"normaliser {name}") for name, moments in data.items()}


def _checked_weights(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"weights {name} are not finite")
    return weights


def package_versions() -> dict[str, str]:
    """Versions of what trains."""
    return {name: version(name) for name in _PACKAGES}


def load_policy(path: str | Path) -> TrainedPolicy:
    """The policy of a checkpoint file."""
    from llm_sched_env.agents.trained_policy import TrainedPolicy

    return TrainedPolicy(Checkpoint.load(path))
