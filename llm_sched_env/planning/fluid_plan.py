"""The fluid plan as data: what is admitted, where it is served, and what capacity is worth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.service_levels import AttainedLevel
from llm_sched_env.plugins.deprecated_names import renamed_property

PRICINGS = ("bundled", "separate")
VARIABLES = ("x", "y_mixed", "y_solo", "q_prefill", "q_decode")
# Less than this share of R*, or of all decodes, is nothing: solver noise.
NOTHING = 1e-9
# A queue that grows by less than this share of its arrivals does not grow: solver noise.
_NO_GROWTH = 1e-9


@dataclass(frozen=True, eq=False)
class FluidPlan:
    """An optimum of the fluid program; arrays have shape (I,) and are read-only.

    All quantities are per GPU. ``value`` is R*, revenue per GPU and second, which bounds the
    long-run revenue rate of every policy at every cluster size. With service levels it stays
    that bound, of the program without them; ``revenue_rate`` is what this plan earns and
    ``objective`` what it maximises. Without service levels all three are the same number.

    Attributes:
        instance: what was planned; with a KV limit the requests that fit, under the KV-aware law
            at the mean speeds of the plan.
        given: the instance as it was given.
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
            Under the KV-aware law, and where KV tokens are scarce, also ``time`` (of all of a GPU)
            and, per KV token and second, ``mixed_memory`` and ``solo_memory``.
        slos: per service level, by name, what is attained, its penalty and its shadow price.
        unstable_classes: names of classes whose queue grows without bound under this plan.

    Example:
        >>> import llm_sched_env as lse
        >>> fluid = lse.plan("overload")
        >>> fluid.admission_fraction.round(2).tolist()  # of the decode-heavy class a fifth
        [0.22, 1.0]
    """

    instance: Instance
    given: Instance
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
    slos: dict[str, AttainedLevel]
    unstable_classes: tuple[str, ...]

    def pool_size(self, n_gpus: int) -> int:
        """M = ceil(n sum x*), GPUs in the static mixed pool."""
        return int(mixed_pool_size(self.mixed_fraction, n_gpus))

    slis = renamed_property("slis", "slos")

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
        return np.where(rates > NOTHING * rates.sum(), rates, 0.0)

    @property
    def occupancy(self) -> np.ndarray:
        """Rows q_prefill, x, q_decode, y_mixed, y_solo per GPU; shape (5, I)."""
        return np.array([self.q_prefill, self.x, self.q_decode, self.y_mixed, self.y_solo])

    @property
    def groups(self) -> list[dict[str, Any]]:
        """What each group of GPUs does: a table a group, rates per GPU of the cluster and second.

        ``solo_iterations`` and ``mixed_iterations``; ``time``, the share of the group's time in
        use; ``prefills`` and ``decodes``, requests by class. GPUs go on with smaller batches
        while time is left, down to one decode.
        """
        instance, hardware = self.instance, self.instance.hardware
        mixed = float(self.x.sum()) / hardware.tau_mixed
        tokens = float(self.y_solo.sum()) / hardware.tau_solo
        solo = min(max(0.0, 1.0 - float(self.x.sum())) / hardware.tau_solo, tokens)
        decodes = (
            instance.mixed_decode_rates * self.y_mixed + instance.solo_decode_rates * self.y_solo
        )
        return [
            {
                "name": "all",
                "solo_iterations": solo,
                "mixed_iterations": mixed,
                "time": min(1.0, mixed * hardware.tau_mixed + solo * hardware.tau_solo),
                "prefills": (instance.prefill_rates * self.x).tolist(),
                "decodes": decodes.tolist(),
            }
        ]

    def note(self) -> str:
        """What a reader must know about this plan, in a line; empty if nothing."""
        notes = []
        if self.unstable_classes:
            names = ", ".join(self.unstable_classes)
            notes.append(
                f"overloaded without abandonment: the queue of {names} grows without bound"
            )
        if self.revenue_rate <= NOTHING * self.value:
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
            plain[name] = _finite(getattr(self, name).tolist())
        plain["mixed_fraction"] = self.mixed_fraction
        plain["groups"] = self.groups
        plain["duals"] = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in self.duals.items()
        }
        plain["slos"] = {name: asdict(level) for name, level in self.slos.items()}
        plain["note"] = self.note()
        return plain


def endless_queues(instance: Instance, queue: np.ndarray) -> np.ndarray:
    """Queues of classes that never leave: the program gives their growth, 1/s, or nothing."""
    grows = queue > _NO_GROWTH * instance.arrival_rates
    patient = instance.patience_rates == 0
    return np.where(patient, np.where(grows, np.inf, 0.0), queue)


def _finite(values: list[Any]) -> list[Any]:
    """The same lists, with None for what is infinite."""
    if values and isinstance(values[0], list):
        return [_finite(row) for row in values]
    return [value if math.isfinite(value) else None for value in values]


POOL_ROUNDING = 1.0 - 1e-7
"""Rounding noise of a share of the GPUs, also of a float32 one, that does not add a GPU."""


def mixed_pool_size(mixed_fraction: Any, n_gpus: Any) -> Any:
    """GPUs in the static mixed pool for fractions in [0, 1] of the cluster, an integer (array).

    Any fraction > 0 has one; rounding noise does not add one.
    """
    size = np.ceil(n_gpus * np.asarray(mixed_fraction, float) * POOL_ROUNDING)
    return np.clip(size, 0, n_gpus).astype(np.int64)
