"""The real cluster of a day, and simulators of it that are right or wrong."""

from __future__ import annotations

import dataclasses

from llm_sched_env.adaptation.simulated_hours import at_two_speeds
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import load_hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import resolve_instance

RIGHT, TWO_SPEED = "right", "two-speed"
SIMULATORS = (RIGHT, TWO_SPEED, "h100-llama2-7b", "a100-llama3-8b")
"""That are compared by default."""
LOADS = (0.5, 0.75, 1.0, 1.25)
"""Of the hours of a day, as factors of the instance's arrival rates."""
DAY = (0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 3, 3, 2, 2, 3, 3, 3, 2, 2, 2, 1, 1, 1, 0)
"""Which load each hour has, from midnight."""
_DEADLINES = {
    "chat": Deadlines(ttft_seconds=1.0, tpot_seconds=0.03),
    "documents": Deadlines(ttft_seconds=3.0, tpot_seconds=0.03),
    "reasoning": Deadlines(ttft_seconds=3.0, tpot_seconds=0.03),
}


def default_cluster() -> Instance:
    """The preset ``h100-chat``, whose users stop caring when an answer is late."""
    plain = resolve_instance("h100-chat")
    classes = tuple(dataclasses.replace(c, deadlines=_DEADLINES[c.name]) for c in plain.classes)
    return dataclasses.replace(plain, name="h100-chat with deadlines", classes=classes)


def simulator_of(real: Instance, name: str) -> Instance:
    """What a simulator takes the cluster for.

    Args:
        real: the cluster as it is.
        name: ``right``; ``two-speed``: the real speeds of full batches, whatever the batch; or a
            hardware file or preset: another GPU's.

    Raises:
        ConfigurationError: for a hardware that does not exist.
    """
    if name == RIGHT:
        return real
    if name == TWO_SPEED:
        return at_two_speeds(real)
    return dataclasses.replace(real, hardware=load_hardware(name))
