"""The bound where prompts are reused: requests of a class by what is left of them.

A prefill that finds most of its prompt earns as much for less work, and a policy that sees this may
serve such requests first. So the bound takes each class as several, from those that earn most a
token of prefill to those that earn least.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.model.instance import Instance, RequestClass

PARTS = 16
"""Of each class with reuse."""


def by_reuse(instance: Instance) -> Instance:
    """The instance with classes split by reuse; itself where nothing is reused.

    Example:
        >>> from llm_sched_env.presets import base
        >>> by_reuse(base()) == base()
        True
    """
    classes: list[RequestClass] = []
    for own in instance.classes:
        rows = own.observed_lengths
        reuses = rows is not None and rows.reused_tokens is not None
        classes += _parts(instance, own) if reuses else [own]
    if len(classes) == instance.n_classes:
        return instance
    return dataclasses.replace(instance, classes=tuple(classes))


def _parts(instance: Instance, own: RequestClass) -> list[RequestClass]:
    """A class as so many of equal rates, or as many as have both prompts and outputs."""
    rows = own.observed_lengths
    assert rows is not None
    prices = instance.prices
    revenue = prices.prefill * rows.prompt_tokens + prices.decode * own.output_tokens
    left = rows.prompt_tokens - rows.reused
    order = np.argsort(-revenue / np.maximum(left, 1.0), kind="stable")
    count = min(PARTS, len(rows))
    while count > 1:
        parts = np.array_split(order, count)
        tokens = [(rows.prompt_tokens[p].max(), rows.output_tokens[p].max()) for p in parts]
        if min(map(min, tokens)) > 0.0:
            break
        count -= 1
    return [
        dataclasses.replace(
            own,
            name=f"{own.name} {k + 1}",
            prompt_tokens=float(rows.prompt_tokens[part].mean()),
            output_tokens=float(rows.output_tokens[part].mean()),
            arrival_rate=own.arrival_rate * len(part) / len(rows),
            observed_lengths=rows.picked(part),
        )
        for k, part in enumerate(np.array_split(order, count))
    ]
