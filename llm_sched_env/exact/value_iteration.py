"""Relative value iteration with certified bounds.

For any function h of the states, no policy earns more than the greatest and the policy that is
greedy for h at least the least drift (`bellman.drifts`): a pair of bounds, whatever the error
of h. The iteration makes them meet. Each state moves by the time that it lasts, not by one step
of a uniformized chain: prefills are a hundred times faster than decodes, and this is as many
times faster. Where the traffic switches, which is slow, its states also move as one, to where
their mean drifts would be the same.

The states are those of a system with ends to its queues; what happens there decides whether a
bound holds for the untruncated system too:

- LOST: an arrival at a full queue is lost. Its policies exist without the ends: ignore requests
  that come when K of their class wait. So its optimum is a lower bound.
- OVERPAID: it is paid the greatest value that a K-th waiting request has in any state, R_i.
  With V continued by V(q) = V(min(q, K)) + R_i max(0, q - K) for each class the drift beyond the
  end is at most that at the end: arrivals gain R_i either way, theta (K + j) requests leave,
  each for -R_i, which is no more than theta K times the step of V at K, and admitting one from
  beyond gives V at K for V at K plus R_i. A switch of the traffic changes V alone, as R_i is the
  greatest over its states too. So the greatest drift bounds every policy.
- UNDERPAID: it is paid the least such value, if that is below 0; the mirror image, for rules
  that ask only which queues are empty.

Ends of the decode buffer: a finished prefill that finds it full must be placed at once (it just
left a slot), which restricts the policies; or with ``sells_decodes`` it is sold for the greatest
value of its class at the end of the buffer, as the last one there or, if none of its class waits
there, of joining a GPU. Continued by the least of V at the end plus the prices of those beyond,
the drift is again largest at the end (a least of functions that none can improve on is one), and
the greatest drift bounds policies with any buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import PlanError
from llm_sched_env.exact.bellman import best_values, drifts, followed_values, relax, summary
from llm_sched_env.exact.queue_states import NO_ROW
from llm_sched_env.exact.tiny_system import TinySystem

LOST, OVERPAID, UNDERPAID = "lost", "overpaid", "underpaid"
# Below 1, so that a chain whose jumps alternate between two sets of states converges too.
_DAMPING = 0.95
_MOST_SWEEPS = 100_000


@dataclass(frozen=True, eq=False)
class Converged:
    """Where the iteration ended.

    Attributes:
        least: least drift, currency per second of the whole cluster.
        greatest: greatest drift.
        h: relative values of waiting, shape (R, M).
        values: relative values of acting first, shape (R, M).
        choices: what is done, WAIT or ``action * n + target``, shape (R, M).
        sweeps: sweeps needed.
    """

    least: float
    greatest: float
    h: np.ndarray
    values: np.ndarray
    choices: np.ndarray
    sweeps: int


class Sweep:
    """Values and drifts for given h.

    Args:
        system: the states.
        overflow: LOST, OVERPAID or UNDERPAID.
        actions: a rule's actions, shape (R, M); None: the best ones.
        random_gpu: whether the best actions use a random GPU; a rule's always do.
        sells_decodes: see above.
    """

    def __init__(
        self,
        system: TinySystem,
        overflow: str,
        *,
        actions: np.ndarray | None = None,
        random_gpu: bool = False,
        sells_decodes: bool = False,
    ) -> None:
        self.system, self.overflow, self.actions = system, overflow, actions
        self.random_gpu, self.sells_decodes = random_gpu, sells_decodes
        self.values, self.drift = np.empty(system.shape), np.zeros(system.shape)
        self.choices = np.full(system.shape, -1, dtype=np.int32)
        queues, n_classes = system.queues, system.instance.n_classes
        self._prefilled = queues.counts[:, n_classes:].sum(axis=1)
        self._full_queue = [
            np.flatnonzero(queues.more[:, i] == NO_ROW)
            if not sells_decodes
            else np.flatnonzero((queues.more[:, i] == NO_ROW) & queues.may_wait)
            for i in range(n_classes)
        ]
        at_end = (self._prefilled == system.decode_limit)[:, None] & (queues.fewer != NO_ROW)
        self._full_buffer = [np.flatnonzero(at_end[:, n_classes + i]) for i in range(n_classes)]
        self._beyond = np.flatnonzero(~queues.may_wait)

    def apply(self, h: np.ndarray) -> None:
        """Fill ``values``, ``choices`` and ``drift``."""
        system = self.system
        queues, clusters = system.queues, system.cluster_tables
        if self.actions is None:
            best_values(h, queues, clusters, self.random_gpu, self.values, self.choices)
        else:
            followed_values(h, queues, clusters, self.actions, self.values)
        if self.sells_decodes:
            self._sell()
        patience = system.instance.patience_rates
        traffic = (system.arrivals, system.switches)
        prices = self._overflow_prices()
        drifts(h, self.values, queues, clusters, *traffic, patience, prices, self.drift)

    def _marginal(self, rows: np.ndarray, queue: int) -> np.ndarray:
        """Value of the last one of a queue in some rows; NaN where a state cannot be."""
        with np.errstate(invalid="ignore"):
            steps = self.values[rows] - self.values[self.system.queues.fewer[rows, queue]]
        return np.asarray(steps)

    def _overflow_prices(self) -> np.ndarray:
        prices = np.zeros(self.system.instance.n_classes)
        if self.overflow != LOST:
            for i, rows in enumerate(self._full_queue):
                steps = self._marginal(rows, i)
                if self.overflow == OVERPAID:
                    prices[i] = max(0.0, np.nanmax(steps))
                else:
                    prices[i] = min(0.0, np.nanmin(steps))
        return prices

    def _worth_of_placing(self, i: int) -> float:
        """Greatest value of a class that joins a GPU while others fill the buffer."""
        system = self.system
        tables, n_classes = system.cluster_tables, system.instance.n_classes
        full = self._prefilled == system.decode_limit
        others = self.values[full & (system.queues.counts[:, n_classes + i] == 0)]
        worth = -np.inf
        for action in (n_classes + i, 2 * n_classes + i):
            for k in range(system.n_gpus):
                able = tables.target_counts[:, action] > k
                if able.any() and len(others):
                    placed = others[:, tables.targets[able, action, k]]
                    worth = max(worth, float((placed - others[:, able]).max()))
        return worth

    def _sell(self) -> None:
        """Values of one too many in the decode buffer: the least of those of selling one."""
        n_classes, fewer = self.system.instance.n_classes, self.system.queues.fewer
        sold = np.full((len(self._beyond), self.system.shape[1]), np.inf)
        for i, rows in enumerate(self._full_buffer):
            steps = float(self._marginal(rows, n_classes + i).max())
            price = max(0.0, steps, self._worth_of_placing(i))
            rest = fewer[self._beyond, n_classes + i]
            has = rest != NO_ROW
            sold[has] = np.minimum(sold[has], self.values[rest[has]] + price)
        self.values[self._beyond] = sold


def iterate(sweep: Sweep, tolerance: float, start: np.ndarray | None = None) -> Converged:
    """Sweep until least and greatest drift agree to a share ``tolerance`` of their size.

    Raises:
        PlanError: if they do not.
    """
    system = sweep.system
    rates = (system.queues, system.row_rates, system.cluster_rates)
    h = np.zeros(system.shape) if start is None else start.copy()
    for count in range(1, _MOST_SWEEPS + 1):
        sweep.apply(h)
        least, greatest, means = summary(sweep.drift, *rates)
        if greatest - least <= tolerance * abs(greatest):
            return Converged(least, greatest, h, sweep.values.copy(), sweep.choices.copy(), count)
        relax(h, sweep.drift, means, _levels(means, system.switches), _DAMPING, *rates)
    raise PlanError(
        f"value iteration of {system.instance.name!r}: got bounds {least:.9g} and {greatest:.9g} "
        f"after {_MOST_SWEEPS} sweeps, expected a relative width of {tolerance:g}; "
        "raise the tolerance"
    )


def _levels(means: np.ndarray, switches: np.ndarray) -> np.ndarray:
    """What to add to h in each state of the traffic for one mean drift in all, shape (S,).

    With levels c and the generator Q of the traffic mean drifts become means + Q c.
    """
    generator = switches - np.diag(switches.sum(axis=1))
    # Unknown are the levels but the first, which is 0, and the common drift.
    equations = np.column_stack([generator[:, 1:], -np.ones(len(means))])
    return np.append(0.0, np.linalg.solve(equations, -means)[:-1])
