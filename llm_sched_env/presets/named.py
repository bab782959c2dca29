"""Named instances and hardware."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.catalog import PAPER_PRICES, PATIENCE_RATE, QWEN_8B_A100
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.instance import (
    Hardware,
    Instance,
    Prices,
    RequestClass,
    load_hardware,
)
from llm_sched_env.presets import time_varying

# Table 1: category, mean prompt tokens, mean output tokens, samples.
_DOLLY_15K = (
    ("brainstorming", 61, 331, 1764),
    ("classification", 123, 142, 2136),
    ("closed-qa", 992, 182, 1738),
    ("creative-writing", 89, 915, 699),
    ("general-qa", 69, 572, 2187),
    ("information-extraction", 1139, 273, 1462),
    ("open-qa", 45, 293, 3739),
    ("summarization", 1177, 436, 1150),
)
_DOLLY_ARRIVAL_RATE = 4.0
TRACE_ARRIVAL_RATE = 2.0
"""Requests per second and GPU, all classes, to which ``azure2023`` is scaled by default."""


def base() -> Instance:
    """The paper's two-class instance (section 6.2): decode-heavy chat and prefill-heavy reading."""
    return Instance(
        "base",
        (
            RequestClass("decode-heavy", 300.0, 1000.0, 0.5, PATIENCE_RATE),
            RequestClass("prefill-heavy", 3000.0, 400.0, 0.5, PATIENCE_RATE),
        ),
        QWEN_8B_A100,
        PAPER_PRICES,
    )


def overload() -> Instance:
    """``base`` at twice the arrival rates."""
    return base().scaled(2.0, name="overload")


def dolly15k() -> Instance:
    """Eight categories of the Dolly-15k data (Table 1), 4 requests per second and GPU in all."""
    samples = sum(row[3] for row in _DOLLY_15K)
    return Instance(
        "dolly15k",
        tuple(
            RequestClass(
                name,
                float(prompt),
                float(output),
                _DOLLY_ARRIVAL_RATE * count / samples,
                PATIENCE_RATE,
            )
            for name, prompt, output, count in _DOLLY_15K
        ),
        QWEN_8B_A100,
        PAPER_PRICES,
    )


def azure2023(
    traces: Sequence[str | Path],
    *,
    arrival_rate: float = TRACE_ARRIVAL_RATE,
    patience_rate: float = PATIENCE_RATE,
    hardware: Hardware = QWEN_8B_A100,
    prices: Prices = PAPER_PRICES,
) -> Instance:
    """Azure LLM inference traces 2023 as an instance: one class per file.

    Args:
        traces: the conversation and code files (found by path, never shipped).
        arrival_rate: of all classes together, requests per second and GPU; the classes keep the
            proportions of the traces.
        patience_rate: theta of every class, 1/s.
        hardware: iteration times and slots.
        prices: revenue per token.
    """
    from llm_sched_env.workloads.traces import instance_from_trace, load_traces

    trace = load_traces(traces)
    instance = instance_from_trace(
        trace, n_gpus=1, patience_rates=patience_rate, hardware=hardware, prices=prices
    )
    # Only the means: exponential lengths make it an instance of the Markov model.
    classes = tuple(dataclasses.replace(c, observed_lengths=None) for c in instance.classes)
    scale = arrival_rate / float(instance.arrival_rates.sum())
    return dataclasses.replace(instance, name="azure2023", classes=classes).scaled(
        scale, "azure2023"
    )


PRESETS: dict[str, Callable[[], Instance]] = {
    "base": base,
    "overload": overload,
    "dolly15k": dolly15k,
}
"""The presets that need no file; ``azure2023`` takes the paths of its traces."""

# What brings base and dolly15k to a mean load of 1: their plans just serve everybody.
_BASE_AT_CAPACITY, _DOLLY_AT_CAPACITY = 0.96, 0.51


def h100_chat() -> Instance:
    """Chat, document questions and reasoning on an H100 with 128 slots, a little above capacity.

    Its hardware is fitted to a grid of measured iterations (docs/calibration.md); contexts stay
    within those measured, 2048 tokens a decode.
    """
    return Instance(
        "h100-chat",
        (
            RequestClass("chat", 400.0, 250.0, 9.0, PATIENCE_RATE),
            RequestClass("documents", 1800.0, 200.0, 4.0, PATIENCE_RATE),
            RequestClass("reasoning", 300.0, 1200.0, 2.0, PATIENCE_RATE),
        ),
        load_hardware("h100-llama3-8b-b128"),
        PAPER_PRICES,
    )


def chat_deadlines() -> Instance:
    """Interactive chat whose first token is due in a second, beside summaries that may wait.

    On the paper's hardware, 4% above capacity: not every request can be good, so it matters who
    goes first. Whoever waits for a summary is more patient.
    """
    chat = Deadlines(ttft_seconds=1.0, tpot_seconds=0.05)
    summaries = Deadlines(ttft_seconds=20.0)
    return Instance(
        "chat-deadlines",
        (
            RequestClass("chat", 300.0, 400.0, 1.4, PATIENCE_RATE, deadlines=chat),
            RequestClass("summaries", 3000.0, 300.0, 0.5, 0.02, deadlines=summaries),
        ),
        QWEN_8B_A100,
        PAPER_PRICES,
    )


def mixed_fleet() -> Instance:
    """Chat, document questions and reasoning on H100s beside A100s, 13% above capacity.

    Two of five GPUs are H100s. Both kinds of hardware are profiles of the linear operators of the
    same model, Llama-2-7B (docs/calibration.md), so that they compare.
    """
    fleet = Fleet(
        (
            GpuGroup("h100", load_hardware("h100-llama2-7b"), 0.4),
            GpuGroup("a100", load_hardware("a100-llama2-7b"), 0.6),
        )
    )
    return Instance(
        "mixed-fleet",
        (
            RequestClass("chat", 400.0, 250.0, 9.0, PATIENCE_RATE),
            RequestClass("documents", 1800.0, 200.0, 4.0, PATIENCE_RATE),
            RequestClass("reasoning", 300.0, 1200.0, 3.0, PATIENCE_RATE),
        ),
        fleet,
        PAPER_PRICES,
    )


DEADLINE_PRESETS: dict[str, Callable[[], Instance]] = {"chat-deadlines": chat_deadlines}
"""Presets whose classes have deadlines."""
FLEET_PRESETS: dict[str, Callable[[], Instance]] = {"mixed-fleet": mixed_fleet}
"""Presets with several groups of GPUs."""
MEASURED_PRESETS: dict[str, Callable[[], Instance]] = {"h100-chat": h100_chat}
"""Presets on measured hardware."""
CHANGING_PRESETS: dict[str, Callable[[], Instance]] = {
    "daily": lambda: time_varying.daily(base().scaled(_BASE_AT_CAPACITY), "daily"),
    "daily-dolly": lambda: time_varying.daily(dolly15k().scaled(_DOLLY_AT_CAPACITY), "daily-dolly"),
    "bursts": lambda: time_varying.bursts(base().scaled(_BASE_AT_CAPACITY), "bursts"),
    "bursts-dolly": lambda: time_varying.bursts(
        dolly15k().scaled(_DOLLY_AT_CAPACITY), "bursts-dolly"
    ),
    "phased": lambda: time_varying.phased(overload(), "phased"),
    "peaks": lambda: time_varying.peaks(dolly15k().scaled(0.6), "peaks"),
}
"""Presets whose arrival rates change (time_varying.py); their mean rates set plan and R*."""
NAMED_INSTANCES = {
    **PRESETS,
    **MEASURED_PRESETS,
    **DEADLINE_PRESETS,
    **FLEET_PRESETS,
    **CHANGING_PRESETS,
}
"""All presets that need no file."""


def resolve_instance(instance: Instance | str | Path | dict[str, object]) -> Instance:
    """An instance from itself, a preset's name, a file's path or plain data."""
    if isinstance(instance, Instance):
        return instance
    if isinstance(instance, dict):
        return Instance.from_dict(instance)
    if isinstance(instance, str) and instance in NAMED_INSTANCES:
        return NAMED_INSTANCES[instance]()
    if isinstance(instance, Path) or (
        isinstance(instance, str) and instance.endswith((".json", ".toml"))
    ):
        return Instance.load(instance)
    if instance == "azure2023":
        raise ConfigurationError(
            "instance",
            instance,
            f"{', '.join(NAMED_INSTANCES)} or an instance file (.json, .toml)",
            "azure2023 is built from its trace files: give them with --trace "
            "(Python: presets.azure2023([conversation, code]))",
        )
    raise ConfigurationError(
        "instance", instance, f"{', '.join(NAMED_INSTANCES)} or an instance file (.json, .toml)"
    )
