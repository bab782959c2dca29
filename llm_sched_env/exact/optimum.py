"""Certified bounds on the most that any policy can earn on a tiny system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.errors import ConfigurationError, is_finite_number, one_of
from llm_sched_env.exact.optimal_policy import OptimalPolicy
from llm_sched_env.exact.tiny_system import TinySystem, tiny_system
from llm_sched_env.exact.value_iteration import (
    LOST,
    OVERPAID,
    UNDERPAID,
    Converged,
    Sweep,
    iterate,
)
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.presets import resolve_instance

GPU_CHOICES = ("free", "random")
DEFAULT_TOLERANCE = 1e-7


@dataclass(frozen=True)
class Bounds:
    """A revenue rate between two bounds, currency per GPU and second."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """Halfway between them."""
        return (self.lower + self.upper) / 2


@dataclass(frozen=True, eq=False)
class Optimum:
    """The optimum of a tiny system over non-anticipating policies that see all counts and traffic.

    All rates are revenue per GPU and second.

    Attributes:
        system: the states.
        gpu_choice: ``free``, a decision names the GPU, or ``random``, it names what GPU it needs.
        bounds: the policy ``policy`` earns at least the lower one if it ignores requests that
            come to a full queue; no policy that lets at most ``decode_limit`` prefilled requests
            wait earns more than the upper one, whatever the lengths of its queues.
        any_buffer: no policy at all with these decisions earns more: R*, or a sharper bound
            where ``decode_limit`` is at least n B.
        fluid_bound: R*.
        policy: what the best policy does in each state.
        lower_solution: relative values behind the lower bound and the policy.
        sweeps: of the value iterations together.
    """

    system: TinySystem
    gpu_choice: str
    bounds: Bounds
    any_buffer: float
    fluid_bound: float
    policy: OptimalPolicy
    lower_solution: Converged
    sweeps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        system = self.system
        return {
            "instance": system.instance.name,
            "n_gpus": system.n_gpus,
            "pricing": system.pricing,
            "gpu_choice": self.gpu_choice,
            "queue_limit": system.queue_limit,
            "decode_limit": system.decode_limit,
            "states": system.n_states,
            "lower": self.bounds.lower,
            "upper": self.bounds.upper,
            "upper_any_buffer": self.any_buffer,
            "bound": self.fluid_bound,
            "share_of_bound": self.bounds.lower / self.fluid_bound,
            "sweeps": self.sweeps,
        }


def optimum(
    instance: Instance | str | Path | dict[str, object],
    n_gpus: int,
    pricing: str = "bundled",
    *,
    queue_limit: int = 10,
    decode_limit: int = 1,
    gpu_choice: str = "free",
    tolerance: float = DEFAULT_TOLERANCE,
) -> Optimum:
    """Solve the continuous-time Markov decision process of the model.

    Decisions are made at events: admit a waiting request to a GPU, place a prefilled one, in any
    order and number, or wait although something could be done. The controller sees all counts, and
    the state of a modulation of arrivals: where others do not, the optimum bounds what they could
    earn by guessing it. Lengths and patience are exponential. Not in the paper.

    Args:
        instance: an instance, a preset's name, a file or plain data; Markov.
        n_gpus: n; 1 to 3 in practice.
        pricing: ``bundled`` or ``separate``.
        queue_limit: K, requests of a class that wait for prefill before arrivals are cut off; the
            bounds close as it grows.
        decode_limit: prefilled requests that may wait, all classes together. More than one or two
            change little unless decodes are faster on mixed GPUs than on solo ones, or prefills are
            paid for (``separate``).
        gpu_choice: ``free`` or ``random``: admission to, or placement on, a uniformly random GPU
            of those that can take the request, solo and mixed ones told apart.
        tolerance: relative width at which a value iteration stops.

    Raises:
        ConfigurationError: for arguments out of range, too many states or no Markov instance.
        PlanError: if an iteration does not converge.

    Example:
        >>> from llm_sched_env.exact.shrunk import shrunk
        >>> from llm_sched_env.presets import base
        >>> found = optimum(shrunk(base(), batch_slots=2), n_gpus=1, queue_limit=5)
        >>> 0.0 < found.bounds.lower <= found.bounds.upper <= found.fluid_bound
        True
    """
    if gpu_choice not in GPU_CHOICES:
        raise ConfigurationError("gpu_choice", gpu_choice, one_of(GPU_CHOICES))
    tolerance = checked_tolerance(tolerance)
    instance = resolve_instance(instance)
    system = tiny_system(
        instance, n_gpus, pricing, queue_limit=queue_limit, decode_limit=decode_limit
    )
    fluid_bound = plan(instance, pricing).value
    random_gpu, n = gpu_choice == "random", system.n_gpus
    lower = iterate(Sweep(system, LOST, random_gpu=random_gpu), tolerance)
    upper = iterate(Sweep(system, OVERPAID, random_gpu=random_gpu), tolerance, lower.h)
    solutions = [lower, upper]
    any_buffer = fluid_bound
    if decode_limit >= n * instance.hardware.batch_slots:
        sweep = Sweep(system, OVERPAID, random_gpu=random_gpu, sells_decodes=True)
        solutions.append(iterate(sweep, tolerance, lower.h))
        any_buffer = min(fluid_bound, solutions[-1].greatest / n)
    return Optimum(
        system=system,
        gpu_choice=gpu_choice,
        bounds=Bounds(lower.least / n, min(fluid_bound, upper.greatest / n)),
        any_buffer=any_buffer,
        fluid_bound=fluid_bound,
        policy=OptimalPolicy(system, lower.choices, random_gpu),
        lower_solution=lower,
        sweeps=sum(solution.sweeps for solution in solutions),
    )


def rule_bounds(
    system: TinySystem,
    actions: np.ndarray,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    start: np.ndarray | None = None,
) -> Bounds:
    """What a rule earns per GPU and second, its queues without end.

    Args:
        system: the states.
        actions: WAIT or an action of `cluster_states` for each state, shape (R, M), as
            `count_rules` makes them; they may depend on which queues of prefill are empty, not on
            how long they are. Each uses a random GPU.
        tolerance: relative width at which a value iteration stops.
        start: relative values to start from, shape (R, M).
    """
    tolerance = checked_tolerance(tolerance)
    lower = iterate(Sweep(system, UNDERPAID, actions=actions), tolerance, start)
    upper = iterate(Sweep(system, OVERPAID, actions=actions), tolerance, lower.h)
    return Bounds(lower.least / system.n_gpus, upper.greatest / system.n_gpus)


def checked_tolerance(tolerance: float) -> float:
    """The tolerance, or an error unless 1e-12 <= tolerance <= 0.1."""
    if not is_finite_number(tolerance, positive=True) or not 1e-12 <= tolerance <= 0.1:
        raise ConfigurationError("tolerance", tolerance, "a number from 1e-12 to 0.1")
    return float(tolerance)
