"""Read and write the file of a trained rule: weights, training settings, training curve."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.agents.archives import UNREADABLE
from llm_sched_env.agents.learned_router import LearnedRouter, is_router, load_router
from llm_sched_env.errors import CheckpointError
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.model.priority_network import (
    CLASS_FEATURES,
    CORRECTIONS,
    STATE_FEATURES,
    RankCorrection,
    weight_shapes,
)
from llm_sched_env.simulation.scheduling.rules import DispatchRule

SHIPPED = Path(__file__).with_name("rules")
"""Folder of the rules that come with the package."""

FORESIGHT = 10.0
"""Seconds; 5 to 15 earn the same, 30 less, but more where decodes are long and rates slow."""
FORESIGHT_ALONE = DispatchRule("bid-price", "bid-price", "dynamic", foresight=FORESIGHT)
"""A trained rule without its network: what is left is what was learned."""

# What the weights belong to: with other features, or in another order, they mean nothing.
_MEANING = {
    "class_features": list(CLASS_FEATURES),
    "state_features": list(STATE_FEATURES),
    "corrections": list(CORRECTIONS),
}
_DIGITS = 5


def corrected_rule(
    network: RankCorrection, foresight: float = FORESIGHT, *, drop_late: bool = False
) -> DispatchRule:
    """Trunk reservation with corrected ranks, and with the plan that known profiles call for."""
    return dataclasses.replace(
        FORESIGHT_ALONE, correction=network, foresight=foresight, drop_late=drop_late
    )


_UNREADABLE: tuple[type[Exception], ...] = (*UNREADABLE, AttributeError)


@dataclass(frozen=True)
class LearnedRule:
    """A network with its history.

    Attributes:
        network: weights, rounded to five digits, so that what is kept is what was measured.
        configuration: of the training, plain data.
        generations: that the training took.
        seconds: of wall time.
        curve: what was measured during the training.
        versions: of what trained it.
    """

    network: RankCorrection
    configuration: dict[str, Any]
    generations: int
    seconds: float
    curve: list[dict[str, float]]
    versions: dict[str, str]

    @property
    def rule(self) -> DispatchRule:
        """What schedules."""
        drop_late = self.configuration.get("drop_late", False)
        return corrected_rule(self.network, self.configuration["foresight"], drop_late=drop_late)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all."""
        history = {
            "configuration": self.configuration,
            "generations": self.generations,
            "seconds": self.seconds,
            "versions": self.versions,
            "curve": self.curve,
            **_MEANING,
        }
        # A line for each kind of weights, not one a number.
        weights = ",\n".join(
            f'  "{name}": {json.dumps(getattr(self.network, name).tolist(), separators=(",", ":"))}'
            for name in weight_shapes(1)
        )
        head = json.dumps(history, indent=1).removesuffix("\n}")
        write_whole(path, f'{head},\n "weights": {{\n{weights}\n }}\n}}\n'.encode())

    @classmethod
    def load(cls, path: str | Path) -> LearnedRule:
        """Read a rule; raises CheckpointError in one line."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            _check_meaning(content)
            weights = content.pop("weights")
            loaded = cls(network=RankCorrection(**weights), **content)
            _ = loaded.rule  # a file without the settings that a rule needs is none
        except FileNotFoundError:
            raise CheckpointError(f"rule {path}: no such file; check the path") from None
        except _UNREADABLE as error:
            raise CheckpointError(
                f"rule {path}: got no rule of this package ({' '.join(str(error).split())}), "
                "expected a file that `python -m research train-rule` wrote"
            ) from None
        else:
            return loaded


def _check_meaning(content: dict[str, Any]) -> None:
    """Take what the weights belong to out of a file's content; ValueError if it is another."""
    for name, wanted in _MEANING.items():
        if content.pop(name) != wanted:
            raise ValueError(f"its {name.replace('_', ' ')} are not those of this version")


def rounded(weights: np.ndarray) -> np.ndarray:
    """Weights as they are kept."""
    return np.round(weights, _DIGITS)


def load_rule(path: str | Path) -> DispatchRule | LearnedRouter:
    """The rule, or the router, of a file, as a policy; raises CheckpointError."""
    return load_router(path) if is_router(path) else LearnedRule.load(path).rule
