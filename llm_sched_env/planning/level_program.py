"""The fluid program with service levels, (49): limits are rows, penalties are columns.

A limit on a ratio is linear after clearing its positive divisor. A priced indicator without a
divisor is a column that its terms bound from below. A priced ratio depends on X = sum x alone and
is searched for along X.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.linear_program import (
    Optimum,
    Program,
    maximize,
)
from llm_sched_env.planning.mixed_fraction import Ratio, best_mixed_fraction
from llm_sched_env.planning.service_levels import (
    PLANNED,
    AttainedLevel,
    Indicator,
    ServiceLevel,
    checked_indicator,
)

_ITERATIONS = 50
_CONVERGED = 1e-10
Levels = list[tuple[ServiceLevel, Indicator]]


class LevelOptimum(NamedTuple):
    """An optimum under service levels.

    Attributes:
        columns: of the program without them, >= 0.
        priced: the optimum for its shadow prices.
        attained: by level.
        weighs_split: whether a level weighs how decodes are split.
    """

    columns: np.ndarray
    priced: Optimum
    attained: dict[str, AttainedLevel]
    weighs_split: bool


def solve_with_levels(
    instance: Instance, plain: Program, slos: Sequence[ServiceLevel]
) -> LevelOptimum:
    """The optimum of revenue less penalties under the limits.

    Args:
        instance: at two speeds, for the indicators.
        plain: the fluid program with q_d = 0.
        slos: limits and prices.

    Raises:
        ConfigurationError: for an indicator that cannot be used as it is.
        PlanError: for a limit that cannot be met.
    """
    levels = [(level, checked_indicator(level, instance)) for level in slos]
    for level, indicator in levels:
        _check_divisor(plain, level, indicator)
    program, limit_rows = _with_limits(plain, levels)
    program = _with_penalties(program, [(a, b) for a, b in levels if b.divisor is None])
    try:
        optimum, columns = _optimum(program, levels)
    except PlanError:
        _explain(plain, levels)
        raise
    columns = np.maximum(columns[: len(plain.objective)], 0.0)
    occupancy = plain.occupancy @ columns
    attained = {
        level.name: _attained(
            level, indicator, occupancy[:4], optimum.row_prices[limit_rows[level.name]]
        )
        for level, indicator in levels
    }
    weighs_split = any(
        part[..., 1:3, :].any()
        for _, indicator in levels
        for part in (indicator.weights, indicator.divisor)
        if part is not None
    )
    return LevelOptimum(columns, optimum, attained, weighs_split)


def _attained(
    level: ServiceLevel, indicator: Indicator, occupancy: np.ndarray, prices: np.ndarray
) -> AttainedLevel:
    value = indicator.value(occupancy)
    return AttainedLevel(
        value=value,
        limit=level.limit,
        price=level.price,
        penalty=(level.price or 0.0) * value,
        # A row is cleared of its divisor: raising the limit by 1 raises it by the divisor.
        dual=max(0.0, float(prices.sum())) * indicator.divided_by(occupancy),
    )


def _padded(rows: np.ndarray, program: Program) -> np.ndarray:
    """Weights of an occupancy, shape (K, 4, I), as rows over all columns of the program."""
    found: np.ndarray = np.tensordot(rows, program.occupancy[: len(PLANNED)], axes=2)
    return found


def _below(program: Program, indicator: Indicator, limit: float) -> Program:
    """The program with the indicator at most ``limit``."""
    weights, constants = _difference(indicator, limit)
    return replace(
        program,
        rows=np.vstack([program.rows, _padded(weights, program)]),
        levels=np.concatenate([program.levels, -constants]),
    )


def _difference(indicator: Indicator, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Terms less ``limit`` times the divisor, as weights and constants."""
    constants = indicator.constants - limit * indicator.divisor_constant
    if indicator.divisor is None:
        return indicator.weights, constants
    return indicator.weights - limit * indicator.divisor, constants


def _with_limits(program: Program, levels: Levels) -> tuple[Program, dict[str, slice]]:
    """The program with every limit, and the rows that each of them takes."""
    rows = {}
    for level, indicator in levels:
        first = len(program.levels)
        if level.limit is not None:
            program = _below(program, indicator, level.limit)
        rows[level.name] = slice(first, len(program.levels))
    return program, rows


def _with_column(
    program: Program, weights: np.ndarray, constants: np.ndarray, price: float
) -> Program:
    """The program with a column, charged at ``price``, above the affine terms."""
    rows = np.hstack([_padded(weights, program), -np.ones((len(constants), 1))])
    n_classes = program.occupancy.shape[1]
    old = [np.hstack([m, np.zeros((len(m), 1))]) for m in (program.rows, program.equations)]
    return replace(
        program,
        objective=np.append(program.objective, -price),
        rows=np.vstack([old[0], rows]),
        levels=np.concatenate([program.levels, -constants]),
        equations=old[1],
        lower=np.append(program.lower, -np.inf),
        upper=np.append(program.upper, np.inf),
        occupancy=np.concatenate([program.occupancy, np.zeros((5, n_classes, 1))], axis=2),
    )


def _with_penalties(program: Program, levels: Levels) -> Program:
    for level, indicator in levels:
        if level.price:
            program = _with_column(program, indicator.weights, indicator.constants, level.price)
    return program


def _optimum(program: Program, levels: Levels) -> tuple[Optimum, np.ndarray]:
    """An optimum, for its prices, and the columns; they differ with a priced ratio.

    At the best X of a concave worth less a smooth penalty, the penalty may be replaced by its
    tangent: the prices of that linear program are those of the original one. Its optima may have
    other X, so the columns are found with X given.
    """
    priced = [(level, i) for level, i in levels if i.divisor is not None and level.price]
    if not priced:
        optimum = maximize(program)
        return optimum, optimum.columns
    if len(priced) > 1:
        names = ", ".join(level.name for level, _ in priced)
        raise ConfigurationError("service levels", names, "one ratio with a price", "use limits")
    level, indicator = priced[0]
    ratio, price = _ratio_of_mixed_fraction(level, indicator), float(level.price or 0.0)
    total = program.occupancy[0].sum(axis=0)

    def given(mixed_fraction: float) -> Optimum:
        return maximize(
            replace(
                program,
                equations=np.vstack([program.equations, total]),
                amounts=np.append(program.amounts, mixed_fraction),
            )
        )

    def worth(mixed_fraction: float) -> tuple[float, float]:
        optimum = given(mixed_fraction)
        return float(program.objective @ optimum.columns), float(optimum.equation_prices[-1])

    low, high = (
        float(total @ maximize(replace(program, objective=sign * total)).columns)
        for sign in (-1.0, 1.0)
    )
    best = best_mixed_fraction(worth, max(low, 0.0), min(high, 1.0), ratio, price)
    tangent = replace(program, objective=program.objective - price * ratio.slope(best) * total)
    return maximize(tangent), given(best).columns


def _ratio_of_mixed_fraction(level: ServiceLevel, indicator: Indicator) -> Ratio:
    """The indicator as a function of X = sum x.

    Raises:
        ConfigurationError: if it is not one.
    """
    divisor = indicator.divisor if indicator.divisor is not None else np.zeros(1)
    parts = (indicator.weights[0], divisor)
    if len(indicator.constants) > 1 or any(np.ptp(part[0]) or part[1:].any() for part in parts):
        raise ConfigurationError(
            f"{level.name} price",
            level.price,
            "a price on a ratio only if it depends on the sum of x alone",
            "use a limit",
        )
    return Ratio(
        float(parts[0][0, 0]),
        float(indicator.constants[0]),
        float(divisor[0, 0]),
        indicator.divisor_constant,
    )


def _check_divisor(program: Program, level: ServiceLevel, indicator: Indicator) -> None:
    least = indicator.divisor_constant
    if indicator.divisor is not None:
        row = _padded(indicator.divisor[None], program)[0]
        least += float(row @ maximize(replace(program, objective=-row)).columns)
    if not least > 0:
        raise ConfigurationError(
            f"indicator of {level.name}", f"a divisor of {least:g}", "one that is always > 0"
        )


def _explain(program: Program, levels: Levels) -> None:
    """Raise an error for the first limit that cannot be met beside those before it, if any."""
    before = ""
    for level, indicator in levels:
        if level.limit is None:
            continue
        least = _least(program, indicator)
        if level.limit < least - _CONVERGED * max(1.0, abs(least)):
            raise PlanError(
                f"plan of {program.name!r}: got {level.name} limit {level.limit:g}, expected a "
                f"limit >= {least:.6g}, the least attainable{before}; raise it"
            ) from None
        program = _below(program, indicator, level.limit)
        before = " under the limits before it"


def _least(program: Program, indicator: Indicator) -> float:
    """The least value of an indicator, by Dinkelbach's iteration."""
    least = indicator.value(np.zeros(indicator.weights.shape[1:]))
    for _ in range(_ITERATIONS):
        terms = _difference(indicator, least)
        plain = replace(program, objective=np.zeros_like(program.objective))
        columns = maximize(_with_column(plain, *terms, price=1.0)).columns
        occupancy = program.occupancy[: len(PLANNED)] @ columns[: program.occupancy.shape[2]]
        found = indicator.value(occupancy)
        if abs(found - least) <= _CONVERGED * max(1.0, abs(least)):
            break
        least = found
    return least
