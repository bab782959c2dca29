"""Serve requests in real time under any policy, and hold the run against its replay."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

from llm_sched_env.errors import (
    ConfigurationError,
    WorkerError,
    checked_integer,
    is_finite_number,
)
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import resolve_instance
from llm_sched_env.serving.logged_machine import LoggedMachine
from llm_sched_env.serving.machines import cache_tokens, serving_machine
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.serving.served import Decisions, served_run
from llm_sched_env.serving.served_instance import engine_instance, served_trace
from llm_sched_env.serving.shapes import DecoderShape, decoder_shape
from llm_sched_env.validation.served_run import ServedRun
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.trace import Trace
from llm_sched_env.workloads.traces import load_traces


@dataclass(frozen=True, eq=False)
class Served:
    """A run on engines.

    Attributes:
        evaluation: its result, as that of a simulated run; None if the run was stopped.
        error: what stopped it; None after Ctrl-C, or if nothing did.
        run: request by request, until its end or stop.
        iterations: of each GPU.
        decisions: the scheduler's, in order.
    """

    evaluation: Evaluation | None
    error: WorkerError | None
    run: ServedRun
    iterations: Sequence[Sequence[Iteration]]
    decisions: Decisions


class Server:
    """Engines, and the requests that they serve, under one policy after the other.

    Args:
        shape: of the decoder: a name, a ``config.json`` or a :class:`DecoderShape`.
        device: ``cpu`` or ``cuda``.
        instance: preset name, instance file, plain data or :class:`Instance`, as in
            :func:`llm_sched_env.evaluate`.
        hardware: what policies take an engine for, with its B and C: a hardware, a file of
            ``llmsched profile``, or a preset's name; default that of the instance. Starts are at
            boundaries in any case.
        trace: what arrives; default: what the instance generates. Patience is drawn for each
            request unless the trace has it.
        match_trace: as in :func:`llm_sched_env.evaluate`.
        workers: engines, each a GPU of the cluster; several have a process each, so a script that
            asks for them needs ``if __name__ == "__main__":`` around what it runs.
        seconds: how long a run lasts.
        seed: of weights, requests and patience.
        clock: ``wall``, or ``processor`` for one engine on a CPU that others use.

    Raises:
        ConfigurationError: for an argument that is not allowed.

    Example:
        >>> server = Server("tiny", instance=_example_instance(), seconds=0.5)
        >>> with server:
        ...     served = server.serve("fcfs-immediate")
        >>> served.evaluation.n_gpus, server.replayed(served, "fcfs-immediate") is None
        (1, True)
    """

    def __init__(
        self,
        shape: str | Path | DecoderShape,
        device: str = "cpu",
        *,
        instance: Instance | str | Path | dict[str, Any] = "base",
        hardware: Hardware | str | Path | None = None,
        trace: Trace | str | Path | Sequence[str | Path] | None = None,
        match_trace: bool = True,
        workers: int = 1,
        seconds: float = 60.0,
        seed: int = 0,
        clock: str = "wall",
    ) -> None:
        if not is_finite_number(seconds, positive=True):
            raise ConfigurationError("seconds", seconds, "a finite number of seconds > 0")
        self.seconds, self.seed = float(seconds), checked_integer("seed", seed, least=0)
        self.workers = checked_integer("workers", workers)
        self.instance = engine_instance(resolve_instance(instance), hardware)
        self._match_trace = match_trace and trace is not None
        if trace is None:
            trace = requests_of_run(self.instance, self.workers, self.seconds, self.seed)
        elif not isinstance(trace, Trace):
            trace = load_traces(trace)
        self.trace = served_trace(trace.until(self.seconds), self.instance, self.seed)
        self.machine = serving_machine(
            decoder_shape(shape),
            device,
            self.instance.only_hardware,
            cache_tokens(self.trace),
            workers=self.workers,
            clock=clock,
            seed=self.seed,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.machine.close()

    def serve(
        self, policy: Any, *, pricing: str = "bundled", begun: Callable[[], None] = lambda: None
    ) -> Served:
        """Serve the requests under a policy; takes :attr:`seconds` of real time.

        Args:
            policy: as in :func:`llm_sched_env.evaluate`.
            pricing: of the result.
            begun: called when all is loaded and the requests begin to come.

        Returns:
            The run; after Ctrl-C, or if an engine's process ends, what there is of it, without a
            result.

        Raises:
            WorkerError: if an engine fails before requests come.
        """
        self.machine.stream = None
        # Compiles or loads what the policy needs, so that nothing does in real time.
        self._evaluate(policy, LoggedMachine([[]] * self.workers, self._chunk_tokens), pricing)
        evaluation = error = None
        begun()
        try:
            with no_garbage_collection():
                evaluation = self._evaluate(policy, self.machine, pricing)
        except (KeyboardInterrupt, WorkerError) as stopped:
            if not self._has_begun:
                raise
            error = stopped if isinstance(stopped, WorkerError) else None
        self.machine.finish()
        iterations, events = self.machine.iterations, self.machine.events
        run = served_run(self.trace, iterations, events)
        return Served(evaluation, error, run, iterations, Decisions.of(events))

    def replayed(self, served: Served, policy: Any) -> int | None:
        """The first decision that differs when the scheduler sees the same iteration times again.

        Args:
            served: a whole run.
            policy: that of the run; one that decides by the clock of the wall will differ.

        Returns:
            Its number in ``served.decisions``; None: all are the same.
        """
        machine = LoggedMachine(served.iterations, self._chunk_tokens)
        self._evaluate(policy, machine, "bundled")
        return served.decisions.first_difference(Decisions.of(machine.events))

    @property
    def _has_begun(self) -> bool:
        return self.machine.stream is not None

    @property
    def _chunk_tokens(self) -> int:
        return self.instance.only_hardware.chunk_tokens

    def _evaluate(self, policy: Any, machine: Any, pricing: str) -> Evaluation:
        return evaluate(
            policy,
            self.instance,
            self.workers,
            pricing=pricing,
            horizon=self.seconds,
            warmup=0.0,
            replications=1,
            seed=self.seed,
            trace=self.trace,
            match_trace=self._match_trace,
            jobs=1,
            machine=machine,
        )


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Pauses of the collector would be counted as iterations."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _example_instance() -> Instance:
    """Light traffic of short requests, for the example above."""
    from llm_sched_env.presets import base

    given = base()
    classes = tuple(
        dataclasses.replace(c, prompt_tokens=20.0, output_tokens=5.0, arrival_rate=10.0)
        for c in given.classes
    )
    return dataclasses.replace(given, classes=classes)
