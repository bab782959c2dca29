"""The priority network of a trained rule: a small network shared by all classes.

For each class with a waiting request it reads features of the class and of the cluster and gives
corrections of the class's ranks. All weights 0 is trunk reservation itself, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import ConfigurationError

CLASS_FEATURES = (
    "admission bid",
    "decode bid",
    "prefill bid",
    "admitted share",
    "prefill reserve",
    "prefill reserve beside all slots",
    "prefill reserve with giving up",
    "decode reserve",
    "precedes decodes",
    "better classes",
    "arrivals of better classes",
    "bids of better classes",
    "patience",
    "prefill time",
    "decode time",
    "share of prefill work",
    "share of decode work",
    "revenue per slot and second",
    "gain of a GPU without prefill",
    "slots per GPU",
    "cluster size",
    "load",
)
"""What a class is under its plan, in [-1, 1], constant during a run: planning/class_profile.py."""

STATE_FEATURES = (
    "free slots",
    "free slots beyond the reserve",
    "free slots soon beyond the reserve",
    "free slots beyond waiting decodes",
    "a free slot beyond waiting decodes",
    "own waiting prompts beyond the plan",
    "better waiting prompts beyond the plan",
    "other waiting prompts beyond the plan",
    "own waiting decodes",
    "all waiting decodes",
    "own slots beyond the plan",
    "GPUs with a prefill",
    "a GPU can prefill",
    "a slot beside a prefill",
    "a slot without a prefill",
    "own arrivals, recent",
    "own arrivals, of late",
    "better arrivals, recent",
    "better arrivals, of late",
    "load, recent",
    "load, of late",
    "own arrivals, foreseen",
    "better arrivals, foreseen",
    "load, foreseen",
    "load, foreseen later",
    "backlog beyond the plan",
)
"""What a class sees of the moment, in [-1, 1]: simulation/state_features.py."""

DEVIATIONS = (
    "load, recent",
    "load, of late",
    "load, foreseen",
    "load, foreseen later",
    "backlog beyond the plan",
    "own arrivals, recent",
    "own arrivals, foreseen",
    "better arrivals, recent",
    "better arrivals, foreseen",
)
"""Features that are 0, up to chance, while traffic is what the plan expects."""

CORRECTIONS = (
    "prefill reserve factor",
    "prefill reserve",
    "decode reserve",
    "price factor",
    "priority",
    "decode priority",
    "precedes decodes",
    "mixed slots first",
    "by prefill time",
)
"""Outputs: simulation/corrected_dispatch.py says what each does."""

RECENT_SECONDS, LATE_SECONDS = 5.0, 30.0
"""Memories of the two estimates of arrival rates: weights fall to 1/e in this time."""

SOON_SECONDS, LATER_SECONDS = 5.0, 20.0
"""How far known profiles of arrival rates are read ahead."""

HIDDEN_INPUTS = (
    "free slots beyond waiting decodes",
    "own slots beyond the plan",
    *DEVIATIONS,
)
"""What hidden units read before a training, one each, as many as there are units."""


@dataclass(frozen=True, eq=False)
class RankCorrection:
    """Weights of the network: one hidden layer with the activation z / (1 + abs(z)).

    Attributes:
        static: shape (H, number of :data:`CLASS_FEATURES` + 1); the last column is the bias.
        state: shape (H, number of :data:`STATE_FEATURES`).
        output: shape (number of :data:`CORRECTIONS`, H + 1); the last column is the bias.
        gain: what the class's features add to its output weights; shape (number of
            :data:`CORRECTIONS`, H + 1, number of :data:`CLASS_FEATURES`).
    """

    static: np.ndarray
    state: np.ndarray
    output: np.ndarray
    gain: np.ndarray

    def __post_init__(self) -> None:
        hidden = np.shape(self.output)[-1] - 1 if np.ndim(self.output) == 2 else 0
        if hidden < 1:
            raise ConfigurationError(
                "weights output",
                np.shape(self.output),
                f"shape ({len(CORRECTIONS)}, H + 1), H >= 1",
            )
        for name, shape in weight_shapes(hidden).items():
            weights = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if weights.shape != shape or not np.isfinite(weights).all():
                raise ConfigurationError(
                    f"weights {name}", np.shape(weights), f"finite numbers of shape {shape}"
                )
            weights.flags.writeable = False
            object.__setattr__(self, name, weights)

    @property
    def hidden_units(self) -> int:
        """H."""
        return len(self.state)

    @property
    def parameters(self) -> np.ndarray:
        """All weights in one vector: static, state, output, gain."""
        return np.concatenate([getattr(self, name).ravel() for name in weight_shapes(1)])

    def output_weights(self, features: np.ndarray) -> np.ndarray:
        """Output weights of each class from its features, shape (I, F); shape (I, H + 1, O)."""
        # (O, H + 1, F) by (F, I), then classes first and outputs last, as memory is read.
        added = np.moveaxis(self.gain @ features.T, (2, 1, 0), (0, 1, 2))
        return np.ascontiguousarray(self.output.T + added)

    @classmethod
    def from_parameters(cls, parameters: np.ndarray, hidden_units: int) -> RankCorrection:
        """The network of a vector of weights, as :attr:`parameters` has them."""
        shapes = weight_shapes(hidden_units)
        ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
        if np.shape(parameters) != (ends[-1],):
            raise ConfigurationError(
                "parameters of shape",
                np.shape(parameters),
                f"({ends[-1]},) for {hidden_units} hidden units",
            )
        parts = np.split(np.asarray(parameters, float), ends[:-1])
        return cls(
            *(part.reshape(shape) for part, shape in zip(parts, shapes.values(), strict=True))
        )

    @classmethod
    def none(cls, hidden_units: int = 2) -> RankCorrection:
        """All weights 0: trunk reservation."""
        return cls(*(np.zeros(shape) for shape in weight_shapes(hidden_units).values()))


def weight_shapes(hidden_units: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a network with H hidden units."""
    return {
        "static": (hidden_units, len(CLASS_FEATURES) + 1),
        "state": (hidden_units, len(STATE_FEATURES)),
        "output": (len(CORRECTIONS), hidden_units + 1),
        "gain": (len(CORRECTIONS), hidden_units + 1, len(CLASS_FEATURES)),
    }


@dataclass(frozen=True, eq=False)
class ClassProfile:
    """What the network is told about the classes of an instance on a cluster, and its units.

    Attributes:
        features: in the order of :data:`CLASS_FEATURES`, in [-1, 1]; shape (I, F).
        prefill_cost: what the plan charges for an admission, currency, shape (I,).
        decode_cost: for a decode alone, likewise.
        prefill_time_priority: what a second of a prefill earns compared with the class of which
            it earns most, in units of ``rank_scale``: currency, shape (I,).
        planned_slots: slots of the cluster that each class takes under the plan, shape (I,).
        load_seconds: of a GPU's time that a request of each class takes, shape (I,).
        slot_scale: slots, the unit of features and corrections in slots.
        rank_scale: currency, the unit of corrections of priorities.
        ahead_seconds: how far slots that become free are foreseen.
    """

    features: np.ndarray
    prefill_cost: np.ndarray
    decode_cost: np.ndarray
    prefill_time_priority: np.ndarray
    planned_slots: np.ndarray
    load_seconds: np.ndarray
    slot_scale: float
    rank_scale: float
    ahead_seconds: float
