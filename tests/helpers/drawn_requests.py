"""The requests that the engine draws: nobody is admitted, so all of them wait and can be read."""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import RequestStream

NOBODY = DispatchRule("credit", "solo-first", "dynamic")


def present_requests(cluster: Simulation) -> np.ndarray:
    """Records of the requests in a cluster, by order of arrival."""
    state = cluster.state
    used = np.ones(len(state.requests), bool)
    used[state.free_requests[: state.clock["free_size"][0]]] = False
    records = state.requests[used]
    return records[np.argsort(records["index"])]


def drawn_requests(instance: Instance, seconds: float, seed: int, n_gpus: int = 1) -> np.ndarray:
    """Records of all requests that arrive until a time, by order of arrival."""
    patient = tuple(dataclasses.replace(c, patience_rate=0.0) for c in instance.classes)
    cluster = Simulation(
        dataclasses.replace(instance, classes=patient),
        NOBODY,
        np.zeros(2 * instance.n_classes + 1),
        n_gpus,
        np.random.SeedSequence(seed),
    )
    cluster.run(seconds)
    records = present_requests(cluster)
    assert len(records) == cluster.metrics().counts["arrived"].sum()
    return records


def as_stream(records: np.ndarray) -> RequestStream:
    """The same requests as a recording."""
    names = ("arrival_time", "request_class", "prompt_tokens", "output_tokens")
    return RequestStream(*(records[name].copy() for name in names))
