"""One file per trained agent: weights, normaliser, configuration, versions, training curve."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.residual_actions import residual_action
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.errors import CheckpointError
from llm_sched_env.instance import Instance
from llm_sched_env.planning import FluidPlan

_MODEL, _METADATA = "model.zip", "metadata.json"
_PACKAGES = ("llm-sched-env", "stable-baselines3", "torch", "numpy", "gymnasium")
_OBSERVATION_LIMIT = 10.0
_EPSILON = 1e-8


@dataclass(frozen=True)
class Checkpoint:
    """A trained agent as it lies on disk."""

    model: bytes
    configuration: TrainingConfiguration
    normaliser: dict[str, Any]
    steps: int
    seconds: float
    curve: list[dict[str, float]]
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        metadata = {
            "configuration": self.configuration.to_dict(),
            "normaliser": self.normaliser,
            "steps": self.steps,
            "seconds": self.seconds,
            "curve": self.curve,
            "versions": self.versions,
        }
        temporary = path.with_suffix(".partial")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_MODEL, self.model)
            archive.writestr(_METADATA, json.dumps(metadata, indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint; raises CheckpointError in one line."""
        try:
            with zipfile.ZipFile(path) as archive:
                metadata = json.loads(archive.read(_METADATA))
                model = archive.read(_MODEL)
            configuration = TrainingConfiguration.from_dict(metadata.pop("configuration"))
            return cls(model=model, configuration=configuration, **metadata)
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


def normaliser_statistics(venv: VecNormalize) -> dict[str, Any]:
    """Running moments of observations and returns as plain data."""
    moments: tuple[tuple[str, Any], ...] = (("observation", venv.obs_rms), ("return", venv.ret_rms))
    return {
        name: {"mean": _plain(rms.mean), "var": _plain(rms.var), "count": float(rms.count)}
        for name, rms in moments
    }


def restore_normaliser(venv: VecNormalize, statistics: dict[str, Any]) -> None:
    """Put saved moments back."""
    for name in ("observation", "return"):
        saved = statistics[name]
        rms = RunningMeanStd(shape=np.shape(saved["mean"]))
        rms.mean, rms.var = np.asarray(saved["mean"]), np.asarray(saved["var"])
        rms.count = saved["count"]
        setattr(venv, "obs_rms" if name == "observation" else "ret_rms", rms)


def _plain(moment: Any) -> Any:
    return np.asarray(moment).tolist()


def package_versions() -> dict[str, str]:
    """Versions of what trains."""
    return {name: version(name) for name in _PACKAGES}


class PPOPolicy:
    """A checkpoint as a policy of :func:`llm_sched_env.evaluate`: the mean action, no noise."""

    name = "ppo"

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.environment = checkpoint.configuration.environment
        self._model = PPO.load(io.BytesIO(checkpoint.model), device="cpu")
        moments = checkpoint.normaliser["observation"]
        self._mean = np.asarray(moments["mean"])
        self._deviation = np.sqrt(np.asarray(moments["var"]) + _EPSILON)
        self._center = np.zeros(0)

    def require_classes(self, n_classes: int) -> None:
        """Raise CheckpointError unless the agent was trained on this number of classes."""
        trained = len(self.checkpoint.configuration.instance["classes"])
        if n_classes != trained:
            raise CheckpointError(
                f"checkpoint: got an instance of {n_classes} classes, allowed is one of "
                f"{trained}, as trained on {self.checkpoint.configuration.instance['name']!r}; "
                "train an agent for it"
            )

    def reset(
        self,
        instance: Instance,
        plan: FluidPlan,
        n_gpus: int,
        rng: np.random.Generator,  # noqa: ARG002 - the policy is deterministic
    ) -> None:
        """Centre the actions on this instance's plan; its classes must be as many as trained."""
        self.require_classes(instance.n_classes)
        configuration = IntervalConfiguration.validated(
            instance=instance,
            n_gpus=n_gpus,
            pricing=plan.pricing,
            horizon=self.checkpoint.configuration.horizon,
            start="empty",
            **self.environment,
        )
        self._center = configuration.plan_action(plan)

    def act(
        self,
        observation: np.ndarray,
        info: dict[str, Any],  # noqa: ARG002 - part of the protocol
    ) -> np.ndarray:
        """The controls of the next interval."""
        scaled = (observation - self._mean) / self._deviation
        scaled = np.clip(scaled, -_OBSERVATION_LIMIT, _OBSERVATION_LIMIT).astype(np.float32)
        action, _ = self._model.predict(scaled, deterministic=True)
        return residual_action(action, self._center, self.checkpoint.configuration.residual_scale)


def load_policy(path: str | Path) -> PPOPolicy:
    """The policy of a checkpoint file."""
    return PPOPolicy(Checkpoint.load(path))
