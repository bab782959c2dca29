"""Short loads of an engine: requests of random lengths, served first come, first served."""

from __future__ import annotations

import dataclasses

import numpy as np

from llm_sched_env.calibration.iteration_log import request_seconds
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import base
from llm_sched_env.serving.clocks import Clock
from llm_sched_env.serving.engine import Engine
from llm_sched_env.serving.real_machine import Iteration, RealMachine
from llm_sched_env.serving.serve import no_garbage_collection
from llm_sched_env.serving.served_instance import PATIENT
from llm_sched_env.workloads.trace import Trace

_MANY = 2000  # requests
_SHORT_PROMPT = 0.3  # of requests: shorter than a chunk


class Loads:
    """Serves loads one after the other, as ``llmsched serve`` does.

    Args:
        engine: which serves.
        batch_slots: B.
        chunk_tokens: C.
        tokens: longest request, prompt and output.
        rng: of arrivals and lengths.
        clock: that measures.

    Attributes:
        iterations: so far, in order of time.
    """

    def __init__(
        self,
        engine: Engine,
        batch_slots: int,
        chunk_tokens: int,
        tokens: int,
        rng: np.random.Generator,
        clock: Clock,
    ) -> None:
        self._machine = RealMachine(engine, clock)
        self._instance = _instance(batch_slots, chunk_tokens)
        self._chunk_tokens, self._tokens, self._rng = chunk_tokens, tokens, rng
        self._capacity = 0.0  # requests a second
        self._served = 0.0  # seconds
        self.iterations: list[Iteration] = []

    def run(self, seconds: float, share: float) -> None:
        """Serve a load.

        Args:
            seconds: how long.
            share: of the rate that :meth:`find_capacity` has found.
        """
        self._serve(seconds, share * self._capacity)
        # One log in order of time: a run's time 0 is when the one before was over.
        begun, self._served = self._served, self._served + seconds + 1.0
        self.iterations += [
            dataclasses.replace(i, start=begun + i.start, end=begun + i.end)
            for i in self._machine.iterations[0]
            if np.isfinite(i.end)
        ]

    def find_capacity(self, seconds: float) -> None:
        """Serve many more requests than can be, and note none of it but how many were."""
        self._capacity = max(1, self._serve(seconds, _MANY / seconds)) / seconds

    def _serve(self, seconds: float, rate: float) -> int:
        """Serve arrivals of a rate; how many requests were completed."""
        trace = self._trace(rate, seconds)
        with no_garbage_collection():
            result = evaluate(
                "fcfs-immediate",
                self._instance,
                1,
                trace=trace,
                horizon=seconds,
                replications=1,
                machine=self._machine,
            )
        self._machine.finish()
        return result.requests["completed"]

    @property
    def mean_gap(self) -> float:
        """Mean seconds from an iteration to the next where work goes on: what the host does."""
        starts, lasted = (
            np.array([getattr(i, name) for i in self.iterations]) for name in ("start", "seconds")
        )
        contents = (i.content for i in self.iterations[1:])
        goes_on = np.array([c.decodes > 0 or c.prefill_context > 0 for c in contents], bool)
        waited = request_seconds(starts, lasted, goes_on)[0]
        return float(np.mean((waited - lasted)[:-1][goes_on])) if goes_on.any() else 0.0

    def _trace(self, rate: float, seconds: float) -> Trace:
        """Patient requests of random lengths; some prompts are shorter than a chunk."""
        rng, chunk = self._rng, self._chunk_tokens
        count = max(2, int(rate * seconds))
        room = self._tokens // 2
        prompts = np.minimum(room, 1 + rng.exponential(1.5 * chunk, count).astype(int))
        short = rng.random(count) < _SHORT_PROMPT
        prompts[short] = 1 + rng.integers(min(chunk, room), size=int(short.sum()))
        outputs = np.minimum(room, 1 + rng.exponential(self._tokens / 16, count).astype(int))
        times = np.sort(rng.uniform(0.0, seconds, count))
        times[0] = 0.0
        return Trace(
            ("load",),
            times,
            np.zeros(count, np.int32),
            prompts.astype(float),
            outputs.astype(float),
            patience_seconds=np.full(count, PATIENT),
            end=seconds,
        )


def _instance(batch_slots: int, chunk_tokens: int) -> Instance:
    given = base()
    hardware = dataclasses.replace(
        given.only_hardware, batch_slots=batch_slots, chunk_tokens=chunk_tokens, starts="boundary"
    )
    return dataclasses.replace(given, hardware=hardware)
