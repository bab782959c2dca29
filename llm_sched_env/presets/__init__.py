"""Named instances, and the hardware and prices that they are built from."""

from __future__ import annotations

from llm_sched_env.model.catalog import (
    PAPER_PRICES,
    PATIENCE_RATE,
    QWEN_4B_A100,
    QWEN_8B_A100,
)
from llm_sched_env.presets.named import (
    CHANGING_PRESETS,
    DEADLINE_PRESETS,
    FLEET_PRESETS,
    MEASURED_PRESETS,
    NAMED_INSTANCES,
    PRESETS,
    TRACE_ARRIVAL_RATE,
    azure2023,
    base,
    chat_deadlines,
    dolly15k,
    h100_chat,
    mixed_fleet,
    overload,
    resolve_instance,
)

__all__ = [
    "CHANGING_PRESETS",
    "DEADLINE_PRESETS",
    "FLEET_PRESETS",
    "MEASURED_PRESETS",
    "NAMED_INSTANCES",
    "PAPER_PRICES",
    "PATIENCE_RATE",
    "PRESETS",
    "QWEN_4B_A100",
    "QWEN_8B_A100",
    "TRACE_ARRIVAL_RATE",
    "azure2023",
    "base",
    "chat_deadlines",
    "dolly15k",
    "h100_chat",
    "mixed_fleet",
    "overload",
    "resolve_instance",
]
