"""Run independent computations in processes of this machine or on a Ray cluster.

Machines of a cluster need not share a file system: results return to the caller, who stores them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from llm_sched_env.errors import (
    ConfigurationError,
    LLMSchedError,
    WorkerError,
    checked_integer,
    one_of,
)
from llm_sched_env.evaluation.ray_cluster import connect_to_ray, installation_digest
from llm_sched_env.plugins.deprecated_names import renamed_attributes
from llm_sched_env.simulation.runtime.row_threads import available_processors

Task = TypeVar("Task")
Result = TypeVar("Result")

BACKENDS = ("joblib", "ray")


@dataclass(frozen=True)
class Executor:
    """How many computations run at the same time, and where; no result depends on it.

    Args:
        jobs: computations at the same time; None: as many as there are processors. One at a time
            with ``joblib`` runs in this process.
        backend: ``joblib``, processes of this machine, or ``ray``.
        ray_address: ``HOST:PORT`` of a cluster's head, ``auto`` (the cluster that this machine
            belongs to) or ``local`` (a new one of this machine). Default: the environment
            variable ``RAY_ADDRESS``, else ``auto`` where there is one, else ``local``.

    Raises:
        ConfigurationError: for a value that is not allowed, or ``ray`` where it is not installed.

    Example:
        >>> Executor(jobs=1).in_order(abs, [-1, -2])
        [1, 2]
    """

    jobs: int | None = None
    backend: str = "joblib"
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None:
            checked_integer("jobs", self.jobs)
        if self.backend not in BACKENDS:
            raise ConfigurationError("backend", self.backend, one_of(BACKENDS))
        if self.ray_address is not None and self.backend != "ray":
            raise ConfigurationError(
                f"`ray_address` needs backend='ray', got backend={self.backend!r}."
            )
        if self.backend == "ray" and find_spec("ray") is None:
            raise ConfigurationError(
                "The backend 'ray' needs the extra of this name; install it with "
                "`pip install 'llm-sched-env[ray]' -c constraints.txt`."
            )

    @property
    def threads(self) -> int:
        """Threads that each computation may use, so that all together use the processors."""
        if self.backend == "ray":
            return 1
        return max(1, available_processors() // (self.jobs or available_processors()))

    def connect(self) -> None:
        """Find or start the Ray cluster now: :meth:`run` does it otherwise.

        Raises:
            ConfigurationError: where no cluster answers.
        """
        if self.backend == "ray":
            connect_to_ray(self.ray_address, self.jobs)

    def run(
        self, compute: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[int, Result]]:
        """Results as they come, each with the number of its task.

        Args:
            compute: of one task; it, tasks and results are pickled unless one process does all.
            tasks: started in this order.

        Raises:
            LLMSchedError: the first one that a computation raised. Nothing is started then, and
                what was running is yielded before.
            WorkerError: if a process ended without a result.
        """
        pending = _Pending(tasks)
        spread = self._on_ray if self.backend == "ray" else self._in_processes
        for number, outcome in spread(_Guarded(compute), pending):
            if isinstance(outcome, LLMSchedError):
                pending.stop(outcome)
            else:
                yield number, outcome
        if pending.error is not None:
            raise pending.error

    def in_order(self, compute: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """All results, in the order of the tasks; raises as :meth:`run` does."""
        return [result for _, result in sorted(self.run(compute, tasks), key=lambda pair: pair[0])]

    def _in_processes(
        self, guarded: _Guarded[Task, Result], pending: _Pending[Task]
    ) -> Iterator[tuple[int, Result | LLMSchedError]]:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        parallel = Parallel(
            n_jobs=self.jobs or available_processors(),
            batch_size=1,
            pre_dispatch="n_jobs",  # what was not handed over can be held back after an error
            return_as="generator_unordered",
        )
        try:
            yield from parallel(delayed(guarded)(*task) for task in pending)
        except TerminatedWorkerError:
            raise WorkerError(_LOST) from None

    def _on_ray(
        self, guarded: _Guarded[Task, Result], pending: _Pending[Task]
    ) -> Iterator[tuple[int, Result | LLMSchedError]]:
        # joblib's backend for Ray cannot give results as they come (return_as), its tasks can.
        import ray

        self.connect()
        at_once = self.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # Sent to each machine once. Where a machine is lost, Ray runs its tasks again.
        shared = ray.put(guarded)
        on_worker: Any = ray.remote(num_cpus=1)(_run_on_worker)
        package = _package_of(guarded.compute)
        installed = installation_digest(package)
        running: list[Any] = []
        waiting = iter(pending)
        while True:
            for task in waiting:
                running.append(on_worker.remote(package, installed, shared, *task))
                if len(running) == at_once:
                    break
            if not running:
                return
            finished, running = ray.wait(running)
            try:
                yield ray.get(finished[0])
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError as error:
                raise WorkerError(f"{_LOST} ({type(error).__name__})") from None


_LOST = "a worker ended without a result: was it killed, or out of memory?"


class _Pending(Generic[Task]):
    """Numbered tasks until one has failed; the first error is stored."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = tasks
        self.error: LLMSchedError | None = None

    def __iter__(self) -> Iterator[tuple[int, Task]]:
        for numbered in enumerate(self._tasks):
            if self.error is not None:
                return
            yield numbered

    def stop(self, error: LLMSchedError) -> None:
        """Hand out no further task."""
        self.error = self.error or error


class _Guarded(Generic[Task, Result]):
    """A computation that returns this package's errors, so that other results survive."""

    def __init__(self, compute: Callable[[Task], Result]) -> None:
        self.compute = compute

    def __call__(self, number: int, task: Task) -> tuple[int, Result | LLMSchedError]:
        try:
            return number, self.compute(task)
        except LLMSchedError as error:
            return number, error


def _package_of(function: Callable[..., Any]) -> str:
    """The top-level package or module in which a function is defined."""
    inner = function.func if isinstance(function, partial) else function
    return str(getattr(inner, "__module__", "")).partition(".")[0]


def _run_on_worker(
    package: str, installed: str, guarded: _Guarded[Task, Result], number: int, task: Task
) -> tuple[int, Result | LLMSchedError]:
    """What a worker of Ray runs, with the same code as the process that asks."""
    if installation_digest(package) != installed:
        return number, WorkerError(
            f"worker on {platform.node()}: got other sources or versions than here; "
            "install the same llm-sched-env, numpy, numba and scipy there"
        )
    return guarded(number, task)


__getattr__ = renamed_attributes(globals(), Spreading="Executor")
