"""The fluid plan: linear programs (40), bundled, and (42), separate charging."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.model.priority_network import ClassProfile
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.level_program import solve_with_levels
from llm_sched_env.planning.linear_program import (
    canonical_split,
    fluid_program,
    maximize,
    needs_decode_queue,
    objective,
    shadow_prices,
)
from llm_sched_env.planning.service_level_names import checked_service_levels
from llm_sched_env.planning.service_levels import AttainedLevel, ServiceLevel
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.presets import resolve_instance

PRICINGS = ("bundled", "separate")
VARIABLES = ("x", "y_mixed", "y_solo", "q_prefill", "q_decode")
# An admission fraction this close to 1 serves the whole class.
_ALL = 1.0 - 1e-9
# A queue that grows by less than this share of its arrivals does not grow: solver noise.
_NO_GROWTH = 1e-9
# Less than this share of R*, or of all decodes, is nothing: solver noise.
_NOTHING = 1e-9


@dataclass(frozen=True, eq=False)
class FluidPlan:
    """An optimum of the fluid program; arrays have shape (I,) and are read-only.

    All quantities are per GPU. ``value`` is R*, revenue per GPU and second, which bounds the
    long-run revenue rate of every policy at every cluster size. With service levels it stays
    that bound, of the program without them; ``revenue_rate`` is what this plan earns and
    ``objective`` what it maximises. Without service levels all three are the same number.

    Attributes:
        instance: what was planned; with a KV limit, the requests that fit.
        pricing: ``bundled`` (40) or ``separate`` (42).
        value: R*, currency per GPU and second.
        revenue_rate: revenue of this plan, currency per GPU and second, at most R*.
        objective: revenue_rate less the penalties of the service levels.
        x: prefills in service.
        y_mixed: decodes beside a running prefill; canonical split (one p_s for all classes)
            unless a service level weighs the split.
        y_solo: decodes without a prefill beside them, split as y_mixed.
        q_prefill: waiting for prefill; ``inf`` for an overloaded class without abandonment.
        q_decode: prefilled and waiting for a decode slot; ``inf`` as above.
        solo_probability: p_s, probability that a decode belongs to the solo pool.
        admission_fraction: f, admitted share of the arrivals.
        mixed_fraction: sum of x, the mixed pool's share of the cluster.
        duals: shadow prices: ``prefill_capacity``, ``mixed_decode_capacity``,
            ``solo_decode_capacity`` (revenue rate per unit of capacity) and per class ``arrival``
            (revenue per further request) and ``prefilled`` (revenue per further prefilled one).
        slis: per service level, by name, what is attained, its penalty and its shadow price.
        unstable_classes: names of classes whose queue grows without bound under this plan.
    """

    instance: Instance
    pricing: str
    value: float
    revenue_rate: float
    objective: float
    x: np.ndarray
    y_mixed: np.ndarray
    y_solo: np.ndarray
    q_prefill: np.ndarray
    q_decode: np.ndarray
    solo_probability: np.ndarray
    admission_fraction: np.ndarray
    mixed_fraction: float
    duals: dict[str, Any]
    slis: dict[str, AttainedLevel]
    unstable_classes: tuple[str, ...]

    def pool_size(self, n_gpus: int) -> int:
        """M = ceil(n sum x*), GPUs in the static mixed pool."""
        return int(mixed_pool_size(self.mixed_fraction, n_gpus))

    @property
    def action(self) -> np.ndarray:
        """The plan as a constant action (f*, p_s*, sum x*); shape (2I + 1,)."""
        return np.concatenate(
            [self.admission_fraction, self.solo_probability, [self.mixed_fraction]]
        )

    def controls(self, n_gpus: int) -> np.ndarray:
        """What the plan sets on n GPUs: its action with the pool in GPUs; shape (2I + 1,)."""
        controls = self.action
        controls[-1] = self.pool_size(n_gpus)
        return controls

    def slot_ranks(self, n_gpus: int) -> np.ndarray:
        """Bids and reserves of trunk reservation on n GPUs; shape (5, I), see slot_ranks.py."""
        return slot_ranks(self, n_gpus)

    def class_profile(self, n_gpus: int) -> ClassProfile:
        """What a rule that corrects these ranks is told of the classes: see class_profile.py."""
        return class_profile(self, n_gpus)

    @property
    def decode_weights(self) -> np.ndarray:
        """Weights by which a free slot picks a class, section 13: solo, mixed; shape (2, I), 1/s.

        Rows mu_s y_s and mu_m y_m, completions per GPU and second in each pool.
        """
        instance = self.instance
        rates = np.stack(
            [
                instance.solo_decode_rates * self.y_solo,
                instance.mixed_decode_rates * self.y_mixed,
            ]
        )
        return np.where(rates > _NOTHING * rates.sum(), rates, 0.0)

    @property
    def occupancy(self) -> np.ndarray:
        """Rows q_prefill, x, q_decode, y_mixed, y_solo per GPU; shape (5, I)."""
        return np.array([self.q_prefill, self.x, self.q_decode, self.y_mixed, self.y_solo])

    def note(self) -> str:
        """What a reader must know about this plan, in a line; empty if nothing."""
        notes = []
        if self.unstable_classes:
            names = ", ".join(self.unstable_classes)
            notes.append(
                f"overloaded without abandonment: the queue of {names} grows without bound"
            )
        if self.revenue_rate <= _NOTHING * self.value:
            notes.append("earns nothing under these service levels")
        return "; ".join(notes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite queue is ``None``."""
        plain: dict[str, Any] = {
            "instance": self.instance.name,
            "classes": [c.name for c in self.instance.classes],
            "pricing": self.pricing,
            "value": self.value,
            "revenue_rate": self.revenue_rate,
            "objective": self.objective,
        }
        for name in (*VARIABLES, "solo_probability", "admission_fraction"):
            plain[name] = [v if math.isfinite(v) else None for v in getattr(self, name).tolist()]
        plain["mixed_fraction"] = self.mixed_fraction
        plain["duals"] = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in self.duals.items()
        }
        plain["slis"] = {name: asdict(level) for name, level in self.slis.items()}
        plain["note"] = self.note()
        return plain


POOL_ROUNDING = 1.0 - 1e-7
"""Rounding noise of a share of the GPUs, also of a float32 one, that does not add a GPU."""


def mixed_pool_size(mixed_fraction: Any, n_gpus: int) -> Any:
    """GPUs in the static mixed pool for fractions in [0, 1] of the cluster, an integer (array).

    Any fraction > 0 has one; rounding noise does not add one.
    """
    size = np.ceil(n_gpus * np.asarray(mixed_fraction, float) * POOL_ROUNDING)
    return np.clip(size, 0, n_gpus).astype(np.int64)


def plan(
    instance: Instance | str | Path | dict[str, object],
    pricing: str = "bundled",
    *,
    slis: Sequence[ServiceLevel | str | Mapping[str, Any]] = (),
) -> FluidPlan:
    """Solve the fluid program of an instance.

    Bundled plans have q_d = 0 where Proposition 3.2 says that such an optimum exists, plans with
    service levels always, as (49) has it. Decodes are then split so that every class has the same
    solo probability, as large as the solo slots allow; if a service level weighs the split, it is
    the program's own. With several optimal x the solver's vertex is taken; it is deterministic.

    Args:
        instance: an instance, a preset's name, a file or plain data.
        pricing: ``bundled`` or ``separate``.
        slis: service levels, in any combination: :class:`PrefillFairness`,
            :class:`DecodeFairness`, :class:`TokenTime` or subclasses of :class:`ServiceLevel`;
            as objects, texts such as ``"token-time@limit=0.024"``, or mappings such as
            ``{"name": "token-time", "limit": 0.024}``.

    Raises:
        ConfigurationError: for a pricing that does not exist or service levels that cannot be.
        PlanError: if no revenue can be earned, a limit cannot be met or the solver fails.
    """
    instance = fitting_requests(resolve_instance(instance))
    if pricing not in PRICINGS:
        raise ConfigurationError("pricing", pricing, " or ".join(PRICINGS))
    levels = checked_service_levels(slis)
    revenue, n = objective(instance, pricing), instance.n_classes
    program = fluid_program(instance, pricing, needs_decode_queue(instance, pricing))
    optimum = maximize(program)
    solution = np.maximum(optimum.columns, 0.0)
    value = float(revenue @ solution)
    if value < sys.float_info.min:
        raise PlanError(
            f"plan of {instance.name!r}: got the value {value:g}, allowed is a normal "
            "floating-point value > 0; give a price to tokens that arrive"
        )
    duals, own_split = shadow_prices(optimum, n), False
    attained: dict[str, AttainedLevel] = {}
    if levels:
        solution, duals, attained, own_split = solve_with_levels(instance, pricing, levels)
    revenue_rate = float(revenue @ solution.ravel())
    x, y_mixed, y_solo, q_prefill, q_decode = solution.reshape(5, -1)
    if own_split:
        solo_probability = _solo_probability(instance, y_mixed, y_solo)
    else:
        y_mixed, y_solo, p_solo = canonical_split(instance, float(x.sum()), y_mixed, y_solo)
        solo_probability = np.where(y_mixed + y_solo > 0, p_solo, 1.0)
    rates = instance.arrival_rates
    admitted = instance.prefill_rates * x
    fraction = np.clip(np.divide(admitted, rates, out=np.zeros_like(x), where=rates > 0), 0, 1)
    fraction[fraction > _ALL] = 1.0
    q_prefill, q_decode = (_endless(instance, q) for q in (q_prefill, q_decode))
    growing = np.isinf(q_prefill) | np.isinf(q_decode)
    plan_arrays = {
        "x": x,
        "y_mixed": y_mixed,
        "y_solo": y_solo,
        "q_prefill": q_prefill,
        "q_decode": q_decode,
        "solo_probability": solo_probability,
        "admission_fraction": fraction,
    }
    for array in (*plan_arrays.values(), duals["arrival"], duals["prefilled"]):
        array.setflags(write=False)
    return FluidPlan(
        instance=instance,
        pricing=pricing,
        value=value,
        revenue_rate=revenue_rate,
        objective=revenue_rate - sum(level.penalty for level in attained.values()),
        mixed_fraction=min(1.0, float(x.sum())),
        duals=duals,
        slis=attained,
        unstable_classes=tuple(
            c.name for c, grows in zip(instance.classes, growing, strict=True) if grows
        ),
        **plan_arrays,
    )


def _solo_probability(instance: Instance, y_mixed: np.ndarray, y_solo: np.ndarray) -> np.ndarray:
    """p_s per class, the share of its decode throughput in the solo pool; 1 without any."""
    solo = instance.solo_decode_rates * y_solo
    decoded = instance.mixed_decode_rates * y_mixed + solo
    served = decoded > _NOTHING * decoded.sum()
    share: np.ndarray = np.divide(solo, decoded, out=np.ones_like(solo), where=served)
    return share


def _endless(instance: Instance, queue: np.ndarray) -> np.ndarray:
    """Queues of classes that never leave: the program gives their growth, 1/s, or nothing."""
    grows = queue > _NO_GROWTH * instance.arrival_rates
    patient = instance.patience_rates == 0
    return np.where(patient, np.where(grows, np.inf, 0.0), queue)
