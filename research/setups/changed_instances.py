"""Vary an instance's hardware, prices or classes, with all else unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from llm_sched_env.model.instance import Instance, Prices, RequestClass


def with_hardware(instance: Instance, **changes: Any) -> Instance:
    """With other values of fields of the hardware."""
    hardware = dataclasses.replace(instance.hardware, **changes)
    return dataclasses.replace(instance, hardware=hardware)


def with_prices(instance: Instance, prefill: float, decode: float) -> Instance:
    """With other prices per token."""
    return dataclasses.replace(instance, prices=Prices(prefill, decode))


def with_classes(instance: Instance, change: Callable[[RequestClass], dict[str, Any]]) -> Instance:
    """With other values of fields of each class, which ``change`` tells."""
    classes = tuple(dataclasses.replace(c, **change(c)) for c in instance.classes)
    return dataclasses.replace(instance, classes=classes)
