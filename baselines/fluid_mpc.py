"""``fluid-mpc``: re-solve the fluid program from the current state every interval.

Model-predictive control with the gate ``bid-price``: the horizon program starts from the observed
state, expects the arrivals to come, and prices the capacity of the next minute. The resulting net
values rank the classes for one interval, and the prices and admissions set their reserves.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_sched_env.envs.actions import rank_shares
from llm_sched_env.errors import ConfigurationError, one_of
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan
from llm_sched_env.planning.horizon_program import HorizonOptimum, HorizonProgram
from llm_sched_env.planning.slot_ranks import reserves_at_prices
from llm_sched_env.policies.registry import RegisteredPolicy

INTERVAL = 1.0
STEP_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""About a minute: a few times the patience and the decode of the presets."""
RATES = ("planned", "estimated")
# The reserves look at the first 15 seconds: longer than queues live, shorter than loads change.
_NEAR_STEPS = 4
# Seconds over which observed arrivals are averaged, with weights that fall exponentially.
_MEMORY = 15.0


class FluidMPC:
    """Priorities and reserves from the horizon program; deterministic.

    Args:
        rates: arrivals expected over the horizon: ``planned``, the instance's mean rates with
            its profiles, which are known in advance, or ``estimated``, a weighted mean of what
            was observed. Bursts of a modulation and arrivals of a trace are never foreseen.
    """

    name = "fluid-mpc"
    environment = {  # noqa: RUF012 - plain data, as the protocol of policies has it
        "gate": "net-value",
        "router": "net-value",
        "pools": "dynamic",
        "controls": ["priority", "reserve"],
        "interval": INTERVAL,
    }

    def __init__(self, rates: str = "planned") -> None:
        if rates not in RATES:
            raise ConfigurationError("rates", rates, one_of(RATES))
        self.rates = rates

    def reset(
        self,
        instance: Instance,
        plan: FluidPlan,
        n_gpus: int,
        rng: np.random.Generator,  # noqa: ARG002 - the policy is deterministic
    ) -> None:
        """Build the program once; only its right-hand sides change."""
        self._instance, self._n_gpus = instance, n_gpus
        self._program = HorizonProgram(plan, STEP_SECONDS)
        # With a KV limit the plan's rates are those of the requests that fit.
        arriving, planned = instance.arrival_rates, plan.instance.arrival_rates
        self._fitting = np.divide(planned, arriving, out=np.zeros_like(planned), where=arriving > 0)
        self._estimate = arriving
        self._last_time = 0.0

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> np.ndarray:
        """Ranks of the next interval: priorities, then reserves as r / (1 + r)."""
        del observation  # bounded features; the program goes by exact counts
        time = float(info["time"])
        rates = self._expected(time, np.asarray(info["arrivals"], float))
        state = info["counts"] / self._n_gpus
        optimum = self._program.solve(state, rates)
        return rank_shares(np.stack([optimum.bids, self._reserves(optimum, rates)]))

    def _expected(self, time: float, arrivals: np.ndarray) -> np.ndarray:
        """Arrival rates of requests that fit, per GPU and second, shape (T, I)."""
        elapsed = time - self._last_time
        if elapsed > 0:
            seen = arrivals / (self._n_gpus * elapsed)
            self._estimate = seen + np.exp(-elapsed / _MEMORY) * (self._estimate - seen)
        self._last_time = time
        own = self._instance.arrival_rates if self.rates == "planned" else self._estimate
        expected = np.tile(own * self._fitting, (len(STEP_SECONDS), 1))
        if self.rates == "planned":
            edges = time + np.concatenate([[0.0], np.cumsum(STEP_SECONDS)])
            for i, request_class in enumerate(self._instance.classes):
                if request_class.arrival_profile is not None:
                    profile = request_class.arrival_profile
                    expected[:, i] *= profile.mean_relative_rates(edges)
        return expected

    def _reserves(self, optimum: HorizonOptimum, rates: np.ndarray) -> np.ndarray:
        seconds = np.array(STEP_SECONDS[:_NEAR_STEPS])
        near = seconds / seconds.sum()
        return reserves_at_prices(
            self._instance,
            optimum.bids,
            near @ rates[:_NEAR_STEPS],
            float(near @ optimum.admissions[:_NEAR_STEPS].sum(axis=1)),
            float(near @ optimum.capacity_prices[:_NEAR_STEPS, 2]),
        )


FLUID_MPC = RegisteredPolicy(
    "bid prices and reserves of the fluid program from the current state, every second",
    FluidMPC,
    source="this project",
)

FLUID_MPC_ESTIMATED = RegisteredPolicy(
    "fluid-mpc that knows no rates in advance: it expects what it has seen arriving lately",
    lambda: FluidMPC("estimated"),
    source="this project",
)
