"""The time-varying scenarios that policies are compared in, with their bounds."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.planning import plan
from llm_sched_env.planning.arrival_paths import recorded_arrivals
from llm_sched_env.planning.slot_prices import critical_scale
from llm_sched_env.planning.traffic_bound import traffic_bound
from llm_sched_env.presets import (
    CHANGING_PRESETS,
    resolve_instance,
)
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.simulation import sample_requests
from llm_sched_env.workloads.locations import find_azure_2023
from llm_sched_env.workloads.traces import Trace, instance_from_trace, load_traces

REPLAY = "azure2023"
REPLAY_LOAD = 1.1
"""Mean load of the replayed part, of what can be served."""
_STEP_SECONDS = 4.0
# Answers of the class of code take a second.
_REPLAY_STEP_SECONDS = 1.0


class HeldOutReplay(NamedTuple):
    """A trace cut in two by time: what may be known, and what is replayed.

    Attributes:
        known: the first half.
        replayed: the second half, from its own time 0.
        speed: of both, so that the replayed part has the stated load.
    """

    known: Trace
    replayed: Trace
    speed: float

    @property
    def horizon(self) -> float:
        """Whole seconds until the last arrival."""
        return float(math.ceil(self.replayed.duration / self.speed))


def scenario_names() -> list[str]:
    """The presets, and the replay where its trace files are found."""
    return [*CHANGING_PRESETS, *([REPLAY] if find_azure_2023() else [])]


@cache
def _azure() -> Trace:
    return load_traces(find_azure_2023())


def held_out_replay(n_gpus: int) -> HeldOutReplay:
    """The Azure trace of 2023 on n GPUs: plan on the first half hour, replay the second."""
    trace = _azure()
    middle = trace.duration / 2
    known, replayed = trace.window(0.0, middle), trace.window(middle)
    recorded = instance_from_trace(replayed, n_gpus)
    return HeldOutReplay(known, replayed, REPLAY_LOAD * critical_scale(recorded))


def simulate_scenario(cell: dict[str, Any]) -> Evaluation:
    """A policy under a scenario.

    Args:
        cell: ``scenario``, ``policy``, ``n_gpus``, ``seed``, ``horizon``, ``warmup`` and
            ``replications``; a replay starts empty, is measured whole and has a horizon of its own.
    """
    shared = {name: cell[name] for name in ("policy", "n_gpus", "seed", "replications")}
    if cell["scenario"] != REPLAY:
        return evaluate(
            instance=cell["scenario"],
            horizon=cell["horizon"],
            warmup=cell["warmup"],
            **shared,
            jobs=1,
        )
    replay = held_out_replay(cell["n_gpus"])
    return evaluate(
        instance=REPLAY,
        trace=replay.replayed,
        planned_on=replay.known,
        speed=replay.speed,
        horizon=replay.horizon,
        **shared,
        jobs=1,
    )


def scenario_bounds(cell: dict[str, Any]) -> np.ndarray:
    """Hindsight bounds of a scenario's replications as shares of R*; shape (K,).

    Of the very requests that :func:`simulate_scenario` serves; for the replay, whose lengths are
    not exponential, an estimate.
    """
    n_gpus, count = cell["n_gpus"], cell["replications"]
    if cell["scenario"] == REPLAY:
        replay = held_out_replay(n_gpus)
        trace = replay.replayed.at_speed(replay.speed)
        instance = instance_from_trace(trace, n_gpus, seconds=(0.0, replay.horizon))
        path = recorded_arrivals(
            trace.arrival_time,
            trace.request_class,
            instance.n_classes,
            n_gpus,
            horizon=replay.horizon,
            seconds=_REPLAY_STEP_SECONDS,
        )
        return np.full(count, traffic_bound(instance, path) / plan(instance).value)
    instance, horizon = resolve_instance(cell["scenario"]), cell["horizon"]
    bounds = []
    for k in range(count):
        requests = sample_requests(instance, n_gpus, horizon, replication_seed(cell["seed"], k))
        path = recorded_arrivals(
            requests.arrival_time,
            requests.request_class,
            instance.n_classes,
            n_gpus,
            horizon=horizon,
            seconds=_STEP_SECONDS,
        )
        bounds.append(traffic_bound(instance, path, warmup=cell["warmup"]))
    return np.array(bounds) / plan(instance).value
