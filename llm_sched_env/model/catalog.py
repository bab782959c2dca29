"""The hardware and prices that the presets are built from."""

from __future__ import annotations

from llm_sched_env.model.instance import Hardware, Prices

QWEN_8B_A100 = Hardware(alpha=0.0174, beta=6.2e-5, gamma=45.45, chunk_tokens=256, batch_slots=16)
"""Qwen-8B on an A100 (section 6.2)."""

QWEN_4B_A100 = Hardware(alpha=0.0152, beta=3.6e-5, gamma=52.63, chunk_tokens=256, batch_slots=16)
"""Qwen-4B on an A100 (section 6.1)."""

PAPER_PRICES = Prices(prefill=0.1, decode=0.2)
"""Currency per prompt and output token (section 6.2)."""

PATIENCE_RATE = 0.1
"""Patience of every class of the presets, 1/s."""
