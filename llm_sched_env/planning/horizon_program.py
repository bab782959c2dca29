"""The fluid program over a finite horizon from a given state, with (24)-(37) as rows.

Time is cut into steps; within a step everything takes its value at the step's end (implicit Euler),
so a constant solution is a solution of the stationary program (40) or (42). Decodes may move
between slots beside a prefill and others, as the modes of their GPUs change; they never stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.planning.fluid_plan import VARIABLES, FluidPlan
from llm_sched_env.planning.linear_program import objective

_X, _MIXED, _SOLO, _Q_PREFILL, _Q_DECODE = range(len(VARIABLES))
# Columns of the program in the order of the rows of a state.
_STATE_ROWS = (_Q_PREFILL, _X, _Q_DECODE, _MIXED, _SOLO)
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class HorizonOptimum:
    """An optimal path of the fluid over T steps; per GPU.

    Attributes:
        value: revenue over the horizon and worth of the state at its end, currency.
        revenue: of each step, currency, shape (T,).
        occupancy: at the end of each step, rows q_prefill, x, q_decode, y_mixed, y_solo; shape
            (T, 5, I).
        admissions: to prefill, 1/s, in each step; shape (T, I).
        capacity_prices: of a prefill slot, of a decode slot beside a prefill and of another;
            currency per second, in each step; shape (T, 3).
        bids: what a request admitted now earns beyond the capacity that it will use, at these
            prices, currency; shape (I,). At the state of the plan they are its bid prices.
    """

    value: float
    revenue: np.ndarray
    occupancy: np.ndarray
    admissions: np.ndarray
    capacity_prices: np.ndarray
    bids: np.ndarray


class HorizonProgram:
    """Maximise revenue over T steps from any state; built once, solved for many states.

    The state at the end is worth what the stationary plan's balances say: ``arrival`` for a
    request that is not prefilled yet, ``prefilled`` for one that is. By weak duality the value is
    then at most R* times the horizon plus the worth of the state at the start, when arrivals
    come at the plan's rates; from the plan's own state it is equal to that.

    Args:
        plan: instance, pricing and the worth of the state at the end; without service levels.
        step_seconds: length of each step, shape (T,).

    Raises:
        ConfigurationError: for steps that are not finite and positive.
    """

    def __init__(self, plan: FluidPlan, step_seconds: Any) -> None:
        steps = np.asarray(step_seconds, float)
        if steps.ndim != 1 or not len(steps) or not (np.isfinite(steps) & (steps > 0)).all():
            raise ConfigurationError("step_seconds", step_seconds, "finite numbers of seconds > 0")
        self.plan, self.instance, self.step_seconds = plan, plan.instance, steps
        self._revenue_rates = objective(plan.instance, plan.pricing).reshape(len(VARIABLES), -1)
        worth = [plan.duals[name] for name in ("arrival", "prefilled")]
        self._final_worth = np.array([worth[k] for k in (0, 1, 1, 0, 1)])  # as VARIABLES
        gains = steps[:, None, None] * self._revenue_rates
        gains[-1] += self._final_worth
        self._currency = float(np.abs(gains).max())  # the solver's tolerances are absolute
        self._gains = gains.ravel() / self._currency
        self._equations, self._rows = self._matrices()

    def worth(self, state: np.ndarray) -> float:
        """What a state is worth at the end of the horizon, per GPU; rows as in ``occupancy``."""
        return float((self._final_worth[list(_STATE_ROWS)] * np.asarray(state)).sum())

    def solve(self, state: Any, arrival_rates: Any) -> HorizonOptimum:
        """The best path from a state.

        Args:
            state: requests per GPU, rows q_prefill, x, q_decode, y_mixed, y_solo, shape (5, I).
            arrival_rates: per GPU, 1/s, in each step, shape (T, I), or the same in all, (I,).

        Raises:
            ConfigurationError: for a state that no cluster can be in, or other rates.
            PlanError: if the solver finds no optimum.
        """
        q_prefill, x, q_decode, y_mixed, y_solo = start = self._checked_state(state)
        rates = self._checked_rates(arrival_rates)
        n, steps = self.instance.n_classes, len(self.step_seconds)
        amounts = np.zeros((steps, 2, n))
        amounts[:, 0] = self.step_seconds[:, None] * rates
        amounts[0] += q_prefill + x, q_decode + y_mixed + y_solo
        levels = np.zeros((steps, 2 * n + 3))
        levels[:, 2 * n :] = 1.0, 0.0, self.instance.hardware.batch_slots
        levels[0, : 2 * n] = -np.concatenate([x, y_mixed + y_solo])
        columns, prices = self._maximize(amounts.ravel(), levels.ravel())
        columns = columns.reshape(steps, len(VARIABLES), n)
        occupancy = columns[:, _STATE_ROWS]
        before = np.concatenate([start[None, 1], columns[:-1, _X]])
        seconds = self.step_seconds[:, None]
        admissions = (columns[:, _X] - before) / seconds + self.instance.prefill_rates * columns[
            :, _X
        ]
        revenue = self.step_seconds * (columns * self._revenue_rates).sum(axis=(1, 2))
        per_second = prices.reshape(steps, -1)[:, 2 * n :] / seconds
        return HorizonOptimum(
            value=float(revenue.sum()) + self.worth(occupancy[-1]),
            revenue=revenue,
            occupancy=occupancy,
            admissions=np.maximum(admissions, 0.0),
            capacity_prices=per_second,
            bids=self._bids(per_second),
        )

    def _matrices(self) -> tuple[Any, Any]:
        """Equations and rows of all steps, sparse; a step's columns are as in VARIABLES by class.

        Equations of a step: per class requests not prefilled yet, then prefilled ones. Rows: per
        class, prefills are not interrupted (admissions >= 0), nor decodes; three capacities.
        """
        from scipy.sparse import bmat, csr_matrix, diags, eye, kron

        instance, n = self.instance, self.instance.n_classes
        slots = instance.hardware.batch_slots
        one, none = np.ones(n), np.zeros(n)
        mu_p, mu_m, mu_s, theta = (
            instance.prefill_rates,
            instance.mixed_decode_rates,
            instance.solo_decode_rates,
            instance.patience_rates,
        )

        def blocks(rows: list[list[np.ndarray]]) -> Any:
            return bmat([[diags(entry) for entry in row] for row in rows])

        # Per second, and by change: columns x, y_mixed, y_solo, q_prefill, q_decode.
        flow = blocks([[mu_p, none, none, theta, none], [-mu_p, mu_m, mu_s, none, theta]])
        change = blocks([[one, none, none, one, none], [none, one, one, none, one]])
        service = blocks([[mu_p, none, none, none, none], [none, mu_m, mu_s, none, none]])
        kept = blocks([[one, none, none, none, none], [none, one, one, none, none]])
        capacity = np.zeros((3, len(VARIABLES), n))
        capacity[:, _X] = np.array([[1.0], [1.0 - slots], [slots]])
        capacity[1, _MIXED] = capacity[2, _SOLO] = 1.0
        nothing = csr_matrix((3, len(VARIABLES) * n))

        steps = len(self.step_seconds)
        now, before, seconds = eye(steps), eye(steps, k=-1), diags(self.step_seconds)
        equations = kron(seconds, flow) + kron(now - before, change)
        still = bmat([[kept], [nothing]])
        limits = bmat([[-service], [nothing]])
        fits = bmat([[csr_matrix((2 * n, len(VARIABLES) * n))], [capacity.reshape(3, -1)]])
        rows = kron(seconds, limits) - kron(now - before, still) + kron(now, fits)
        return csr_matrix(equations), csr_matrix(rows)

    def _maximize(self, amounts: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns of an optimum and the prices of its rows."""
        from scipy.optimize import linprog

        # On programs of this size presolve takes longer than it saves.
        for presolve in (False, True):
            result = linprog(
                -self._gains,
                A_ub=self._rows,
                b_ub=levels,
                A_eq=self._equations,
                b_eq=amounts,
                method="highs",
                options={"presolve": presolve},
            )
            if result.status == 0:
                return np.maximum(result.x, 0.0), -result.ineqlin.marginals * self._currency
        raise PlanError(
            f"horizon program of {self.instance.name!r}: got no optimum from the solver "
            f"({' '.join(str(result.message).split())}), expected an instance with moderate "
            "numbers; check the units of rates, tokens and times"
        )

    def _bids(self, prices: np.ndarray) -> np.ndarray:
        """Backward in time: what a decode, a prefilled request and a prefill earn from here on.

        Better than the duals of the balances, which are not unique where nobody waits.
        """
        instance, revenue = self.instance, self._revenue_rates
        slots = instance.hardware.batch_slots
        decode_rates = np.array([instance.mixed_decode_rates, instance.solo_decode_rates])
        bids, decoding = self._final_worth[_X], self._final_worth[_SOLO]
        prefilled = decoding
        for seconds, (prefill, mixed, solo) in zip(
            self.step_seconds[::-1], prices[::-1], strict=True
        ):
            earned = seconds * (revenue[_MIXED : _SOLO + 1] - [[mixed], [solo]])
            decoding = ((earned + decoding) / (1.0 + seconds * decode_rates)).max(axis=0)
            waiting = prefilled / (1.0 + seconds * instance.patience_rates)
            prefilled = np.maximum(decoding, waiting)
            # A prefill makes its GPU mixed.
            paid = seconds * (revenue[_X] - prefill + (slots - 1) * mixed - slots * solo)
            done = seconds * instance.prefill_rates
            bids = (paid + done * prefilled + bids) / (1.0 + done)
        found: np.ndarray = bids
        return found

    def _checked_state(self, state: Any) -> np.ndarray:
        found, n = np.asarray(state, float), self.instance.n_classes
        if found.shape != (5, n) or not (np.isfinite(found) & (found >= 0)).all():
            raise ConfigurationError("state", state, f"finite numbers >= 0 of shape (5, {n})")
        slots = self.instance.hardware.batch_slots
        prefills, in_service = float(found[1].sum()), float(found[[1, 3, 4]].sum())
        if prefills > 1.0 + _ROUNDING or in_service > slots * (1.0 + _ROUNDING):
            raise ConfigurationError(
                "state",
                f"{prefills:g} prefills and {in_service:g} requests in service per GPU",
                f"at most 1 and {slots}",
            )
        return found

    def _checked_rates(self, arrival_rates: Any) -> np.ndarray:
        found = np.asarray(arrival_rates, float)
        n, steps = self.instance.n_classes, len(self.step_seconds)
        if found.shape not in ((n,), (steps, n)) or not (np.isfinite(found) & (found >= 0)).all():
            raise ConfigurationError(
                "arrival_rates",
                arrival_rates,
                f"finite rates >= 0 of shape ({n},) or ({steps}, {n})",
            )
        return found
