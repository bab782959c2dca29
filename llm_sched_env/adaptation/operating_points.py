"""Operating points: what an operator sets for an hour, and how a cluster runs at one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from llm_sched_env.envs.actions import rank_shares
from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.slot_ranks import slot_ranks


@dataclass(frozen=True, order=True)
class OperatingPoint:
    """Settings of a cluster.

    Attributes:
        reserve_scale: factor of the reserves of free slots that trunk reservation keeps.
        prefill_share: share of the GPUs that take prefills (static pools), in (0, 1].
        chunk_tokens: prompt tokens C of a mixed iteration.
        batch_slots: slots B of a GPU.

    Raises:
        ConfigurationError: for a scale or share out of its range.
    """

    reserve_scale: float
    prefill_share: float
    chunk_tokens: int
    batch_slots: int

    def __post_init__(self) -> None:
        if not is_finite_number(self.reserve_scale):
            raise ConfigurationError("reserve_scale", self.reserve_scale, "a finite number >= 0")
        if not (is_finite_number(self.prefill_share, positive=True) and self.prefill_share <= 1):
            raise ConfigurationError("prefill_share", self.prefill_share, "a share in (0, 1]")

    def applied_to(self, instance: Instance) -> Instance:
        """The instance on the same GPUs with this chunk and these slots."""
        hardware = dataclasses.replace(
            instance.only_hardware, chunk_tokens=self.chunk_tokens, batch_slots=self.batch_slots
        )
        return dataclasses.replace(instance, hardware=hardware)

    def text(self) -> str:
        """In a few words."""
        return (
            f"reserves x {self.reserve_scale:g}, {self.prefill_share:.0%} prefill, "
            f"C = {self.chunk_tokens}, B = {self.batch_slots}"
        )


def grid(
    reserve_scales: Sequence[float],
    prefill_shares: Sequence[float],
    chunk_tokens: Sequence[int],
    batch_slots: Sequence[int],
) -> list[OperatingPoint]:
    """Every combination, in order."""
    combinations = product(reserve_scales, prefill_shares, chunk_tokens, batch_slots)
    return [OperatingPoint(*values) for values in combinations]


class FixedPoint:
    """Trunk reservation with scaled reserves in static pools; decodes go to solo GPUs first.

    A policy as :func:`llm_sched_env.evaluate` takes it; chunk and slots are of the instance.

    Args:
        reserve_scale: factor of the plan's reserves.
        prefill_share: share of the GPUs that take prefills.
        interval: seconds between calls; nothing changes in between.
    """

    name = "operating-point"

    def __init__(self, reserve_scale: float, prefill_share: float, interval: float) -> None:
        self.reserve_scale = reserve_scale
        self.prefill_share = prefill_share
        self.environment = {
            "gate": "net-value",
            "router": "solo-first",
            "pools": "static",
            "controls": ["pool", "reserve"],
            "interval": interval,
        }

    def reset(
        self, instance: Instance, plan: FluidPlan, n_gpus: int, rng: np.random.Generator
    ) -> None:
        """Scale the reserves of the plan; the policy is deterministic."""
        del rng
        ranks = slot_ranks(plan, n_gpus)
        # A class that the plan keeps out stays out, unless nothing is reserved at all.
        reserve = self.reserve_scale * ranks.reserve if self.reserve_scale else 0 * ranks.priority
        shares = rank_shares(np.stack([ranks.priority, reserve]))[instance.n_classes :]
        self._action = np.concatenate([[self.prefill_share], shares])

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """The same action always."""
        del observation, info
        return self._action


def features(points: Sequence[OperatingPoint], load: float) -> np.ndarray:
    """Quadratic features of points in an hour of a load, shape (K, 20).

    A constant; reserve scale, prefill share, log2 of chunk and of slots, load, each centred and
    scaled to about [-1, 1]; and their products of two, but the square of the load.
    """
    settings = np.array(
        [
            (
                p.reserve_scale - 1,
                4 * (p.prefill_share - 0.5),
                np.log2(p.chunk_tokens / 512) / 2,
                np.log2(p.batch_slots / 64),
                2 * (load - 1),
            )
            for p in points
        ]
    )
    first, second = np.triu_indices(settings.shape[1])
    products = (settings[:, first] * settings[:, second])[:, :-1]
    return np.column_stack([np.ones(len(points)), settings, products])
