"""Lagrangian rewards: costs at a price that rises while the budgets are not kept.

The multipliers follow the observed costs of the training's episodes by proportional-integral
control (Stooke, Achiam and Abbeel, "Responsive Safety in Reinforcement Learning by PID Lagrangian
Methods", ICML 2020, without the derivative), from the shadow prices of the fluid plan under the
budgets. As there the reward is divided by one plus the multipliers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from llm_sched_env.envs.costs import Costs
from llm_sched_env.planning import Abandonment, plan
from llm_sched_env.planning.cluster import Cluster

# A cost is counted in what the plan has to save of it, at least this share of the budget.
_LEAST_UNIT = 0.05
# So many units beyond the budget count as more.
_GREATEST_ERROR = 2.0


@dataclass
class Multipliers:
    """Prices of K costs, in R* of the whole episode per unit of the cost.

    A unit is what the fluid plan has to save of a cost to keep its budget, so that gains mean the
    same for seconds and shares. An error is the cost less its budget, in units.

    Attributes:
        names: of the costs that have a budget.
        budgets: shape (K,).
        units: shape (K,).
        integral: of the errors, >= 0, shape (K,).
        gain: of the error.
        rate: of the integral, for each episode of all environments.
    """

    names: tuple[str, ...]
    budgets: np.ndarray
    units: np.ndarray
    integral: np.ndarray
    gain: float
    rate: float

    def __post_init__(self) -> None:
        self.values = self.integral.copy()
        self.last_costs = np.full(len(self.names), np.nan)

    @classmethod
    def of(cls, costs: Costs, cluster: Cluster, gain: float, rate: float) -> Multipliers:
        """Those that start at the shadow prices of the budgets; raises PlanError."""
        limited = costs.constrained_plan(cluster)
        names = tuple(name for name in costs.names if name in costs.budgets)
        units, prices = [], []
        for name, kind in zip(costs.names, costs.levels, strict=True):
            if name not in costs.budgets:
                continue
            level, budget = kind or Abandonment, costs.budgets[name]
            free = plan(cluster.instance, cluster.pricing, slos=[level(price=0.0)])
            unit = max(free.slos[level.name].value - budget, _LEAST_UNIT * budget) or 1.0
            units.append(unit)
            prices.append(limited.slos[level.name].dual * unit / limited.value)
        budgets = np.array([costs.budgets[name] for name in names])
        return cls(names, budgets, np.array(units), np.array(prices), gain, rate)

    def update(self, costs: np.ndarray, share: float) -> None:
        """Follow the mean costs of episodes that have ended in a share of the environments."""
        error = (costs - self.budgets) / self.units
        error = np.clip(error, -_GREATEST_ERROR, _GREATEST_ERROR)
        self.integral = np.maximum(self.integral + share * self.rate * error, 0.0)
        self.values = np.maximum(self.integral + self.gain * error, 0.0)
        self.last_costs = costs

    def restore(self, integral: np.ndarray, values: np.ndarray) -> None:
        """Go on from where a training was."""
        self.integral, self.values = integral, values


class LagrangianRewards(VecEnvWrapper):
    """The reward less the costs beyond their budgets at the multipliers, on the same scale.

    Args:
        venv: whose infos have ``costs``.
        multipliers: of those that have a budget; they change when episodes end.
        steps: of an episode.
    """

    def __init__(self, venv: VecEnv, multipliers: Multipliers, steps: int) -> None:
        super().__init__(venv)
        self.multipliers = multipliers
        self._steps = steps
        self._sums = np.zeros((venv.num_envs, len(multipliers.names)))

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere."""
        self._sums[:] = 0.0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """The outcome, its reward less the price of its costs."""
        observations, rewards, dones, infos = self.venv.step_wait()
        told = self.multipliers
        costs = np.array([[info["costs"][name] for name in told.names] for info in infos])
        # Rewards are shares of R* in a step, costs shares of a whole episode's.
        beyond = (self._steps * costs - told.budgets) / told.units
        penalised = (rewards - beyond @ told.values) / (1.0 + told.values.sum())
        self._sums += costs
        if dones.any():
            told.update(self._sums[dones].mean(axis=0), float(dones.mean()))
            self._sums[dones] = 0.0
        return observations, penalised.astype(np.float32), dones, infos


def lagrangian_of(venv: VecEnv) -> Multipliers | None:
    """The multipliers of an environment's wrappers, if it has any."""
    inside: VecEnv | None = venv
    while isinstance(inside, VecEnvWrapper):
        if isinstance(inside, LagrangianRewards):
            return inside.multipliers
        inside = inside.venv
    return None
