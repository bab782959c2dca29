"""The best split of a cluster into GPUs that prefill and GPUs that decode, by the fluid plan.

In the accounting program a group's share of the GPUs bounds its time and its links. Here the shares
of the two roles are columns of the program, whose sum is the share of their kind of GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.fleet import Fleet, GpuGroup
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.planning.accounting_program import AccountingProgram
from llm_sched_env.planning.fluid import plan
from llm_sched_env.planning.fluid_solution import positive_value
from llm_sched_env.planning.linear_program import Program, maximize
from llm_sched_env.presets import resolve_instance

# A role with less of a kind of GPU than this share of the cluster has none of it.
_NONE = 1e-6


@dataclass(frozen=True, eq=False)
class RoleChoice:
    """GPUs by role.

    Attributes:
        instance: with groups NAME-prefill and NAME-decode for each kind of GPU; of one kind,
            prefill and decode.
        value: R* of that instance, currency per GPU and second.
        colocated_value: R* where every GPU may do both.
    """

    instance: Instance
    value: float
    colocated_value: float

    @property
    def groups(self) -> tuple[GpuGroup, ...]:
        """The chosen groups."""
        return self.instance.groups

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "value": self.value,
            "colocated_value": self.colocated_value,
            "groups": [{"name": g.name, "role": g.role, "share": g.share} for g in self.groups],
        }


def choose_roles(
    instance: str | Instance, pricing: str = "bundled", n_gpus: int | None = None
) -> RoleChoice:
    """Split each kind of GPU into a prefill and a decode group so that R* is greatest.

    Groups of the instance with the same hardware and link are one kind, whatever their roles.

    Args:
        instance: a preset's name, an instance file or an instance.
        pricing: ``bundled`` or ``separate``.
        n_gpus: cluster size, for whole GPUs by role; None: shares of any size.

    Returns:
        The split and its R*.

    Raises:
        ConfigurationError: if ``n_gpus`` leaves no GPU for a role.
        PlanError: if no revenue can be earned.

    Example:
        >>> choice = choose_roles("mixed-fleet", n_gpus=20)
        >>> [(group.name, round(20 * group.share)) for group in choice.groups]
        [('h100-prefill', 8), ('a100-decode', 12)]
    """
    given = resolve_instance(instance)
    kinds = _kinds(given if n_gpus is None else given.of_size(n_gpus))
    colocated = replace(given, hardware=Fleet(tuple(kinds)))
    shares = _best_shares(given, kinds, pricing)
    if n_gpus is None:
        chosen = _split(given, kinds, shares)
    else:
        splits = [_split(given, kinds, s) for s in _whole(kinds, shares, n_gpus)]
        if not splits:
            raise ConfigurationError("n_gpus", n_gpus, "at least 2", "each role needs a GPU")
        chosen = max(splits, key=lambda split: plan(split, pricing).value)
    return RoleChoice(chosen, plan(chosen, pricing).value, plan(colocated, pricing).value)


def _kinds(given: Instance) -> list[GpuGroup]:
    """One group of the role mixed for each kind of GPU."""
    kinds: list[GpuGroup] = []
    for group in given.groups:
        for place, kind in enumerate(kinds):
            if (kind.hardware, kind.link) == (group.hardware, group.link):
                kinds[place] = replace(kind, share=kind.share + group.share)
                break
        else:
            kinds.append(replace(group, role="mixed"))
    return kinds


def _best_shares(given: Instance, kinds: Sequence[GpuGroup], pricing: str) -> np.ndarray:
    """Shares of the GPUs that prefill and that decode, of each kind; shape (K, 2)."""
    groups = [replace(kind, role=role) for kind in kinds for role in ("prefill", "decode")]
    rates = fitting_requests(given).arrival_rates
    program = AccountingProgram(given, groups, rates, pricing)
    free = _with_share_columns(program, [kind.share for kind in kinds])
    optimum = maximize(free)
    positive_value(free, optimum)
    found: np.ndarray = optimum.columns[-len(groups) :].reshape(len(kinds), 2)
    return np.where(found > _NONE, found, 0.0)


def _with_share_columns(accounts: AccountingProgram, shares: Sequence[float]) -> Program:
    """The program with a further column for the share of each group; two groups are a kind."""
    program, n_groups = accounts.program, len(accounts.groups)
    # The levels of these rows are proportional to the share of their group.
    columns = np.zeros((len(program.rows), n_groups))
    levels = program.levels.copy()
    per_group = len(program.rows) // n_groups
    for g, group in enumerate(accounts.groups):
        rows = slice(g * per_group, (g + 1) * per_group)
        columns[rows, g] = -levels[rows] / group.share
        levels[rows] = 0.0
    kinds = np.kron(np.eye(len(shares)), np.ones(2))
    width = program.rows.shape[1]
    return replace(
        program,
        objective=np.concatenate([program.objective, np.zeros(n_groups)]),
        rows=np.hstack([program.rows, columns]),
        levels=levels,
        equations=np.vstack(
            [
                np.hstack([program.equations, np.zeros((len(program.equations), n_groups))]),
                np.hstack([np.zeros((len(shares), width)), kinds]),
            ]
        ),
        amounts=np.concatenate([program.amounts, shares]),
        lower=np.concatenate([program.lower, np.zeros(n_groups)]),
        upper=np.concatenate([program.upper, np.full(n_groups, np.inf)]),
        occupancy=np.concatenate(
            [program.occupancy, np.zeros((*program.occupancy.shape[:2], n_groups))], axis=2
        ),
    )


def _whole(kinds: Sequence[GpuGroup], shares: np.ndarray, n_gpus: int) -> list[np.ndarray]:
    """Splits into whole GPUs nearest to the shares, with at least one GPU for each role."""
    sizes = [round(kind.share * n_gpus) for kind in kinds]
    near = [{int(np.floor(p)), int(np.ceil(p))} for p in np.round(shares[:, 0] * n_gpus, 9)]
    if len(kinds) == 1:
        near[0] = {min(max(p, 1), sizes[0] - 1) for p in near[0]}
    found = []
    for prefills in itertools.product(*near):
        split = np.array([(p, size - p) for p, size in zip(prefills, sizes, strict=True)])
        if (split >= 0).all() and (split.sum(axis=0) > 0).all():
            found.append(split / n_gpus)
    return found


def _split(given: Instance, kinds: Sequence[GpuGroup], shares: np.ndarray) -> Instance:
    several = len(kinds) > 1
    groups = tuple(
        replace(
            kind, name=f"{kind.name}-{role}" if several else role, role=role, share=float(share)
        )
        for kind, own in zip(kinds, shares, strict=True)
        for role, share in zip(("prefill", "decode"), own, strict=True)
        if share > 0.0
    )
    return replace(given, hardware=Fleet(groups))
