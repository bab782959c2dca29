"""Recorded traces cut in two by time: a part to train on, and one that is held out.

An episode of an environment is a stretch of the first part from a random moment on; what follows
its end is its beginning. Evaluations replay the second part whole, and policies know the first.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.scenario import ReplayedTrace, scenario
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.tasks.forms import Form
from llm_sched_env.tasks.replayed_controls import ReplayedIntervals, ReplayedRouting
from llm_sched_env.workloads.locations import DATA_VARIABLE, data_folders
from llm_sched_env.workloads.traces import Trace, load_traces


@dataclass(frozen=True)
class Replay(Form):
    """A trace in two halves.

    Args:
        name: of the trace, for messages.
        files: of the trace; they are in one folder and never shipped.
        cluster: a function that makes the instance whose hardware, prices, patience and deadlines
            the requests meet.
        n_gpus: cluster size of ``speed``; others see the requests faster or slower, so that the
            load of a GPU is the same.
        speed: how many times faster than recorded they arrive.
    """

    name: str
    files: tuple[str, ...]
    cluster: Callable[[], Instance]
    n_gpus: int
    speed: float

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """With the instance of the first half, unless somebody gives another."""
        known = self.known_instance(int(given["n_gpus"]))
        return {"instance": known, **given}

    def interval_control(
        self, configuration: IntervalConfiguration, n_clusters: int, threads: int
    ) -> IntervalControl:
        """Clusters that are sent parts of the first half."""
        part = self.part(configuration.cluster.n_gpus)
        return ReplayedIntervals(configuration, part, n_clusters, threads)

    def routing_control(
        self, configuration: RoutingConfiguration, n_clusters: int, threads: int
    ) -> RoutingControl:
        """Clusters that are sent parts of the first half."""
        part = self.part(configuration.cluster.n_gpus)
        return ReplayedRouting(configuration, part, n_clusters, threads)

    def requests(self, n_gpus: int) -> dict[str, Any]:
        """The second half, whole, for policies that know the first."""
        known, held_out = self.halves
        speed = self.speed_on(n_gpus)
        return {
            "instance": self.cluster(),
            "trace": held_out,
            "planned_on": known,
            "speed": speed,
            "horizon": float(math.ceil(held_out.duration / speed)),
            "warmup": 0.0,
        }

    def speed_on(self, n_gpus: int) -> float:
        """How many times faster than recorded the requests arrive at n GPUs."""
        return self.speed * n_gpus / self.n_gpus

    @property
    def halves(self) -> tuple[Trace, Trace]:
        """Both halves, each from its own time 0, as recorded; ConfigurationError without files."""
        return _halves(_paths(self.name, self.files))

    def known_instance(self, n_gpus: int) -> Instance:
        """What policies know: means and rates of the first half."""
        arguments = self.requests(n_gpus)
        served = scenario(
            arguments["instance"],
            n_gpus,
            "bundled",
            (),
            **{name: arguments[name] for name in ("trace", "planned_on", "speed")},
        )
        assert isinstance(served, ReplayedTrace)
        measured = served.measured(arguments["horizon"], 0.0, None)
        return served.planned(measured).instance

    def part(self, n_gpus: int) -> TracePart:
        """The first half as it arrives at n GPUs."""
        return TracePart(self.halves[0].at_speed(self.speed_on(n_gpus)))


class TracePart:
    """A trace that goes on with its beginning, from which stretches are drawn.

    Args:
        trace: which.
    """

    def __init__(self, trace: Trace) -> None:
        stream, count = trace.stream, len(trace)
        session, blocks = stream.session, trace.blocks
        if len(session) == 0:
            session = np.zeros(count, np.int64)
        if blocks is None:
            blocks = BlockLists(np.empty(0, np.int64), np.zeros(count + 1, np.int64))
        self._stream = stream._replace(session=session)
        self._blocks = blocks
        self.seconds = trace.positive_duration()

    def stretch(self, start: float, seconds: float) -> RequestStream:
        """What arrives in so many seconds from a moment on, which is its time 0."""
        own = self._stream.arrival_time
        laps = math.ceil((start + seconds) / self.seconds) + 1
        times = (self.seconds * np.arange(laps)[:, None] + own).ravel()
        first, last = np.searchsorted(times, (start, start + seconds))
        rows = np.arange(first, last) % len(own)
        own_classes, prompts, outputs = (column[rows] for column in self._stream[1:4])
        block_ids, block_starts = self._blocks.picked(rows).arrays
        return RequestStream(
            times[first:last] - start,
            own_classes,
            prompts,
            outputs,
            np.empty(0),
            self._stream.session[rows],
            block_ids,
            block_starts,
        )


@cache
def _halves(paths: tuple[Path, ...]) -> tuple[Trace, Trace]:
    trace = load_traces(paths)
    if trace.patience_seconds is not None:
        trace = dataclasses.replace(trace, patience_seconds=None)
    middle = trace.duration / 2.0
    return trace.window(0.0, middle), trace.window(middle)


def _paths(name: str, files: tuple[str, ...]) -> tuple[Path, ...]:
    for folder in data_folders():
        paths = tuple(folder / file for file in files)
        if all(path.is_file() for path in paths):
            return paths
    raise ConfigurationError(
        f"trace {name}",
        "no file",
        f"{' and '.join(files)} in ${DATA_VARIABLE}, ./data or ../shared/data",
        "download the trace (docs/traces.md says where it is) and name its folder there",
    )
