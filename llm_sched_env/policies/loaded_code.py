"""Load or compile the engine before anything is timed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.presets import base
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation


@cache
def load_engine() -> None:
    """What a compiled rule runs in."""
    instance = base()
    controls = np.zeros(2 * instance.n_classes + 1)
    Simulation(instance, DispatchRule(), controls, 1, np.random.SeedSequence(0)).run(1.0)


@cache
def load_control(control: str) -> None:
    """What a policy in Python runs in, ``control`` being ``interval``, ``event`` or ``routing``."""
    seed = np.random.SeedSequence(0)
    if control == "interval":
        intervals = IntervalControl(IntervalConfiguration.validated(n_gpus=1, horizon=1.0))
        intervals.start(0, seed)
        intervals.report()
        intervals.step(intervals.plan_action[None], intervals.empty_report())
        return
    decisions: Any = (
        EventControl(EventConfiguration.validated(n_gpus=1, horizon=10.0))
        if control == "event"
        else RoutingControl(RoutingConfiguration.validated(n_gpus=1, horizon=10.0))
    )
    decisions.start(0, seed)
    report = decisions.report()
    while not decisions.truncated()[0]:
        first = int(np.flatnonzero(decisions.info(0, report)["action_mask"])[-1])
        report = decisions.empty_report()
        decisions.step([first], report)
