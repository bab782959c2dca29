"""Instances under random KV-aware laws, for what has to hold under any."""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.hardware import STARTS, Hardware
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.model.length_distributions import LengthDistribution

LENGTHS = (
    LengthDistribution(),
    LengthDistribution("deterministic"),
    LengthDistribution("gamma", cv=0.6),
    LengthDistribution("log-normal", cv=1.4),
)


def random_law(rng: np.random.Generator) -> tuple[SoloIteration, MixedIteration]:
    """Coefficients around those of real GPUs; each but the first is 0 in a third of the laws."""

    def some(least: float, most: float) -> float:
        return (
            0.0 if rng.random() < 1.0 / 3.0 else float(np.exp(rng.uniform(*np.log([least, most]))))
        )

    solo = SoloIteration(float(rng.uniform(5e-3, 3e-2)), some(1e-5, 5e-4), some(1e-8, 3e-7))
    mixed = MixedIteration(
        float(rng.uniform(8e-3, 5e-2)),
        some(1e-6, 1e-4),
        some(1e-5, 5e-4),
        some(1e-8, 3e-7),
        some(1e-10, 1e-8),
    )
    return solo, mixed


def random_instance(
    rng: np.random.Generator, load: float = 1.0, *, kv_limit: bool = False
) -> Instance:
    """One to three classes at random loads, on hardware with random options."""
    hardware = Hardware.kv_aware(
        *random_law(rng),
        chunk_tokens=int(rng.choice([128, 256, 512])),
        batch_slots=int(rng.integers(2, 49)),
        starts=str(rng.choice(STARTS)),
        padded_chunks=bool(rng.random() < 0.5),
        kv_tokens=int(rng.integers(8_000, 60_000)) if kv_limit else None,
    )
    classes = tuple(
        RequestClass(
            f"class {i}",
            float(rng.uniform(50, 2000)),
            float(rng.uniform(20, 800)),
            load * float(rng.uniform(0.1, 6.0)),
            float(rng.choice([0.0, 0.05, 0.3])),
            LENGTHS[rng.integers(len(LENGTHS))],
            LENGTHS[rng.integers(len(LENGTHS))],
        )
        for i in range(int(rng.integers(1, 4)))
    )
    prices = Prices(float(rng.uniform(0.0, 0.3)), float(rng.uniform(0.01, 0.4)))
    return Instance("random law", classes, hardware, prices)
