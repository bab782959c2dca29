"""Service-level indicators of a plan: prefill and decode fairness, TPOT, (43)-(49)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number
from llm_sched_env.model.instance import Instance
from llm_sched_env.plugins.user_code import user_code

PLANNED = ("x", "y_mixed", "y_solo", "q_prefill")
"""Rows of the occupancy that an indicator reads; q_decode is 0 in plans with service levels."""


class Indicator(NamedTuple):
    """The greatest of K affine terms, over a common affine divisor if there is one.

    ``max_k (weights[k] . v + constants[k]) / (divisor . v + divisor_constant)`` of the occupancy v
    per GPU, rows as in :data:`PLANNED`. The q_prefill of a class without abandonment is the growth
    of its queue, 1/s.

    Attributes:
        weights: per unit of v, shape (K, 4, I).
        constants: shape (K,).
        divisor: per unit of v, shape (4, I); None: nothing is divided.
        divisor_constant: the divisor at v = 0; 1 if nothing is divided.
    """

    weights: np.ndarray
    constants: np.ndarray
    divisor: np.ndarray | None = None
    divisor_constant: float = 1.0

    def value(self, occupancy: np.ndarray) -> float:
        """The indicator at an occupancy of shape (4, I)."""
        terms = np.tensordot(self.weights, occupancy) + self.constants
        return float(terms.max()) / self.divided_by(occupancy)

    def divided_by(self, occupancy: np.ndarray) -> float:
        """The divisor at an occupancy of shape (4, I)."""
        if self.divisor is None:
            return self.divisor_constant
        return float((self.divisor * occupancy).sum()) + self.divisor_constant


@dataclass(frozen=True)
class AttainedLevel:
    """An indicator in a plan.

    Attributes:
        value: what the plan attains, in the indicator's unit.
        limit: the greatest allowed value, or None.
        price: currency per GPU, second and unit of the indicator, or None.
        penalty: price times value, currency per GPU and second; 0 without a price.
        dual: shadow price of the limit: what the objective gains per unit by which the limit is
            raised, currency per GPU, second and unit; 0 without a limit or with a slack one.
    """

    value: float
    limit: float | None
    price: float | None
    penalty: float
    dual: float


@dataclass(frozen=True)
class ServiceLevel(ABC):
    """What users feel, as a limit, as a penalty subtracted from revenue, or both.

    A new one is a subclass with a ``name`` and an ``indicator``: it then works in plans, results
    and environments alike.

    Args:
        limit: greatest allowed value of the indicator, in its unit.
        price: currency per GPU, second and unit of the indicator, >= 0.

    Raises:
        ConfigurationError: for neither, or for what is no such number.

    Example:
        >>> class Prefills(ServiceLevel):
        ...     name = "prefills"
        ...
        ...     def indicator(self, instance):  # x of all classes
        ...         weights = np.zeros((1, len(PLANNED), instance.n_classes))
        ...         weights[0, PLANNED.index("x")] = 1.0
        ...         return Indicator(weights, np.zeros(1))
        >>> from llm_sched_env.planning import plan
        >>> limited = plan("base", slos=[Prefills(limit=0.2)])
        >>> round(float(limited.x.sum()), 6)
        0.2
    """

    limit: float | None = None
    price: float | None = None

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if self.limit is None and self.price is None:
            raise ConfigurationError(self.name, None, "a limit, a price or both")
        if self.limit is not None and not _is_finite(self.limit):
            raise ConfigurationError(f"{self.name} limit", self.limit, "a finite number")
        if self.price is not None and not is_finite_number(self.price):
            raise ConfigurationError(f"{self.name} price", self.price, "a finite number >= 0")

    @abstractmethod
    def indicator(self, instance: Instance) -> Indicator:
        """The indicator as a function of the occupancy; less is better."""

    def value(self, instance: Instance, occupancy: np.ndarray) -> float:
        """The indicator at an occupancy per GPU, shape (4, I), rows as in :data:`PLANNED`."""
        return self.indicator(instance).value(np.asarray(occupancy, float))


class PrefillFairness(ServiceLevel):
    """Greatest difference of prefills in service, ``max_ij x_i - x_j`` per GPU; (43), (46).

    Over the classes that arrive: one that does not needs no service.

    Example:
        >>> from llm_sched_env.planning import plan
        >>> equal = plan("base", slos=[PrefillFairness(limit=0.1)])
        >>> bool(np.ptp(equal.x) <= 0.1 + 1e-9)
        True
    """

    name = "prefill-fairness"

    def indicator(self, instance: Instance) -> Indicator:
        """Pairwise differences of x."""
        return _differences(instance, PLANNED.index("x"))


class DecodeFairness(ServiceLevel):
    """Greatest difference of solo decodes, ``max_ij y_s,i - y_s,j`` per GPU; (44), (47).

    Over the classes that arrive: one that does not needs no service.

    Example:
        >>> from llm_sched_env.planning import plan
        >>> equal = plan("base", slos=[DecodeFairness(limit=1.0)])
        >>> bool(np.ptp(equal.y_solo) <= 1.0 + 1e-9)
        True
    """

    name = "decode-fairness"

    def indicator(self, instance: Instance) -> Indicator:
        """Pairwise differences of y_solo."""
        return _differences(instance, PLANNED.index("y_solo"))


class TPOT(ServiceLevel):
    """Mean time per output token over all decode slots, seconds; (45), (48).

    With X = sum x: ``[tau_mix (B-1) X + (1/gamma) B (1-X)] / [(B-1) X + B (1-X)]``.

    Example:
        >>> from llm_sched_env.planning import plan
        >>> fast = plan("base", slos=[TPOT(limit=0.0235)])
        >>> fast.revenue_rate < fast.value  # what the limit costs
        True
    """

    name = "tpot"

    def indicator(self, instance: Instance) -> Indicator:
        """A ratio of affine functions of X; the divisor is B - X."""
        hardware, n = instance.hardware, instance.n_classes
        slots = hardware.batch_slots
        weights, divisor = np.zeros((1, 4, n)), np.zeros((4, n))
        weights[0, 0] = (slots - 1) * hardware.tau_mixed - slots * hardware.tau_solo
        divisor[0] = -1.0
        constants = np.array([slots * hardware.tau_solo])
        return Indicator(weights, constants, divisor, float(slots))


class Abandonment(ServiceLevel):
    """Requests that leave the queue before their prefill, as a share of those that arrive.

    ``sum theta_i q_i / sum lambda_i``, of the classes that have a patience: linear, so that its
    values over the parts of a run have the value of the run as their mean.

    Example:
        >>> from llm_sched_env.planning import plan
        >>> kept = plan("overload", slos=[Abandonment(limit=0.4)])
        >>> kept.slos["abandonment"].value <= 0.4 + 1e-9
        True
    """

    name = "abandonment"

    def indicator(self, instance: Instance) -> Indicator:
        """Patience rates over the rate of all arrivals."""
        weights = np.zeros((1, len(PLANNED), instance.n_classes))
        arriving = float(instance.arrival_rates.sum())
        if arriving > 0:
            weights[0, PLANNED.index("q_prefill")] = instance.patience_rates / arriving
        return Indicator(weights, np.zeros(1))


def checked_indicator(level: ServiceLevel, instance: Instance) -> Indicator:
    """The level's indicator with arrays of the right shapes.

    Raises:
        ConfigurationError: for other shapes, or numbers that are not finite.
    """
    with user_code(f"service level {level.name}"):
        found, shape = level.indicator(instance), (4, instance.n_classes)
    if not isinstance(found, Indicator):
        raise ConfigurationError(f"indicator of {level.name}", found, "an Indicator")
    try:
        weights, constants = np.asarray(found.weights, float), np.asarray(found.constants, float)
        divisor = None if found.divisor is None else np.asarray(found.divisor, float)
        divisor_constant = float(found.divisor_constant)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"indicator of {level.name}", found, "one of arrays of numbers", str(error)
        ) from error
    arrays = [weights, constants, *([] if divisor is None else [divisor])]
    right = (
        constants.ndim == 1
        and weights.shape == (len(constants), *shape)
        and len(constants) > 0
        and math.isfinite(divisor_constant)
        and (divisor is None or divisor.shape == shape)
        and all(np.isfinite(array).all() for array in arrays)
    )
    if not right:
        shapes = [array.shape for array in arrays]
        raise ConfigurationError(
            f"indicator of {level.name}",
            shapes,
            f"finite weights (K, 4, {shape[1]}), constants (K,), divisor (4, {shape[1]}) or None",
        )
    return Indicator(weights, constants, divisor, divisor_constant)


def _differences(instance: Instance, row: int) -> Indicator:
    """Pairwise differences of one row of the occupancy, and 0 for a class and itself."""
    arriving = np.flatnonzero(instance.arrival_rates > 0)
    pairs = [(i, j) for i in arriving for j in arriving if i != j]
    weights = np.zeros((1 + len(pairs), 4, instance.n_classes))
    for k, (i, j) in enumerate(pairs, 1):
        weights[k, row, i], weights[k, row, j] = 1.0, -1.0
    return Indicator(weights, np.zeros(len(weights)))


def _is_finite(value: Any) -> bool:
    """Whether a value is a finite real number of either sign, and not a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return is_finite_number(abs(value))
