"""Build and solve the fluid programs (40), bundled, and (42), separate charging, with HiGHS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.model.instance import Instance

_SAFE = (1e-3, 1e6)


@dataclass(frozen=True)
class Program:
    """Maximise ``objective @ v`` over columns v between bounds, under linear rows.

    Attributes:
        name: of the instance, for messages.
        objective: currency per GPU and second and unit of the column, shape (N,).
        rows: ``rows @ v <= levels``, shape (R, N).
        levels: shape (R,).
        equations: ``equations @ v == amounts``, shape (E, N).
        amounts: shape (E,).
        lower: bounds, shape (N,).
        upper: bounds, shape (N,).
        occupancy: what columns are in x, y_mixed, y_solo, q_prefill and q_decode, shape (5, I, N).
    """

    name: str
    objective: np.ndarray
    rows: np.ndarray
    levels: np.ndarray
    equations: np.ndarray
    amounts: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    occupancy: np.ndarray


class Optimum(NamedTuple):
    """An optimum and its shadow prices: gain of the objective per unit of a right-hand side."""

    columns: np.ndarray
    row_prices: np.ndarray
    equation_prices: np.ndarray


def objective(instance: Instance, pricing: str) -> np.ndarray:
    """Revenue rate per unit of (x, y_mixed, y_solo, q_prefill, q_decode); shape (5I,)."""
    hardware, prices = instance.hardware, instance.prices
    ones, zeros = np.ones(instance.n_classes), np.zeros(instance.n_classes)
    if pricing == "bundled":
        w = instance.bundled_revenues
        parts = (zeros, w * instance.mixed_decode_rates, w * instance.solo_decode_rates)
    else:
        prompt_revenue = ones * prices.prefill * hardware.chunk_tokens / hardware.tau_mixed
        reuse = any(c.prefill_tokens != c.prompt_tokens for c in instance.classes)
        if hardware.whole_chunks or reuse:
            prompt_revenue = prices.prefill * instance.prompt_tokens * instance.prefill_rates
        parts = (
            prompt_revenue,
            ones * prices.decode / hardware.tau_mixed,
            ones * prices.decode * hardware.gamma,
        )
        if hardware.whole_iterations:
            output_revenue = prices.decode * instance.output_tokens
            parts = (
                prompt_revenue,
                output_revenue * instance.mixed_decode_rates,
                output_revenue * instance.solo_decode_rates,
            )
    return np.concatenate([*parts, zeros, zeros])


def needs_decode_queue(instance: Instance, pricing: str) -> bool:
    """Whether an optimum may need prefilled requests waiting: not by Proposition 3.2."""
    hardware = instance.hardware
    slots = hardware.batch_slots
    return pricing != "bundled" or hardware.gamma * hardware.tau_mixed < (slots - 1) / slots


def fluid_program(instance: Instance, pricing: str, decode_queue: bool) -> Program:
    """The program over columns as in :func:`objective`; without ``decode_queue`` q_d is 0.

    Rows: prefill, mixed decode and solo decode capacity. Equations: per class the arrivals, then
    per class what is prefilled.
    """
    slots, n = instance.hardware.batch_slots, instance.n_classes
    ones, zeros = np.ones(n), np.zeros(n)
    theta, mu_p = instance.patience_rates, instance.prefill_rates
    capacities = np.array(
        [
            np.concatenate([ones, zeros, zeros, zeros, zeros]),
            np.concatenate([-(slots - 1) * ones, ones, zeros, zeros, zeros]),
            np.concatenate([slots * ones, zeros, ones, zeros, zeros]),
        ]
    )
    # A class that never leaves may keep growing queues: mu_p x <= lambda, and decodes <= mu_p x.
    # Its q_p and q_d then stand for their growth, 1/s.
    slack = np.where(theta > 0, theta, 1.0)
    empty = np.zeros((n, n))
    arrivals = np.hstack([np.diag(mu_p), empty, empty, np.diag(slack), empty])
    prefilled = np.hstack(
        [
            np.diag(mu_p),
            -np.diag(instance.mixed_decode_rates),
            -np.diag(instance.solo_decode_rates),
            empty,
            -np.diag(slack),
        ]
    )
    upper = np.full(5 * n, np.inf)
    if not decode_queue:
        upper[4 * n :] = 0.0
    return Program(
        name=instance.name,
        objective=objective(instance, pricing),
        rows=capacities,
        levels=np.array([1.0, 0.0, float(slots)]),
        equations=np.vstack([arrivals, prefilled]),
        amounts=np.concatenate([instance.arrival_rates, zeros]),
        lower=np.zeros(5 * n),
        upper=upper,
        occupancy=np.eye(5 * n).reshape(5, n, 5 * n),
    )


def maximize(program: Program) -> Optimum:
    """An optimum of a program.

    Raises:
        PlanError: if the solver reports anything but an optimum.
    """
    from scipy.optimize import linprog

    # Very small or large currencies are rescaled into the range of the solver's tolerances.
    largest = float(np.abs(program.objective).max())
    currency = 1.0 if largest == 0 or _SAFE[0] <= largest <= _SAFE[1] else largest
    result = linprog(
        -program.objective / currency,
        A_ub=program.rows,
        b_ub=program.levels,
        A_eq=program.equations,
        b_eq=program.amounts,
        bounds=np.column_stack([program.lower, program.upper]),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.status != 0:
        raise PlanError(
            f"plan of {program.name!r}: got no optimum from the solver "
            f"({' '.join(str(result.message).split())}), expected an instance with moderate "
            "numbers; check the units of rates, tokens and times"
        )
    return Optimum(
        result.x, -result.ineqlin.marginals * currency, -result.eqlin.marginals * currency
    )


def shadow_prices(optimum: Optimum, n_classes: int) -> dict[str, Any]:
    """The prices of capacities and balances by name, as :class:`FluidPlan` documents them."""
    capacity, balance = optimum.row_prices, optimum.equation_prices
    return {
        "prefill_capacity": float(capacity[0]),
        "mixed_decode_capacity": float(capacity[1]),
        "solo_decode_capacity": float(capacity[2]),
        "arrival": balance[:n_classes],
        # One more prefilled request lowers the right-hand side of its balance.
        "prefilled": -balance[n_classes : 2 * n_classes],
    }


def canonical_split(
    instance: Instance,
    prefills: float,
    y_mixed: np.ndarray,
    y_solo: np.ndarray,
    share: float | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same decode throughput with one solo probability for all classes.

    It is ``share``, or as large as the solo slots allow. That is feasible for every optimum
    because mu_s / mu_m = gamma tau_mix for all classes.
    """
    hardware = instance.hardware
    completions = instance.mixed_decode_rates * y_mixed + instance.solo_decode_rates * y_solo
    tokens = completions * instance.decode_iterations
    total = float(tokens.sum())
    if total <= 0:
        return np.zeros_like(tokens), np.zeros_like(tokens), 1.0
    solo_tokens = hardware.gamma * hardware.batch_slots * max(0.0, 1.0 - prefills)
    p_solo = min(1.0, solo_tokens / total) if share is None else share
    return (1 - p_solo) * tokens * hardware.tau_mixed, p_solo * tokens / hardware.gamma, p_solo
