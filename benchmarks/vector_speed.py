"""Measure intervals per second of the native vector environment and of Gymnasium's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from llm_sched_env.benchmarks.rounds import Spread, Work, pinned, ratio_spread, speeds
from llm_sched_env.envs.actions import apply_actions
from llm_sched_env.envs.interval_env import LLMSchedEnv
from llm_sched_env.envs.observation_kernels import BUNDLED, read_clusters
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.engine import advance
from llm_sched_env.simulation.runtime.row_claims import packed
from llm_sched_env.simulation.state.layout import EVENT

NUM_ENVS, N_GPUS = 64, 20
_BASELINE = "SyncVectorEnv"
_FIRST_STEPS = 1.0
# An interval in which the engine has nothing to do: a step costs its Python part.
_IDLE_INTERVAL, _IDLE_HORIZON = 1e-9, 1.0
_MICROSECONDS = 1e6

AnyVectorEnv = VectorEnv[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class VectorRow:
    """Environment steps per second of one way to step N environments.

    Attributes:
        environment: its name.
        num_envs: N.
        n_gpus: cluster size of each.
        runs: how many.
        median: environment steps per second, N of them in a vector step.
        least: of the runs.
        greatest: of the runs.
        ratio: this median over that of ``SyncVectorEnv``.
        ratio_least: the least ratio within a round.
        ratio_greatest: the greatest.
    """

    environment: str
    num_envs: int
    n_gpus: int
    runs: int
    median: float
    least: float
    greatest: float
    ratio: float
    ratio_least: float
    ratio_greatest: float


def measure_vector(
    instance: Instance,
    runs: int = 5,
    seed: int = 0,
    seconds: float = 0.5,
    num_envs: int = NUM_ENVS,
    n_gpus: int = N_GPUS,
    on_run: Callable[[str], None] | None = None,
) -> list[VectorRow]:
    """Environment steps per second under the fluid plan's action, episode resets included.

    Simulators that use one thread share one CPU, the other has two.
    """

    def native(threads: int) -> AnyVectorEnv:
        return LLMSchedVectorEnv(num_envs, n_gpus=n_gpus, instance=instance, threads=threads)

    def single() -> LLMSchedEnv:
        return LLMSchedEnv(n_gpus=n_gpus, instance=instance)

    works: dict[str, Work] = {
        "native, 1 thread": _stepping(lambda: native(1), seed, 1),
        "native, 2 threads": _stepping(lambda: native(2), seed, 2),
        _BASELINE: _stepping(lambda: SyncVectorEnv([single] * num_envs), seed, 1),
    }
    measured = speeds(works, runs, seconds, _FIRST_STEPS, on_run)
    rows = []
    for name in works:
        speed = Spread.of(measured[name])
        ratio = ratio_spread(measured[name], measured[_BASELINE])
        rows.append(VectorRow(name, num_envs, n_gpus, runs, *astuple(speed), *astuple(ratio)))
    return rows


def measure_api_overhead(
    instance: Instance,
    runs: int = 5,
    seed: int = 0,
    seconds: float = 0.5,
    num_envs: int = NUM_ENVS,
    n_gpus: int = N_GPUS,
) -> Spread:
    """Microseconds of a vector step that are not spent in compiled code.

    A step in which nothing happens, less its calls into compiled code with the same arrays.
    """
    with pinned():
        envs = LLMSchedVectorEnv(
            num_envs,
            threads=1,
            n_gpus=n_gpus,
            instance=instance,
            interval=_IDLE_INTERVAL,
            horizon=_IDLE_HORIZON,
        )
        envs.reset(seed=seed)
    works = {"step": _stepping(lambda: envs, seed, 1), "compiled": _compiled_calls(envs)}
    measured = speeds(works, runs, seconds, _FIRST_STEPS)
    return Spread.of(
        [
            _MICROSECONDS * (num_envs / step - 1.0 / compiled)
            for step, compiled in zip(measured["step"], measured["compiled"], strict=True)
        ]
    )


def _compiled_calls(envs: LLMSchedVectorEnv) -> Work:
    """The calls into compiled code of a vector step in which nothing happens."""
    control, n = envs.control, envs.num_envs
    actions = _plan_actions(envs).astype(float)
    report = control.empty_report()
    claims, until, status = np.zeros(2, np.int64), control.times(), np.zeros(n, np.int64)
    logs, revenue = np.zeros((n, 0), EVENT), np.zeros((n, 2))
    n_classes, arrived = report.arrivals.shape[1], np.zeros_like(report.arrivals)
    controls, controlled = control.batch.controls.copy(), control.configuration.controlled
    n_gpus = control.cluster.n_gpus
    yes = True

    def call(amount: float) -> float:
        steps = max(1, round(amount))
        clusters, arrivals = control.batch.clusters, control.batch.arrivals
        with pinned():
            for _ in range(steps):
                apply_actions(actions, controlled, n_classes, np.array([n_gpus]), controls)
                claims[:] = packed(1, 0, n), 0
                advance(
                    clusters,
                    arrivals,
                    logs,
                    controls,
                    yes,
                    until,
                    status,
                    claims,
                    1,
                    0,
                    n,
                )
                read_clusters(
                    clusters,
                    BUNDLED,
                    1.0,
                    revenue,
                    arrived,
                    report.observations,
                    revenue,
                    arrived,
                    report.terms,
                    report.rewards,
                    report.arrivals,
                    0,
                    n,
                )
        return float(steps)

    return call


def _stepping(build: Callable[[], AnyVectorEnv], seed: int, n_cpus: int) -> Work:
    """Vector steps of an environment on so many CPUs; counts the steps of its parts."""
    with pinned(n_cpus):
        envs = build()
        envs.reset(seed=seed)
        actions = _plan_actions(envs)
        envs.step(actions)

    def step(amount: float) -> float:
        steps = max(1, round(amount))
        with pinned(n_cpus):
            for _ in range(steps):
                envs.step(actions)
        return float(steps * envs.num_envs)

    return step


def _plan_actions(envs: AnyVectorEnv) -> np.ndarray:
    """The fluid plan as the action of every environment."""
    if isinstance(envs, LLMSchedVectorEnv):
        action = envs.control.plan_action
    elif isinstance(envs, SyncVectorEnv):
        action = envs.get_attr("plan_action")[0]
    else:
        raise ConfigurationError("envs", envs, "a vector of LLMSchedEnv")
    return np.tile(action, (envs.num_envs, 1))
