"""Recorded requests that share blocks: texts that many begin with, and conversations that grow."""

from __future__ import annotations

import numpy as np

from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.simulation.state.layout import RequestStream

BLOCK = 512


def block_stream(
    seed: int, count: int, seconds: float, n_classes: int = 2, patience: float = np.inf
) -> RequestStream:
    """So many requests within so many seconds; a third of them are cold."""
    rng = np.random.default_rng(seed)
    talks: list[list[int]] = []
    fresh = iter(range(10, 10**6))
    rows, lengths, sessions = [], [], []
    for k in range(count):
        if not talks or rng.random() < 0.35:
            talks.append([int(b) for b in range(rng.integers(0, 4))])
        session = int(rng.integers(max(0, len(talks) - 8), len(talks)))
        blocks = talks[session] + [next(fresh) for _ in range(rng.integers(0, 4))]
        talks[session] = blocks
        extra = float(rng.integers(0, BLOCK))
        prompt = max(1.0, BLOCK * len(blocks) - extra)
        answer = [next(fresh)] if blocks and k % 3 == 0 else []
        talks[session] = blocks + answer
        rows.append(blocks + answer)
        lengths.append((prompt, float(rng.integers(1, 60))))
        sessions.append(session)
    blocks = BlockLists.of(rows)
    prompts, outputs = np.array(lengths).T
    return RequestStream(
        np.sort(rng.uniform(0.0, seconds, count)),
        rng.integers(0, n_classes, count).astype(np.int32),
        np.ascontiguousarray(prompts),
        np.ascontiguousarray(outputs),
        np.full(count, patience) if np.isfinite(patience) else np.empty(0),
        np.array(sessions, np.int64),
        *blocks.arrays,
    )
