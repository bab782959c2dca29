"""What prefix caches were good for in an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_sched_env.simulation.events.metrics import CacheUse, Metrics


@dataclass(frozen=True)
class CacheResult:
    """Of the prefills that started in the measured seconds, over all replications.

    Attributes:
        cached_token_share: prompt tokens that needed no prefill over all; None if none started.
        by_gpu: the same, by GPU.
        evictions: blocks that were forgotten, per GPU and second.
    """

    cached_token_share: float | None
    by_gpu: tuple[float | None, ...]
    evictions: float

    @classmethod
    def measured(cls, metrics: list[Metrics]) -> CacheResult:
        """From the metrics of each replication."""
        uses = _uses(metrics)
        cached = np.sum([use.gpu_cached_tokens for use in uses], axis=0)
        prompts = np.sum([use.gpu_prompt_tokens for use in uses], axis=0)
        forgotten = sum(int(use.evictions.sum()) for use in uses)
        return cls(
            _share(cached.sum(), prompts.sum()),
            tuple(map(_share, cached.tolist(), prompts.tolist())),
            forgotten / sum(m.gpu_seconds for m in metrics),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "by_gpu": list(self.by_gpu)}


def cached_share(metrics: list[Metrics], i: int) -> float | None:
    """Prompt tokens of class i that needed no prefill over all; None if none started."""
    uses = _uses(metrics)
    cached = sum(float(use.cached_tokens[i]) for use in uses)
    return _share(cached, sum(float(use.prompt_tokens[i]) for use in uses))


def _uses(metrics: list[Metrics]) -> list[CacheUse]:
    return [m.reuse for m in metrics if m.reuse is not None]


def _share(cached: float, prompts: float) -> float | None:
    return float(cached) / float(prompts) if prompts > 0 else None
