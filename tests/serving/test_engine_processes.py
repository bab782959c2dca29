"""Two engines in processes of their own: what they serve, and what is left when one dies."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from short_requests import short_instance

from llm_sched_env.errors import WorkerError
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.machine import Sent
from llm_sched_env.validation.served_run import COMPLETED

torch = pytest.importorskip("torch")

from llm_sched_env.serving.engine_settings import EngineSettings  # noqa: E402
from llm_sched_env.serving.serve import Server  # noqa: E402
from llm_sched_env.serving.shapes import SHAPES  # noqa: E402
from llm_sched_env.serving.shared_caches import (  # noqa: E402
    forget_cache,
    share_cache,
    take_cache,
)

# One at a time: they count what is in the shared memory of the machine.
pytestmark = pytest.mark.xdist_group("shared memory")

SECONDS = 4.0  # others may want the processors, too


def patient_instance() -> Instance:
    """Nobody leaves a line, so that requests are completed on a busy machine, too."""
    given = short_instance()
    classes = [dataclasses.replace(c, arrival_rate=10.0, patience_rate=0.0) for c in given.classes]
    return dataclasses.replace(given, classes=classes)


@pytest.fixture(scope="module")
def pair():
    with Server("tiny", instance=patient_instance(), seconds=SECONDS, workers=2) as made:
        yield made
    assert engines() == []


def tokens_alone(server: Server, request: int) -> list[int]:
    """What a request says if one engine of this process has nothing else to do."""
    hardware = server.instance.only_hardware
    sizes = (hardware.batch_slots, hardware.chunk_tokens, 1024)
    engine = EngineSettings(SHAPES["tiny"], "cpu", *sizes, seed=server.seed).engine()
    engine.begin(server.machine.stream)
    engine.join([Sent(request, is_prefill=True)], {})
    while not engine.iterate()[0]:
        pass
    engine.join([Sent(request, is_prefill=False)], {})
    while not engine.iterate()[1]:
        pass
    return engine.made[request]


def engines() -> list[str]:
    """Names of the processes of engines that run, among those that other tests may have."""
    names = [process.name for process in multiprocessing.active_children()]
    return [name for name in names if name.startswith("engine ")]


def shared_memory() -> list[str]:
    folder = Path("/dev/shm")
    return [p.name for p in folder.glob("llmsched_*")] if folder.is_dir() else []


def test_a_router_and_two_engines_serve_every_request_its_tokens(pair) -> None:
    assert len({os.getpid(), *pair.machine.processes}) == 3
    served = pair.serve("gate-and-route")
    assert served.error is None
    assert set(served.decisions.gpu.tolist()) == {0, 1}
    made = pair.machine.made()
    done = np.flatnonzero(served.run.outcome == COMPLETED)
    assert len(done) > 1
    assert [len(made[r]) for r in done] == served.run.output_tokens[done].tolist()
    assert pair.replayed(served, "gate-and-route") is None
    # Those whose cache went to the other engine say what they would have said where they began.
    places: dict[int, int] = {}
    moved = [
        request
        for request, gpu in zip(
            served.decisions.request.tolist(), served.decisions.gpu.tolist(), strict=True
        )
        if places.setdefault(request, gpu) != gpu
    ]
    moved = [r for r in moved if r in set(done.tolist())]
    assert moved
    assert all(made[r] == tokens_alone(pair, r) for r in moved[:5])
    # One clock: iterations of an engine follow each other, in the seconds of the run.
    for own in served.iterations:
        starts = np.array([i.start for i in own])
        ends = starts + [i.seconds for i in own]
        assert len(own) > 10
        assert (starts[1:] >= ends[:-1]).all()
        assert starts[0] >= 0.0
        told = np.array([i.end for i in own])
        assert (told[~np.isnan(told)] >= ends[~np.isnan(told)]).all()
    # They ran beside each other, not in turns.
    first, second = served.iterations
    assert any(
        a.start < b.start + b.seconds and b.start < a.start + a.seconds
        for a in first
        for b in second
    )
    pair.machine.finish()
    pair.machine.begin(pair.machine.stream)
    assert shared_memory() == []


@pytest.mark.extended
def test_a_killed_engine_ends_the_run_and_the_next_run_has_new_ones(pair) -> None:
    before = pair.machine.processes
    begun = threading.Event()

    def kill() -> None:
        begun.wait()
        while pair.machine.stream is None or min(map(len, pair.machine.iterations)) < 5:
            time.sleep(0.005)
        os.kill(before[1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    served = pair.serve("gate-and-route", begun=begun.set)
    killer.join()
    assert served.evaluation is None
    assert isinstance(served.error, WorkerError)
    said = str(served.error)
    assert said.startswith("engine 1: its process ended")
    assert "SIGKILL" in said
    assert "\n" not in said
    assert len(served.run) > 0
    assert pair.machine.made() == {}
    assert engines() == []
    assert shared_memory() == []
    again = pair.serve("fcfs-immediate")
    assert again.evaluation is not None
    assert not set(before) & set(pair.machine.processes)


@pytest.mark.extended
def test_an_engine_that_fails_says_why(pair) -> None:
    """A decode of a request that has no cache: the engine's own error, in a line."""
    machine = pair.machine
    machine.begin(pair.trace.stream)
    machine.start(0, [Sent(0, is_prefill=False)], 0.0)
    with pytest.raises(WorkerError, match=r"^engine 0: KeyError\(0\)$") as caught:
        machine.wait(30.0)
    assert "in the process of engine 0" in str(caught.value.__cause__)
    assert engines() == []


@pytest.mark.extended
def test_engines_end_when_their_router_forgets_them() -> None:
    """Nothing waits for them at the end of a program that never closed them."""
    from llm_sched_env.serving.engine_process import EngineProcess

    settings = EngineSettings(SHAPES["tiny"], "cpu", 2, 8, 128)
    engine = EngineProcess(settings, 0)
    engine.receive()
    process = engine.process
    begun = time.monotonic()
    engine.connection.close()
    process.join(20.0)
    assert process.exitcode == 0
    assert time.monotonic() - begun < 20.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_shared_cache_is_read_as_it_was_written(dtype) -> None:
    cache = torch.randn(2, 3, 2, 5, 4).to(dtype)[:, :, :, :3]
    name = f"llmsched_test_{os.getpid()}"
    share_cache(name, cache)
    into = torch.zeros(cache.shape, dtype=dtype)
    take_cache(name, into)
    assert torch.equal(into, cache)
    with pytest.raises(FileNotFoundError):
        take_cache(name, into)
    share_cache(name, cache)
    forget_cache(name)
    forget_cache(name)
    assert shared_memory() == []


def test_memory_that_is_not_there_is_one_line(monkeypatch) -> None:
    if not hasattr(os, "posix_fallocate") or not Path("/dev/shm").is_dir():
        pytest.skip("shared memory is reserved on Linux only")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WorkerError, match=r"expected room for it.*enlarge /dev/shm"):
        share_cache("llmsched_full", torch.zeros(3))
    assert shared_memory() == []
