"""The best mixed fraction X when a ratio of affine functions of X has a price, (48).

With X given the fluid program is linear, and its value is concave and piecewise linear in X. Its
pieces are found exactly; on each, the best X is a stationary point or an end. This holds whether
the penalty is convex (gamma tau_mix >= 1, as on real hardware) or concave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

# Rounding of the solver, as a share of the greatest worth, and of X.
_ON_THE_LINE = 1e-9
_TOO_SHORT = 1e-9


class Ratio(NamedTuple):
    """(weight X + constant) / (divisor X + divisor_constant), the divisor being positive."""

    weight: float
    constant: float
    divisor: float
    divisor_constant: float

    def value(self, mixed_fraction: float) -> float:
        """At X."""
        return (self.weight * mixed_fraction + self.constant) / self._divided_by(mixed_fraction)

    def slope(self, mixed_fraction: float) -> float:
        """Its derivative at X."""
        return self._determinant / self._divided_by(mixed_fraction) ** 2

    def where_slope_is(self, slope: float) -> float | None:
        """The X, on the side where the divisor is positive, of a given slope; None if nowhere."""
        if self.divisor == 0 or slope == 0 or self._determinant / slope <= 0:
            return None
        return (math.sqrt(self._determinant / slope) - self.divisor_constant) / self.divisor

    def _divided_by(self, mixed_fraction: float) -> float:
        return self.divisor * mixed_fraction + self.divisor_constant

    @property
    def _determinant(self) -> float:
        return self.weight * self.divisor_constant - self.constant * self.divisor


class _Point(NamedTuple):
    x: float
    worth: float
    slope: float


def best_mixed_fraction(
    worth: Callable[[float], tuple[float, float]],
    low: float,
    high: float,
    ratio: Ratio,
    price: float,
) -> float:
    """The X in [low, high] that maximises ``worth(X) - price * ratio(X)``.

    Args:
        worth: the value of the program at X and a supergradient there; concave, piecewise linear.
        low: least X.
        high: greatest X.
        ratio: what is priced.
        price: > 0, objective per unit of the ratio.
    """
    ends = [_Point(x, *worth(x)) for x in dict.fromkeys((low, high))]
    if high - low <= _TOO_SHORT:
        return low
    scale = max(abs(end.worth) for end in ends) + abs(price * ratio.value(low))
    points = [ends[0], *_kinks(worth, ends[0], ends[1], _ON_THE_LINE * scale), ends[1]]
    candidates = [(p.worth - price * ratio.value(p.x), p.x) for p in points]
    for left, right in pairwise(points):
        slope = (right.worth - left.worth) / (right.x - left.x)
        x = ratio.where_slope_is(slope / price)
        if x is not None and left.x < x < right.x:
            inside = left.worth + slope * (x - left.x)
            candidates.append((inside - price * ratio.value(x), x))
    return max(candidates)[1]


def _kinks(
    worth: Callable[[float], tuple[float, float]], left: _Point, right: _Point, rounding: float
) -> list[_Point]:
    """The points strictly between two points where a concave piecewise linear function bends."""
    length = right.x - left.x
    turn = left.slope - right.slope
    if turn * length <= rounding:
        return []
    meet = left.x + (right.worth - left.worth - right.slope * length) / turn
    if not left.x + _TOO_SHORT < meet < right.x - _TOO_SHORT:
        return []  # one tangent is the chord
    middle = _Point(meet, *worth(meet))
    if left.worth + left.slope * (meet - left.x) - middle.worth <= rounding:
        return [middle]
    before, after = _kinks(worth, left, middle, rounding), _kinks(worth, middle, right, rounding)
    return [*before, middle, *after]
