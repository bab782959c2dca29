"""States in which a rule and the optimal policy differ, and the cost of each difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.exact.bellman import WAIT, queue_of
from llm_sched_env.exact.optimum import Optimum
from llm_sched_env.exact.stationary import stationary_law
from llm_sched_env.exact.tiny_system import KINDS, TinySystem

_SEEN = 1e-14
# An action worth less by no more than this share of the bound for a second is as good.
_TIE = 1e-9


@dataclass(frozen=True)
class Difference:
    """One pair of actions.

    Attributes:
        optimal: what the optimal policy does.
        rule: what the rule does in the same state, and it is worse.
        per_second: how often the rule does it, 1/s, whole cluster.
        cost: revenue per GPU and second lost by it.
    """

    optimal: str
    rule: str
    per_second: float
    cost: float


@dataclass(frozen=True)
class Disagreement:
    """Compare a rule with the optimum over the same actions, arrivals at full queues lost.

    Attributes:
        gap: revenue per GPU and second that the rule leaves.
        differences: the dearest first; their costs sum to the gap.
        decisions_differ: share of the rule's decisions, where something can be done, that the
            optimal policy makes otherwise and better.
        holds_back: share of time in which the optimal policy waits where the rule would act.
    """

    gap: float
    differences: tuple[Difference, ...]
    decisions_differ: float
    holds_back: float


def disagreement(best: Optimum, actions: np.ndarray) -> Disagreement:
    """Compare a rule with the optimal policy.

    The gap is the sum over states of how often the rule comes there times what its action is
    worth less than the best one, in the optimum's relative values (the performance difference
    formula), so each difference has its exact part of it. Two orders of the same actions that end
    alike do not differ.

    Args:
        best: the optimum with ``gpu_choice="random"``, as a rule draws its GPUs.
        actions: the rule, shape (R, M), as in `count_rules`.
    """
    if best.gpu_choice != "random":
        raise ConfigurationError(
            "gpu_choice", best.gpu_choice, "random, since rules choose GPUs at random"
        )
    system, solution = best.system, best.lower_solution
    n, n_targets = system.n_gpus, system.cluster_tables.targets.shape[2]
    optimal = best.policy.actions
    rule_choices = np.where(actions == WAIT, WAIT, actions * n_targets)
    visits = stationary_law(system, rule_choices, random_gpu=True).visits
    parts: dict[tuple[str, str], np.ndarray] = {}
    for r, m in zip(*np.nonzero((visits > _SEEN) & (actions != optimal)), strict=True):
        loss = solution.values[r, m] - _worth(best, int(r), int(m), int(actions[r, m]))
        if loss <= _TIE * best.fluid_bound:
            continue
        pair = (action_name(system, optimal[r, m]), action_name(system, actions[r, m]))
        own = parts.setdefault(pair, np.zeros(2))
        own += visits[r, m] * np.array([1.0, loss / n])
    differences = [Difference(*pair, *map(float, part)) for pair, part in parts.items()]
    differences.sort(key=lambda d: -d.cost)
    deciding = visits[can_act(system)].sum()
    waiting = stationary_law(system, solution.choices, random_gpu=True).time
    return Disagreement(
        gap=float(sum(d.cost for d in differences)),
        differences=tuple(differences),
        decisions_differ=float(sum(d.per_second for d in differences) / deciding),
        holds_back=float(waiting[actions != WAIT].sum()),
    )


def action_name(system: TinySystem, action: int) -> str:
    """In words, with the name of the class."""
    if action == WAIT:
        return KINDS[0]
    kind, i = divmod(int(action), system.instance.n_classes)
    name = system.instance.classes[i].name
    return f"admit {name}" if kind == 0 else f"place {name} {KINDS[1 + kind]}"


def can_act(system: TinySystem) -> np.ndarray:
    """States in which something can be done, shape (R, M)."""
    n_classes = system.instance.n_classes
    able = np.zeros(system.shape, dtype=bool)
    for action in range(3 * n_classes):
        waits = system.queues.counts[:, queue_of.py_func(action, n_classes)] > 0
        able |= waits[:, None] & system.possible[:, action]
    return able


def _worth(best: Optimum, r: int, m: int, action: int) -> float:
    """Relative value of an action on a random GPU and the best afterwards."""
    system, solution = best.system, best.lower_solution
    if action == WAIT:
        return float(solution.h[r, m])
    rest = system.queues.fewer[r, queue_of.py_func(action, system.instance.n_classes)]
    tables = system.cluster_tables
    k = int(tables.target_counts[m, action])
    after = solution.values[rest, tables.targets[m, action, :k]]
    return float(tables.target_shares[m, action, :k] @ after)
