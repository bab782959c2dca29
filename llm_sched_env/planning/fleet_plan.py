"""The fluid plan of a cluster with several groups of GPUs, by the accounting program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning.accounting_program import AccountingProgram, AccountPrices, Accounts
from llm_sched_env.planning.fluid_plan import FluidPlan, endless_queues, mixed_pool_size
from llm_sched_env.planning.fluid_solution import AS_GOOD, positive_value
from llm_sched_env.planning.linear_program import Optimum
from llm_sched_env.planning.operating_point import operating_point, two_speed_equivalent


@dataclass(frozen=True, eq=False)
class FleetPlan(FluidPlan):
    """A fluid plan whose services are by class and group of GPUs.

    ``x``, ``y_mixed``, ``y_solo``, ``solo_probability`` and ``admission_fraction`` have shape
    (I, G), per GPU of the whole cluster; the queues, which are those of the cluster, (I,).
    ``admission_fraction`` is the share of a class's arrivals that each group prefills,
    ``solo_probability`` that of a group's decodes without a prefill beside them. ``duals`` has by
    group the price of its ``time``, of a ``mixed_slot`` and of a ``solo_slot`` per iteration,
    shape (G,), of an ``arrival``, shape (I,), and of a ``prefilled`` request, shape (G, I).

    Attributes:
        accounts: iterations, tokens and moves of the optimum.
        program: what was solved.
        prices: its shadow prices.
    """

    accounts: Accounts
    program: AccountingProgram
    prices: AccountPrices

    @property
    def decode_share(self) -> np.ndarray:
        """Of each class's decodes in service, the part of each group; 0 without any; (I, G)."""
        decodes = self.y_mixed + self.y_solo
        total = decodes.sum(axis=1, keepdims=True)
        share: np.ndarray = np.divide(decodes, total, out=np.zeros_like(decodes), where=total > 0)
        return share

    @property
    def pool_shares(self) -> np.ndarray:
        """GPUs that prefill, of each group, as shares of its GPUs; shape (G,)."""
        shares = np.array([group.share for group in self.given.groups])
        filled: np.ndarray = np.minimum(1.0, self.x.sum(axis=0) / shares)
        return filled

    def pool_sizes(self, n_gpus: int) -> np.ndarray:
        """GPUs in the static mixed pool of each group; int64, shape (G,)."""
        sizes: np.ndarray = mixed_pool_size(self.pool_shares, self.given.group_sizes(n_gpus))
        return sizes

    def pool_size(self, n_gpus: int) -> int:
        """GPUs in the static mixed pools of all groups."""
        return int(self.pool_sizes(n_gpus).sum())

    @property
    def action(self) -> np.ndarray:
        """The plan as a constant action: admission, decode share, pools; shape (2 I G + G,)."""
        return np.concatenate(
            [self.admission_fraction.ravel(), self.decode_share.ravel(), self.pool_shares]
        )

    def controls(self, n_gpus: int) -> np.ndarray:
        """What the plan sets on n GPUs: its action with the pools in GPUs."""
        controls = self.action
        controls[-len(self.given.groups) :] = self.pool_sizes(n_gpus)
        return controls

    @property
    def decode_weights(self) -> np.ndarray:
        """Weighted routing is for one group; shape (2, I)."""
        return np.zeros((2, self.given.n_classes))

    @property
    def occupancy(self) -> np.ndarray:
        """Rows q_prefill, x, q_decode, y_mixed, y_solo, by pair, per GPU; shape (5, I G).

        Queues stand at the first group of a class.
        """
        queues = np.zeros((2, *self.x.shape))
        queues[:, :, 0] = self.q_prefill, self.q_decode
        rows = (queues[0], self.x, queues[1], self.y_mixed, self.y_solo)
        return np.array([row.ravel() for row in rows])

    @property
    def groups(self) -> list[dict[str, Any]]:
        """As of :attr:`FluidPlan.groups`."""
        mixed, solo = self.accounts.iterations
        rows = []
        for g, group in enumerate(self.instance.groups):
            tokens = float((self.y_solo[:, g] / group.hardware.tau_solo).sum())
            left = max(0.0, group.share - float(self.x[:, g].sum())) / group.hardware.tau_solo
            alone = max(float(solo[g]), min(left, tokens))
            used = float(self.x[:, g].sum()) + alone * group.hardware.tau_solo
            rows.append(
                {
                    "name": group.name,
                    "solo_iterations": alone,
                    "mixed_iterations": float(mixed[g]),
                    "time": min(1.0, used / group.share),
                    "prefills": self.accounts.prefills[g].tolist(),
                    "decodes": self.accounts.decodes[g].tolist(),
                }
            )
        return rows


def fleet_plan(given: Instance, pricing: str, levels: int = 0) -> FleetPlan:
    """The plan of an instance with groups.

    Bundled plans let no prefilled request wait where that is as good. Decodes are split into
    mixed and solo ones group by group, as those of one group are (:mod:`.operating_point`).

    Args:
        given: the instance.
        pricing: ``bundled`` or ``separate``.
        levels: how many service levels are asked for.

    Raises:
        ConfigurationError: with service levels, which are for one group.
        PlanError: if no revenue can be earned or the solver fails.
    """
    if levels:
        raise ConfigurationError("slos", f"{levels} of them", "none with groups of GPUs")
    program, optimum = _solved(given, pricing)
    accounts, prices = program.accounts(optimum.columns), program.prices(optimum)
    points = [operating_point(program, accounts, g) for g in range(len(given.groups))]
    mixed, solo, share = np.array(points).T[:, :, None]
    tokens = accounts.tokens.sum(axis=0)
    arrays = {
        "x": accounts.prefills * program.prefill_iterations * mixed,
        "y_mixed": (1.0 - share) * tokens * mixed,
        "y_solo": share * tokens * solo,
        "solo_probability": np.where(tokens > 0, share, 1.0),
        "admission_fraction": _fractions(accounts.prefills, given.arrival_rates),
    }
    instance = two_speed_equivalent(given, *points)
    queues = [
        endless_queues(instance, queue)
        for queue in (accounts.waiting, accounts.prefilled_waiting.sum(axis=0))
    ]
    growing = np.isinf(queues[0]) | np.isinf(queues[1])
    value = positive_value(program.program, optimum)
    duals = {
        "time": prices.time,
        "mixed_slot": prices.slots[0],
        "solo_slot": prices.slots[1],
        "arrival": prices.arrival,
        "prefilled": prices.prefilled,
    }
    by_class = {name: array.T.copy() for name, array in arrays.items()}
    for array in (*by_class.values(), *queues, *duals.values()):
        array.setflags(write=False)
    names = [c.name for c in given.classes]
    return FleetPlan(
        instance=instance,
        given=given,
        pricing=pricing,
        value=value,
        revenue_rate=value,
        objective=value,
        q_prefill=queues[0],
        q_decode=queues[1],
        mixed_fraction=min(1.0, float(by_class["x"].sum())),
        duals=duals,
        slos={},
        unstable_classes=tuple(n for n, grows in zip(names, growing, strict=True) if grows),
        accounts=accounts,
        program=program,
        prices=prices,
        **by_class,
    )


def _solved(given: Instance, pricing: str) -> tuple[AccountingProgram, Optimum]:
    program = fleet_program(given, pricing)
    optimum = program.optimum()
    if pricing == "bundled":
        without = fleet_program(given, pricing, decode_queue=False)
        other = without.optimum()
        least = AS_GOOD * positive_value(program.program, optimum)
        if float(without.program.objective @ other.columns) >= least:
            return without, other
    return program, optimum


def fleet_program(
    given: Instance, pricing: str = "bundled", *, decode_queue: bool = True
) -> AccountingProgram:
    """The accounting program of an instance with groups."""
    return AccountingProgram(
        given, given.groups, given.arrival_rates, pricing, decode_queue=decode_queue
    )


def _fractions(prefills: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Shares of the arrivals that are prefilled in each group, at most 1 in all; shape (G, I)."""
    shares: np.ndarray = np.divide(prefills, rates, out=np.zeros_like(prefills), where=rates > 0)
    total = shares.sum(axis=0)
    # Rounding of the solver: a class that is admitted but for a billionth is admitted whole.
    whole = (total > AS_GOOD) & (total > 0)
    return np.where(whole, shares / np.where(whole, total, 1.0), shares)
