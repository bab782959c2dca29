"""Instances under the KV-aware law, each with its two-speed analogue."""

from __future__ import annotations

import dataclasses
from typing import Any

from llm_sched_env import presets
from llm_sched_env.benchmarks.kv_aware_analogue import kv_aware_analogue
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.model.length_distributions import LengthDistribution

KV_AWARE, TWO_SPEED = "kv-aware", "two-speed"
LAWS = (KV_AWARE, TWO_SPEED)

# An H100 with a Llama-3-8B: 32 slots, chunks of 512 tokens that are padded (docs/validation.md).
H100 = Hardware.kv_aware(
    SoloIteration(8.04e-3, per_decode=8.69e-5, per_kv_token=1.36e-8),
    MixedIteration(1.66e-2, per_decode=1.64e-4),
    chunk_tokens=512,
    batch_slots=32,
    starts="boundary",
    padded_chunks=True,
)
_BURSTY = LengthDistribution("gamma", 1.5)


def _h100(name: str, load: float, lengths: LengthDistribution | None = None) -> Instance:
    """Two classes on the H100, at a share of 6 and 18 requests a second."""
    law: dict[str, Any] = (
        {} if lengths is None else {"prompt_lengths": lengths, "output_lengths": lengths}
    )
    classes = (
        RequestClass("chat", 300.0, 500.0, 6.0 * load, 0.1, **law),
        RequestClass("summary", 900.0, 120.0, 18.0 * load, 0.1, **law),
    )
    return Instance(name, classes, H100, presets.PAPER_PRICES)


def _two_speed(instance: Instance) -> Instance:
    """The same requests at the speeds of a full batch, with immediate starts."""
    hardware = instance.hardware
    solo, mixed = instance.full_batch_seconds
    plain = Hardware(
        mixed, 0.0, 1.0 / solo, hardware.chunk_tokens, hardware.batch_slots, chunking="ceil"
    )
    return dataclasses.replace(instance, hardware=plain)


def pairs() -> dict[str, dict[str, Instance]]:
    """By name and law: three presets and three loads of an H100."""
    found = {}
    for make in (presets.base, presets.overload, presets.dolly15k):
        own = make()
        found[own.name] = {KV_AWARE: kv_aware_analogue(own), TWO_SPEED: own}
    for own in (
        _h100("h100-full", 0.5),
        _h100("h100-overload", 1.0),
        _h100("h100-gamma", 0.6, _BURSTY),
    ):
        found[own.name] = {KV_AWARE: own, TWO_SPEED: _two_speed(own)}
    return found
