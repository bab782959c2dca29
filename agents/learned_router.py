"""A trained router: one small network scores every GPU that a request may go to.

The score of a candidate is a weighted sum of its features, by class, plus a hidden layer that all
classes share; the greatest goes. It is the same function for every candidate, so it serves any
number of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import CheckpointError, ConfigurationError
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning import FluidPlan

KIND = "router"
FEATURES = (
    "finish",  # of the prefill, over the deadline of the class
    "late",  # near 1 if that is after the deadline
    "prefill",  # seconds after reuse, over the deadline
    "queue",  # seconds of prefills before it, over the deadline
    "running",  # requests in service, per slot
    "waiting",  # q / (4 + q)
    "kv",
    "match",  # share of the prompt
    "fresh",  # near 1 if what has to go was just used
    "prefill queue",  # products
    "late queue",
    "prefill running",
)
_LATE_STEEPNESS, _FRESH_SECONDS = 8.0, 60.0
_GREATEST = 6.0
_NO_DEADLINE = 10.0
_DIGITS = 5


@dataclass(frozen=True, eq=False)
class RouterNetwork:
    """Weights, rounded to five digits.

    Attributes:
        direct: by class, shape (I, F).
        hidden: shape (F, H).
        bias: by class, shape (I, H).
        output: shape (H,).
    """

    direct: np.ndarray
    hidden: np.ndarray
    bias: np.ndarray
    output: np.ndarray

    @classmethod
    def shapes(cls, n_classes: int, units: int) -> dict[str, tuple[int, ...]]:
        """Of each kind of weights, in the order of :meth:`flat`."""
        features = len(FEATURES)
        return {
            "direct": (n_classes, features),
            "hidden": (features, units),
            "bias": (n_classes, units),
            "output": (units,),
        }

    @classmethod
    def of(cls, flat: np.ndarray, n_classes: int, units: int) -> RouterNetwork:
        """From all weights in a row; of several rows, with leading axes."""
        parts, first = {}, 0
        for name, shape in cls.shapes(n_classes, units).items():
            size = int(np.prod(shape))
            parts[name] = flat[..., first : first + size].reshape(*flat.shape[:-1], *shape)
            first += size
        return cls(**parts)


class CandidateFeatures:
    """Features of the GPUs that a request may go to, of one cluster or of several.

    Args:
        instance: with one group of GPUs.
    """

    def __init__(self, instance: Instance) -> None:
        if len(instance.groups) > 1:
            raise ConfigurationError(
                "instance", f"{len(instance.groups)} groups of GPUs", "one, as in training"
            )
        hardware = instance.only_hardware
        self._slots = float(hardware.batch_slots)
        decode = fitting_requests(instance).output_tokens * instance.full_batch_seconds[1]
        self._slot_seconds = decode / self._slots
        due = instance.deadlines[0]
        self._due = np.where(np.isfinite(due), due, _NO_DEADLINE)

    def __call__(
        self, known: Mapping[str, np.ndarray], classes: np.ndarray, prompts: np.ndarray
    ) -> np.ndarray:
        """Of candidates with numbers as in ``info``, shape (..., A); shape (..., A, F).

        Args:
            known: numbers by name.
            classes: of the request, shape (...).
            prompts: its tokens, shape (...).
        """
        own = np.asarray(classes)
        due, slot = self._due[own][..., None], self._slot_seconds[own][..., None]
        busy = np.maximum(known["waiting"] + known["running"] + 1.0 - self._slots, 0.0)
        finish = np.maximum(known["queue_seconds"], busy * slot) + known["prefill_seconds"]
        finish, prefill, queue = (
            np.minimum(seconds / due, _GREATEST)
            for seconds in (finish, known["prefill_seconds"], known["queue_seconds"])
        )
        late = 1.0 / (1.0 + np.exp(-_LATE_STEEPNESS * (finish - 1.0)))
        running = known["running"] / self._slots
        waiting = known["waiting"] / (4.0 + known["waiting"])
        match = known["matched_tokens"] / np.maximum(np.asarray(prompts)[..., None], 1.0)
        fresh = np.exp(-known["idle_seconds"] / _FRESH_SECONDS)
        columns = (
            *(finish, late, prefill, queue, running, waiting, known["kv_use"], match, fresh),
            *(prefill * queue, late * queue, prefill * running),
        )
        return np.stack(columns, axis=-1)


def scores(network: RouterNetwork, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Of candidates, shape (A,), or of N clusters with networks of their own, shape (N, A)."""
    if features.ndim == 2:
        inner = np.tanh(features @ network.hidden + network.bias[classes])
        single: np.ndarray = features @ network.direct[classes] + inner @ network.output
        return single
    rows = np.arange(len(features))
    inner = np.einsum("naf,nfh->nah", features, network.hidden)
    inner = np.tanh(inner + network.bias[rows, classes][:, None])
    direct = np.einsum("naf,nf->na", features, network.direct[rows, classes])
    found: np.ndarray = direct + np.einsum("nah,nh->na", inner, network.output)
    return found


class LearnedRouter:
    """A trained router as a policy of ``LLMSchedRouting-v0``.

    Args:
        network: its weights.
        environment: what its actions mean.
        training: how it was trained, plain data: ``task``, ``steps``, ``seconds`` and so on.
        name: of the policy.
    """

    def __init__(
        self,
        network: RouterNetwork,
        environment: Mapping[str, Any],
        training: Mapping[str, Any],
        name: str = "learned-router",
    ) -> None:
        self.network, self.training, self.name = network, dict(training), name
        self.environment = dict(environment)

    def require_classes(self, n_classes: int) -> None:
        """Raise CheckpointError if the router serves only another number of classes."""
        trained = len(self.network.direct)
        if n_classes != trained:
            raise CheckpointError(
                f"router: got an instance of {n_classes} classes, expected {trained}, as in its "
                "training; train a router for it"
            )

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Prepare for one run."""
        del plan, n_gpus, rng
        self.require_classes(instance.n_classes)
        self._features = CandidateFeatures(instance)

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> int:
        """The possible action of the greatest score."""
        del observation  # bounded numbers; the router goes by exact ones
        possible = np.flatnonzero(info["action_mask"])
        own = info["request_class"]
        if own < 0 or len(possible) == 1:
            return int(possible[0])
        features = self._features(info, own, info["prompt_tokens"])[possible]
        return int(possible[np.argmax(scores(self.network, features, own))])

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        weights = {
            name: np.round(getattr(self.network, name), _DIGITS).tolist()
            for name in RouterNetwork.shapes(1, 1)
        }
        content = {
            "kind": KIND,
            "features": list(FEATURES),
            "environment": self.environment,
            "training": self.training,
        }
        head = json.dumps(content, indent=1).removesuffix("\n}")
        lines = ",\n".join(f'  "{k}": {json.dumps(v)}' for k, v in weights.items())
        write_whole(path, f'{head},\n "weights": {{\n{lines}\n }}\n}}\n'.encode())


def load_router(path: str | Path) -> LearnedRouter:
    """Read a router; raises CheckpointError in one line."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        network = _checked_network(content)
        return LearnedRouter(network, content["environment"], content["training"], Path(path).stem)
    except FileNotFoundError:
        raise CheckpointError(f"router {path}: no such file; check the path") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"router {path}: got no router of this package ({' '.join(str(error).split())}), "
            "expected a file that `python -m research train-router` wrote"
        ) from None


def is_router(path: str | Path) -> bool:
    """Whether a file says that it holds a router."""
    try:
        return bool(json.loads(Path(path).read_text(encoding="utf-8"))["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _checked_network(content: dict[str, Any]) -> RouterNetwork:
    """The network of a file's content; ValueError if it is none of this version."""
    if content["features"] != list(FEATURES):
        raise ValueError("its features are not those of this version")
    network = RouterNetwork(**{k: np.array(v, float) for k, v in content["weights"].items()})
    shapes = RouterNetwork.shapes(len(network.direct), len(network.output))
    for name, shape in shapes.items():
        weights = getattr(network, name)
        if weights.shape != shape or not np.isfinite(weights).all():
            raise ValueError(f"its {name} weights are not numbers of shape {shape}")
    return network
