"""Hindsight bound: the fluid program along a path of time-varying arrivals.

R* bounds the long run at the mean rates; with a peak after a quiet hour no policy can reach it.
This program knows all arrivals in advance, starts with an empty cluster and maximises the expected
revenue up to a given time. docs/model.md, *Hindsight bound*, says why no policy earns more.

Under the KV-aware law its speeds are such that no iteration is faster, a request may hold its slot
without progress, and each step has the time row of the accounting program. The context of decodes
takes no time in it, since a step knows no ages: still a bound, but higher than R* by that.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, PlanError
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.request_work import RequestWork, request_work
from llm_sched_env.planning.arrival_paths import ArrivalPath, whole_steps
from llm_sched_env.planning.iteration_times import iteration_times
from llm_sched_env.planning.linear_program import objective
from llm_sched_env.planning.operating_point import OperatingPoint, two_speed_equivalent

WITHIN_STEPS = ("uniform", "any")
# Columns of a step by class: means over it, then at its end requests not prefilled yet, prefilled
# ones and those of them that decode.
_COLUMNS = (
    "x",
    "y_mixed",
    "y_solo",
    "q_prefill",
    "q_decode",
    "unprefilled",
    "prefilled",
    "decoding",
)
_MEANS = 5
# Means of requests that hold their slot and make no progress, where iterations may be slower.
_HELD = ("x_held", "y_mixed_held", "y_solo_held")


def traffic_bound(
    instance: Instance,
    path: ArrivalPath,
    pricing: str = "bundled",
    *,
    warmup: float = 0.0,
    within_steps: str = "uniform",
) -> float:
    """Greatest expected revenue per GPU and second from the warm-up to the end of the path.

    Args:
        instance: classes, hardware and prices; its own arrival rates do not count. Lengths are
            exponential in the argument; with others, as those of a trace, it is an estimate.
        path: arrivals from time 0, when the cluster is empty.
        pricing: ``bundled`` or ``separate``.
        warmup: seconds in which nothing is counted, a multiple of the step.
        within_steps: ``uniform``: all that happens in a step is spread evenly over it; an estimate
            whose error falls with the square of the step. ``any``: services and departures may
            come at any time within it; a bound at every step, too high by
            some steps' revenue.

    Raises:
        ConfigurationError: for arguments that are not allowed.
        PlanError: if the solver finds no optimum.
    """
    if within_steps not in WITHIN_STEPS:
        raise ConfigurationError("within_steps", within_steps, " or ".join(WITHIN_STEPS))
    if instance.hardware.kv_tokens is not None:
        raise ConfigurationError(
            "hardware kv_tokens", instance.hardware.kv_tokens, "no limit for this bound"
        )
    skipped = whole_steps("warmup", warmup, path.seconds)
    program = _PathProgram(instance, path)
    program.add_balances()
    program.add_capacities()
    program.add_time()
    if within_steps == "uniform":
        program.spread_evenly()
    else:
        program.allow_any_time()
    rates = np.zeros((len(path.arrivals), len(program.columns) * instance.n_classes))
    rates[skipped:, : _MEANS * instance.n_classes] = objective(program.instance, pricing)
    return program.maximum(rates) / (len(path.arrivals) - skipped)


class _PathProgram:
    """Rows and equations over the columns of all steps, a set for each class unless said."""

    def __init__(self, instance: Instance, path: ArrivalPath) -> None:
        self.given, self.path = instance, path
        self.instance = instance = _fastest(instance)
        slower = self.given is not instance or instance.hardware.whole_iterations
        self.columns = _COLUMNS + (_HELD if slower else ())
        x_held, decodes_held = (_HELD[:1], _HELD[1:]) if slower else ((), ())
        # Which means add up to what is there at an end of a step.
        self._inside = {
            "unprefilled": ("x", "q_prefill", *x_held),
            "prefilled": ("y_mixed", "y_solo", "q_decode", *decodes_held),
            "decoding": ("y_mixed", "y_solo", *decodes_held),
        }
        self._rows: list[tuple[Any, np.ndarray]] = []
        self._equations: list[tuple[Any, np.ndarray]] = []
        steps, n = path.arrivals.shape
        self._nothing = np.zeros(steps * n)
        h, theta = path.seconds, instance.patience_rates
        # What leaves in a step, by column.
        self._unprefilled_out = {"x": h * instance.prefill_rates, "q_prefill": h * theta}
        self._decoded = {
            "y_mixed": h * instance.mixed_decode_rates,
            "y_solo": h * instance.solo_decode_rates,
        }
        self._fastest_decode = np.maximum(instance.mixed_decode_rates, instance.solo_decode_rates)

    def add_balances(self) -> None:
        """What is there at a step's end; decodes are not interrupted."""
        h, mu_p = self.path.seconds, self.instance.prefill_rates
        self._add_equation(
            self._over({"unprefilled": 1.0, **self._unprefilled_out}, {"unprefilled": -1.0}),
            self.path.arrivals.ravel(),
        )
        gone = {**self._decoded, "q_decode": h * self.instance.patience_rates}
        self._add_equation(
            self._over({"prefilled": 1.0, "x": -h * mu_p, **gone}, {"prefilled": -1.0})
        )
        ended = {name: -share for name, share in self._decoded.items()}
        self._add_row(self._over({"decoding": -1.0, **ended}, {"decoding": 1.0}))
        self._add_row(self._over({"decoding": 1.0, "prefilled": -1.0}))

    def add_capacities(self) -> None:
        """Slots of prefills, of decodes beside them and of others, on average over a step."""
        from scipy.sparse import csr_matrix, eye, kron

        slots, steps = self.instance.hardware.batch_slots, len(self.path.arrivals)
        used = np.zeros((3, len(self.columns), self.instance.n_classes))
        for k, (x, y_mixed, y_solo) in enumerate((_COLUMNS[:3], _HELD)):
            if k and x not in self.columns:
                break
            used[:, self.columns.index(x)] = np.array([[1.0], [1.0 - slots], [slots]])
            used[1, self.columns.index(y_mixed)] = used[2, self.columns.index(y_solo)] = 1.0
        self._rows.append(
            (kron(eye(steps), csr_matrix(used.reshape(3, -1))), np.tile([1.0, 0.0, slots], steps))
        )

    def add_time(self) -> None:
        """Iterations take their time, and no more decodes than slots advance beside a chunk."""
        from scipy.sparse import csr_matrix, eye, kron

        if len(self.columns) == len(_COLUMNS):
            return
        hardware, steps = self.given.only_hardware, len(self.path.arrivals)
        slots, chunk = hardware.batch_slots, hardware.chunk_tokens
        (s0, s1, _), (m0, m1, m2, _, m4) = iteration_times(hardware)
        work = RequestWork(*np.array([request_work(c, hardware) for c in self.given.classes]).T)
        # A whole chunk attends to half of itself at least; the last one may be short.
        attended = 0.0 if _short_chunks(self.given) else chunk / 2.0
        prompt = m0 * work.prefill_iterations + (m1 + m4 * attended) * work.prefill_tokens
        prompt_seconds = self.instance.prefill_rates * prompt
        # Per second and decode: iterations, at the fastest.
        mixed, solo = 1.0 / self.instance.hardware.tau_mixed, self.instance.hardware.gamma
        time = np.zeros((2, len(self.columns), self.instance.n_classes))
        time[0, 0] = prompt_seconds
        time[0, 1] = mixed * m2
        time[0, 2] = solo * (s0 / slots + s1)
        time[1, 0], time[1, 1] = 1.0 - slots, 1.0
        self._rows.append(
            (kron(eye(steps), csr_matrix(time.reshape(2, -1))), np.tile([1.0, 0.0], steps))
        )

    def spread_evenly(self) -> None:
        """Means over a step are those of its ends; arrivals are spread like the rest.

        At their own times, with services spread, those early in a step would have to wait.
        """
        h = self.path.seconds
        fastest = float(max(self._fastest_decode.max(), self.instance.patience_rates.max()))
        if h * fastest >= 2.0:
            raise ConfigurationError(
                "seconds", h, f"less than {2.0 / fastest:g} s a step for evenly spread departures"
            )
        for end, means in self._inside.items():
            inside = dict.fromkeys(means, 1.0)
            self._add_equation(self._over({**inside, end: -0.5}, {end: -0.5}))

    def allow_any_time(self) -> None:
        """Means over a step are between what all events at its start and at its end would give.

        Decodes and prefilled requests leave no faster than at the fastest rate.
        """
        present, late = self.path.present, self.path.arrivals - self.path.present
        inside = dict.fromkeys(self._inside["unprefilled"], 1.0)
        outside = dict.fromkeys(self._inside["unprefilled"], -1.0)
        self._add_row(self._over({"unprefilled": 1.0, **outside}), late.ravel())
        self._add_row(self._over(inside, {"unprefilled": -1.0}), present.ravel())
        leaving = np.maximum(self._fastest_decode, self.instance.patience_rates)
        for end, rate in (("prefilled", leaving), ("decoding", self._fastest_decode)):
            means = self._inside[end]
            left = self.path.seconds * rate
            some = -np.expm1(-left) / left
            more = np.expm1(left) / left
            self._add_row(self._over(dict.fromkeys(means, -1.0), {end: some}))
            self._add_row(self._over({**dict.fromkeys(means, 1.0), end: -more}))

    def maximum(self, gains: np.ndarray) -> float:
        """Of gains per column, shape (T, 8I); raises PlanError."""
        from scipy.optimize import linprog

        currency = float(gains.max())  # the solver's tolerances are absolute
        rows, equations = _stacked(self._rows), _stacked(self._equations)
        # Each of these fails on some programs that the others solve, presolve most often.
        for presolve in (False, True):
            for method in ("highs-ipm", "highs-ds"):
                result = linprog(
                    -gains.ravel() / currency,
                    *rows,
                    *equations,
                    method=method,
                    options={"presolve": presolve},
                )
                if result.status == 0:
                    return float(-result.fun) * currency
        raise PlanError(
            f"traffic bound of {self.instance.name!r}: got no optimum from the solver "
            f"({' '.join(str(result.message).split())}), expected an instance with moderate "
            "numbers; check the units of rates, tokens and times"
        )

    def _add_row(self, matrix: Any, levels: np.ndarray | None = None) -> None:
        self._rows.append((matrix, self._nothing if levels is None else levels))

    def _add_equation(self, matrix: Any, amounts: np.ndarray | None = None) -> None:
        self._equations.append((matrix, self._nothing if amounts is None else amounts))

    def _over(self, now: dict[str, Any], before: dict[str, Any] | None = None) -> Any:
        """A row a step and class: coefficients of the step's columns and of those before it."""
        from scipy.sparse import eye, kron

        steps = len(self.path.arrivals)
        found = kron(eye(steps), self._by_class(now))
        return found if before is None else found + kron(eye(steps, k=-1), self._by_class(before))

    def _by_class(self, coefficients: dict[str, Any]) -> Any:
        from scipy.sparse import coo_matrix

        n = self.instance.n_classes
        columns = np.concatenate(
            [self.columns.index(name) * n + np.arange(n) for name in coefficients]
        )
        values = np.concatenate([np.broadcast_to(c, n) for c in coefficients.values()])
        rows = np.tile(np.arange(n), len(coefficients))
        return coo_matrix((values, (rows, columns)), shape=(n, len(self.columns) * n))


def _fastest(instance: Instance) -> Instance:
    """The instance at two speeds that no iteration beats; itself under those laws."""
    hardware = instance.only_hardware
    times = iteration_times(hardware)
    chunk = 0 if _short_chunks(instance) else hardware.chunk_tokens
    least = times.mixed[0] + times.mixed[1] * chunk
    return two_speed_equivalent(instance, OperatingPoint(least, times.solo[0], 1.0))


def _short_chunks(instance: Instance) -> bool:
    """Whether the last chunk of a prompt takes less time than the others."""
    hardware = instance.hardware
    return hardware.whole_chunks and not hardware.padded_chunks


def _stacked(parts: list[tuple[Any, np.ndarray]]) -> tuple[Any, np.ndarray]:
    from scipy.sparse import vstack

    return vstack([matrix for matrix, _ in parts]).tocsr(), np.concatenate([v for _, v in parts])
