"""Random instances from the ranges of section 6.3: two classes and one type of GPU.

This project also draws more classes, at rates that add up to what two would have.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.errors import checked_integer
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.presets import PAPER_PRICES, PATIENCE_RATE, QWEN_8B_A100

RANGES = {
    "alpha": (0.015, 0.02),
    "beta": (1e-5, 1e-3),
    "gamma": (10.0, 50.0),
    "prompt_tokens": (200.0, 3000.0),
    "output_tokens": (200.0, 3000.0),
    "arrival_rate": (0.25, 0.5),
}
"""Section 6.3, in the units of :class:`Hardware` and :class:`RequestClass`."""

N_CLASSES = 2


def random_instance(number: int, seed: int = 0, n_classes: int = N_CLASSES) -> Instance:
    """Instance ``number`` of a seed; it does not depend on how many are drawn.

    Every quantity is uniform in :data:`RANGES` and independent, by class where it is one of a
    class; with more than two classes the arrival rates are times 2 / I **[ours]**, so that all
    classes together have the mean rate of the paper's two. Chunk, slots, prices and patience are
    those of ``base`` **[ours]**: the paper names none.

    Args:
        number: 0, 1, ...
        seed: another seed gives other instances.
        n_classes: I >= 1.
    """
    n_classes = checked_integer("n_classes", n_classes)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
    drawn = {
        name: rng.uniform(*ends, size=1 if name in _OF_THE_GPU else n_classes).tolist()
        for name, ends in RANGES.items()
    }
    classes = tuple(
        RequestClass(
            f"class-{i + 1}",
            drawn["prompt_tokens"][i],
            drawn["output_tokens"][i],
            drawn["arrival_rate"][i] * N_CLASSES / n_classes,
            PATIENCE_RATE,
        )
        for i in range(n_classes)
    )
    hardware = dataclasses.replace(QWEN_8B_A100, **{name: drawn[name][0] for name in _OF_THE_GPU})
    many = "" if n_classes == N_CLASSES else f"-{n_classes}-classes"
    return Instance(f"random-{seed}-{number}{many}", classes, hardware, PAPER_PRICES)


def slowest_decode(instance: Instance) -> float:
    """Mean seconds of the longest decode at the slower speed: what a warm-up is measured in."""
    speed = max(instance.hardware.tau_mixed, instance.hardware.tau_solo)
    return float(instance.output_tokens.max() * speed)


_OF_THE_GPU = ("alpha", "beta", "gamma")
