"""``LLMSchedEvent-v0`` on engines: a step waits for the machine."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from llm_sched_env.envs.cluster_control import SavedState
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.serving.machines import cache_tokens, serving_machine
from llm_sched_env.serving.served_instance import engine_instance, served_trace
from llm_sched_env.serving.shapes import DecoderShape, decoder_shape
from llm_sched_env.simulation.machine_batch import MachineDecisionBatch
from llm_sched_env.simulation.simulation import sample_requests
from llm_sched_env.workloads.trace import Trace


class ServedControl(EventControl):
    """One cluster of engines, each a GPU, whose requests an agent admits and routes one by one.

    Each episode serves the requests that the simulator draws for its seed, in whole tokens, and
    lasts as long in real time. Requests are billed by their own tokens.

    Args:
        configuration: of the environment; starts are at boundaries in any case.
        shape: of the decoder: a name, a ``config.json`` or a :class:`DecoderShape`.
        device: ``cpu`` or ``cuda``.
        clock: ``wall``, or ``processor`` for one engine on a CPU that others use.

    Raises:
        ConfigurationError: for an argument that is not allowed, or a start that is not empty.

    Example:
        >>> import gymnasium as gym
        >>> import llm_sched_env
        >>> engine = {"shape": "tiny", "device": "cpu", "clock": "processor"}
        >>> arguments = {"instance": "overload", "n_gpus": 1, "pools": "dynamic", "horizon": 0.2}
        >>> env = gym.make(
        ...     "LLMSchedEvent-v0", backend="serving", backend_options=engine, **arguments
        ... )
        >>> observation, info = env.reset(seed=0)
        >>> truncated = False
        >>> while not truncated:
        ...     action = env.action_space.sample()
        ...     observation, reward, _, truncated, info = env.step(action)
        >>> info["time"]
        0.2
        >>> env.close()
    """

    def __init__(
        self,
        configuration: EventConfiguration,
        *,
        shape: str | Path | DecoderShape = "llama3-8b",
        device: str = "cuda",
        clock: str = "wall",
    ) -> None:
        if configuration.start != "empty":
            raise ConfigurationError("start", configuration.start, "empty: engines begin so")
        given = configuration.cluster
        instance = engine_instance(given.instance, None)
        configuration = dataclasses.replace(
            configuration, cluster=dataclasses.replace(given, instance=instance)
        )
        self._machine_of = partial(
            serving_machine,
            decoder_shape(shape),
            device,
            instance.only_hardware,
            workers=given.n_gpus,
            clock=clock,
        )
        trace = self._requests(configuration, np.random.SeedSequence(0))
        self._tokens = cache_tokens(trace)
        self.machine = self._machine_of(self._tokens)
        super().__init__(
            configuration,
            stream=trace.stream,
            batch_type=partial(MachineDecisionBatch, machine=self.machine),
        )

    def start(
        self,
        k: int,
        seed: np.random.SeedSequence,
        start: str | SavedState | None = None,
        end: float | None = None,
    ) -> None:
        """Begin an episode with requests of its own; time 0 is its first step."""
        if isinstance(start, SavedState):
            raise ConfigurationError("state", "a saved one", "none: engines begin empty")
        self.machine.finish()
        trace = self._requests(self.configuration, seed)
        if (needed := cache_tokens(trace)) > self._tokens:
            self.machine.close()
            self._tokens, self.machine = needed, self._machine_of(needed)
        cast(MachineDecisionBatch, self.batch).serve(trace.stream, self.machine)
        super().start(k, seed, start, end)

    def close(self) -> None:
        """The engines stop."""
        self.machine.close()

    @staticmethod
    def _requests(configuration: EventConfiguration, seed: np.random.SeedSequence) -> Trace:
        """Those of the simulator for this seed, and at least one, be it after the horizon."""
        instance, n_gpus = configuration.cluster.instance, configuration.cluster.n_gpus
        until = configuration.horizon
        while not len((drawn := sample_requests(instance, n_gpus, until, seed)).arrival_time):
            until *= 2.0
        names = tuple(c.name for c in instance.classes)
        return served_trace(Trace(names, *drawn[:4], end=until), instance, seed)
