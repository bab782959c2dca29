"""An instance and its requests as an engine can serve them: whole tokens, starts at boundaries."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.catalog import PATIENCE_RATE
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.workloads.trace import Trace

PATIENT = 1e9
"""Seconds of those who never give up."""


def engine_instance(instance: Instance, hardware: Hardware | str | Path | None) -> Instance:
    """The instance on an engine's hardware, whose requests start at boundaries."""
    if hardware is None:
        known = instance.only_hardware
    else:
        known = hardware if isinstance(hardware, Hardware) else load_hardware(hardware)
    return dataclasses.replace(instance, hardware=dataclasses.replace(known, starts="boundary"))


def served_trace(trace: Trace, instance: Instance, seed: int | np.random.SeedSequence) -> Trace:
    """A trace in whole tokens, at least one of each, with patience for each request.

    Args:
        trace: what arrives.
        instance: its classes, by name or in their order, say how patient requests are.
        seed: of the patience of those that the trace has none for.
    """
    if len(trace) == 0:
        raise ConfigurationError("trace", "no request in these seconds", "at least one")
    patience = trace.patience_seconds
    if patience is None:
        by_name = {c.name: c.patience_rate for c in instance.classes}
        rates = [PATIENCE_RATE] * len(trace.class_names)
        if by_name.keys() >= set(trace.class_names):
            rates = [by_name[name] for name in trace.class_names]
        elif instance.n_classes == len(trace.class_names):
            rates = [c.patience_rate for c in instance.classes]
        draws = np.random.default_rng(seed).exponential(size=len(trace))
        own = np.array(rates)[trace.request_class]
        patience = np.minimum(PATIENT, np.divide(draws, own, out=draws * np.inf, where=own > 0))
    return dataclasses.replace(
        trace,
        prompt_tokens=np.maximum(1.0, np.ceil(trace.prompt_tokens)),
        output_tokens=np.maximum(1.0, np.ceil(trace.output_tokens)),
        patience_seconds=patience,
    )
