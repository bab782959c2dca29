"""Instances with fewer slots and the same load, small enough to be solved exactly."""

from __future__ import annotations

import dataclasses

from llm_sched_env.errors import checked_integer
from llm_sched_env.instance import Instance, Prices


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
        hardware=dataclasses.replace(instance.hardware, batch_slots=batch_slots),
        prices=Prices(instance.prices.prefill, instance.prices.decode / scale),
    )
    return smaller.scaled(load, name=smaller.name) if load == 1.0 else smaller.scaled(load)
