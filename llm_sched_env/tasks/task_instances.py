"""Instances of tasks that no preset has: GPUs with prefix caches."""

from __future__ import annotations

import dataclasses

from llm_sched_env.model.block_lists import BLOCK_TOKENS
from llm_sched_env.model.catalog import PAPER_PRICES
from llm_sched_env.model.conversations import Sessions, SharedPrefix
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.model.instance import Instance, RequestClass

CACHE_BLOCKS = 800
"""Of a GPU: about what is left of 80 GB beside the weights of Llama-3-8B."""
_PATIENCE_RATE = 0.02


def sessions() -> Instance:
    """Chat in conversations, and questions about a few long documents, on GPUs with caches."""
    return Instance(
        "sessions",
        (
            RequestClass(
                "chat",
                prompt_tokens=1500.0,
                output_tokens=250.0,
                arrival_rate=2.9,
                patience_rate=_PATIENCE_RATE,
                deadlines=Deadlines(ttft_seconds=1.0),
                sessions=Sessions(turns=6.0, think_seconds=40.0, added_tokens=300.0),
            ),
            RequestClass(
                "documents",
                prompt_tokens=9000.0,
                output_tokens=150.0,
                arrival_rate=0.78,
                patience_rate=_PATIENCE_RATE,
                deadlines=Deadlines(ttft_seconds=3.0),
                shared_prefix=SharedPrefix(tokens=8192, variants=120, exponent=0.8),
            ),
        ),
        _with_cache(),
        PAPER_PRICES,
    )


def mooncake_cluster() -> Instance:
    """What Mooncake's conversations are replayed on: one class, whose first token is due in 8 s."""
    own = RequestClass(
        "trace", 1.0, 1.0, 1.0, _PATIENCE_RATE, deadlines=Deadlines(ttft_seconds=8.0)
    )
    return Instance("mooncake", (own,), _with_cache(), PAPER_PRICES)


def _with_cache() -> Hardware:
    return dataclasses.replace(
        load_hardware("h100-llama3-8b-b128"), cache_tokens=CACHE_BLOCKS * BLOCK_TOKENS
    )
