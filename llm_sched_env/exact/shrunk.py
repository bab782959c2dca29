"""Shrink an instance to fewer slots or classes at the same load, so that it can be solved."""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.errors import checked_integer
from llm_sched_env.exact.tiny_system import require_markov
from llm_sched_env.model.arrival_rates import ArrivalModulation
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.presets.time_varying import writing_classes


def shrunk(instance: Instance, batch_slots: int, load: float = 1.0) -> Instance:
    """Fewer slots that are held for less long, by shorter and dearer outputs.

    With s = ``batch_slots`` / B outputs have s D tokens at a price of c_d / s. Arrivals,
    prefills, the requests that a GPU's slots finish per second and the revenue of a request are
    those of the instance; all that changes is how many share a GPU.

    Args:
        instance: which.
        batch_slots: slots of a GPU, >= 2.
        load: factor of the arrival rates, > 0.
    """
    scale = checked_integer("batch_slots", batch_slots, least=2) / instance.hardware.batch_slots
    classes = tuple(
        dataclasses.replace(c, output_tokens=c.output_tokens * scale) for c in instance.classes
    )
    smaller = dataclasses.replace(
        instance,
        name=f"{instance.name}-B{batch_slots}",
        classes=classes,
        hardware=dataclasses.replace(instance.only_hardware, batch_slots=batch_slots),
        prices=Prices(instance.prices.prefill, instance.prices.decode / scale),
    )
    return smaller.scaled(load, name=smaller.name) if load == 1.0 else smaller.scaled(load)


def merged_halves(instance: Instance) -> Instance:
    """Two classes in place of many: those that write more than they read, and the others.

    Each has the arrivals of its half and, averaged over them, its lengths and patience, so that
    the same tokens arrive; at any time, if bursts are of whole halves. An instance whose classes
    are all of one half becomes one class.

    Raises:
        ConfigurationError: for an instance that is no Markov chain.
    """
    require_markov(instance)
    rates = instance.arrival_rates
    writes = np.array(writing_classes(instance))
    halves = {"writing": writes, "reading": ~writes}
    shares = {
        name: np.where(half, rates, 0.0) / rates[half].sum()
        for name, half in halves.items()
        if half.any()
    }
    classes = tuple(
        RequestClass(
            name,
            float(share @ instance.prompt_tokens),
            float(share @ instance.output_tokens),
            float(rates[share > 0.0].sum()),
            float(share @ instance.patience_rates),
        )
        for name, share in shares.items()
    )
    modulation = instance.modulation
    if modulation is not None:
        by_class = modulation.relative_rates(instance.n_classes)
        multipliers = by_class @ np.column_stack(list(shares.values()))
        modulation = ArrivalModulation(
            tuple(map(tuple, multipliers.tolist())), modulation.switch_rates
        )
    return dataclasses.replace(
        instance, name=f"{instance.name}-halves", classes=classes, modulation=modulation
    )
