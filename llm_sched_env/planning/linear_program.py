"""The fluid program itself: (40) for bundled and (42) for separate charging, solved by HiGHS."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.instance import Instance

_SAFE = (1e-3, 1e6)


def objective(instance: Instance, pricing: str) -> np.ndarray:
    """Revenue rate per unit of (x, y_mixed, y_solo, q_prefill, q_decode); shape (5I,)."""
    hardware, prices = instance.hardware, instance.prices
    ones, zeros = np.ones(instance.n_classes), np.zeros(instance.n_classes)
    if pricing == "bundled":
        w = instance.bundled_revenues
        parts = (zeros, w * instance.mixed_decode_rates, w * instance.solo_decode_rates)
    else:
        parts = (
            ones * prices.prefill * hardware.chunk_tokens / hardware.tau_mixed,
            ones * prices.decode / hardware.tau_mixed,
            ones * prices.decode * hardware.gamma,
        )
    return np.concatenate([*parts, zeros, zeros])


def solve(instance: Instance, pricing: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The optimum, shape (5I,) as in :func:`objective`, and the shadow prices.

    Raises:
        PlanError: if the solver reports anything but an optimum.
    """
    from scipy.optimize import linprog

    hardware = instance.hardware
    slots, n = hardware.batch_slots, instance.n_classes
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
    # Proposition 3.2: an optimum without prefilled requests waiting exists.
    no_decode_queue = pricing == "bundled" and (
        hardware.gamma * hardware.tau_mixed >= (slots - 1) / slots
    )
    upper = np.full(5 * n, np.inf)
    if no_decode_queue:
        upper[4 * n :] = 0.0
    revenue = objective(instance, pricing)
    # Very small or large currencies are rescaled into the range of the solver's tolerances.
    largest = float(revenue.max())
    currency = 1.0 if largest == 0 or _SAFE[0] <= largest <= _SAFE[1] else largest
    result = linprog(
        -revenue / currency,
        A_ub=capacities,
        b_ub=np.array([1.0, 0.0, float(slots)]),
        A_eq=np.vstack([arrivals, prefilled]),
        b_eq=np.concatenate([instance.arrival_rates, zeros]),
        bounds=np.column_stack([np.zeros(5 * n), upper]),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if result.status != 0:
        raise PlanError(
            f"plan of {instance.name!r}: got no optimum from the solver "
            f"({' '.join(str(result.message).split())}), allowed is an instance with moderate "
            "numbers; check the units of rates, tokens and times"
        )
    solution = np.maximum(result.x, 0.0)
    capacity_duals = -result.ineqlin.marginals * currency
    balance_duals = -result.eqlin.marginals * currency
    duals = {
        "prefill_capacity": float(capacity_duals[0]),
        "mixed_decode_capacity": float(capacity_duals[1]),
        "solo_decode_capacity": float(capacity_duals[2]),
        "arrival": balance_duals[:n],
        # One more prefilled request lowers the right-hand side of its balance.
        "prefilled": -balance_duals[n:],
    }
    return solution, duals


def canonical_split(
    instance: Instance, prefills: float, y_mixed: np.ndarray, y_solo: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """The same decode throughput with one solo probability for all classes, as large as fits.

    Feasible for every optimum because mu_s / mu_m = gamma tau_mix for all classes.
    """
    hardware = instance.hardware
    completions = instance.mixed_decode_rates * y_mixed + instance.solo_decode_rates * y_solo
    tokens = completions * instance.output_tokens
    total = float(tokens.sum())
    if total <= 0:
        return np.zeros_like(tokens), np.zeros_like(tokens), 1.0
    solo_tokens = hardware.gamma * hardware.batch_slots * max(0.0, 1.0 - prefills)
    p_solo = min(1.0, solo_tokens / total)
    return (1 - p_solo) * tokens * hardware.tau_mixed, p_solo * tokens / hardware.gamma, p_solo
