"""Clusters whose arrivals are routed: with caches or without, one group of GPUs or several."""

from __future__ import annotations

from dataclasses import replace

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.model.conversations import Sessions, SharedPrefix

GPU = replace(presets.QWEN_8B_A100, batch_slots=6, cache_tokens=24 * 512)
SLOW = replace(GPU, alpha=0.03, gamma=25.0, chunk_tokens=128, chunking="ceil", cache_tokens=9 * 512)
PLAIN = replace(GPU, cache_tokens=None)
LIMITED = replace(GPU, kv_tokens=24_000)
LINK = lse.Link(tokens_per_second=50_000.0, seconds=0.01)
FLEETS = {
    "no caches": (("all", PLAIN, 1.0, "mixed"),),
    "caches": (("all", GPU, 1.0, "mixed"),),
    "little memory": (("all", LIMITED, 1.0, "mixed"),),
    "disaggregated": (("p", SLOW, 0.6, "prefill", LINK), ("d", GPU, 0.4, "decode")),
    "three groups": (
        ("p", SLOW, 0.4, "prefill", LINK),
        ("d", GPU, 0.4, "decode"),
        ("m", PLAIN, 0.2, "mixed"),
    ),
}


def fleet_instance(fleet: str, patience_rate: float = 0.0) -> lse.Instance:
    """Two classes on one of :data:`FLEETS`."""
    groups = tuple(lse.GpuGroup(*group) for group in FLEETS[fleet])
    classes = (
        lse.RequestClass("a", 1500.0, 30.0, 0.5, patience_rate),
        lse.RequestClass("b", 1500.0, 30.0, 0.5, patience_rate),
    )
    hardware = groups[0].hardware if len(groups) == 1 else lse.Fleet(groups)
    return lse.Instance(fleet, classes, hardware, presets.PAPER_PRICES)


def talking_instance(cache_blocks: int = 24) -> lse.Instance:
    """Conversations, some of which begin with a common text."""
    classes = (
        lse.RequestClass(
            "chat",
            900.0,
            40.0,
            0.8,
            0.01,
            sessions=Sessions(turns=4.0, think_seconds=5.0, added_tokens=100.0),
            shared_prefix=SharedPrefix(tokens=1024, variants=3, exponent=1.0),
        ),
        lse.RequestClass("batch", 1500.0, 60.0, 0.3, 0.01),
    )
    hardware = replace(GPU, cache_tokens=cache_blocks * 512)
    return lse.Instance("talks", classes, hardware, presets.PAPER_PRICES)
