"""Settings of a cluster: batch slots, chunk, policy, pool and reserves; which of them exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.sizing.judged import Candidate, GpuKind

# Tried by default, as far as the hardware was measured there.
_SLOTS = (16, 32, 64, 96, 128, 192, 256)
_CHUNKS = (256, 512, 1024, 2048, 4096)
POOL_SCALES = (0.75, 1.0, 1.5)
RESERVE_SCALES = (0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Setting:
    """One way to run a cluster.

    Attributes:
        kind: GPUs with these batch slots and chunk tokens.
        n_gpus: cluster size n.
        policy: its label.
        rule: the policy.
        pool_scale: GPUs of the mixed pool, as a multiple of the plan's; 1 without static pools.
        reserve_scale: free slots that are kept, likewise; 1 for rules that keep none.
    """

    kind: GpuKind
    n_gpus: int
    policy: str
    rule: DispatchRule
    pool_scale: float = 1.0
    reserve_scale: float = 1.0

    @property
    def candidate(self) -> Candidate:
        """As it is judged."""
        return Candidate(
            self.kind, self.n_gpus, self.policy, self.rule, self.pool_scale, self.reserve_scale
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "gpu": self.kind.name,
            "n_gpus": self.n_gpus,
            "batch_slots": self.kind.hardware.batch_slots,
            "chunk_tokens": self.kind.hardware.chunk_tokens,
            "policy": self.policy,
            "pool_scale": self.pool_scale,
            "reserve_scale": self.reserve_scale,
        }


def settings_of(
    kind: GpuKind,
    sizes: Sequence[int],
    policies: Sequence[tuple[str, DispatchRule]],
    *,
    slots: Sequence[int] | None = None,
    chunks: Sequence[int] | None = None,
    pool_scales: Sequence[float] = POOL_SCALES,
    reserve_scales: Sequence[float] = RESERVE_SCALES,
) -> list[Setting]:
    """All combinations that differ.

    Args:
        kind: GPUs as they were measured.
        sizes: numbers of GPUs.
        policies: labels and rules.
        slots: batch slots; default: usual ones up to the most decodes that were measured, and
            those of the hardware.
        chunks: chunk tokens; default likewise, where the law says what another chunk costs.
        pool_scales: for rules with static pools.
        reserve_scales: for rules that keep free slots by the plan.

    Raises:
        ConfigurationError: for other chunks where the law does not say what they cost.
    """
    kinds = list(_kinds(kind, slots, chunks))
    every = [
        (label, rule, pool, reserve)
        for label, rule in policies
        for pool in (pool_scales if rule.pools == "static" else (1.0,))
        for reserve in (reserve_scales if _keeps_slots(rule) else (1.0,))
    ]
    return [Setting(gpu, n, *rest) for gpu, n, rest in product(kinds, sizes, every)]


def _keeps_slots(rule: DispatchRule) -> bool:
    """Whether free slots are kept by a plan that stays as it is."""
    return rule.gate == "bid-price" and rule.foresight is None


def chunk_is_fixed(kind: GpuKind) -> bool:
    """Whether the time of a chunk is known as a whole only: every one was padded to the same."""
    hardware = kind.hardware
    per_token = hardware.beta if hardware.mixed is None else hardware.mixed.per_prompt_token
    return hardware.padded_chunks and per_token == 0.0


def _kinds(
    kind: GpuKind, slots: Sequence[int] | None, chunks: Sequence[int] | None
) -> Iterator[GpuKind]:
    own = kind.hardware
    if chunks is None:
        chunks = (own.chunk_tokens,) if chunk_is_fixed(kind) else _usual(kind, "prefill_tokens")
    elif chunk_is_fixed(kind) and set(chunks) != {own.chunk_tokens}:
        raise ConfigurationError(
            f"chunk_tokens of {kind.name}",
            list(chunks),
            f"{own.chunk_tokens} alone",
            "its chunks were all padded to that, so what others cost was not measured; take "
            "another hardware or calibrate one",
        )
    for b, c in product(slots or _usual(kind, "decodes"), chunks):
        hardware = dataclasses.replace(own, batch_slots=b, chunk_tokens=c)
        yield dataclasses.replace(kind, hardware=hardware)


def _usual(kind: GpuKind, name: str) -> list[int]:
    """Usual values within the measured range, and the hardware's own."""
    own = kind.hardware.batch_slots if name == "decodes" else kind.hardware.chunk_tokens
    usual = _SLOTS if name == "decodes" else _CHUNKS
    ranges = None if kind.source is None else kind.source.ranges
    if ranges is None:
        return [own]
    least, most = getattr(ranges, name)
    return sorted({own, *(value for value in usual if least <= value <= most)})
