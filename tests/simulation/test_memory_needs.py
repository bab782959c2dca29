"""What does not fit into memory is refused in one line before anything is allocated."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, InsufficientMemoryError
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.state import allocation, memory
from llm_sched_env.simulation.state.fresh_state import cluster_bytes, fresh_state

GB = 10**9


@pytest.mark.parametrize("n_gpus", [1, 7, 1000])
@pytest.mark.parametrize("latencies", [True, False])
def test_bytes_of_a_cluster_are_those_that_are_allocated(n_gpus, latencies):
    instance, rule = lse.presets.dolly15k(), DispatchRule()
    state = fresh_state(instance, rule, n_gpus, latencies=latencies)
    told = cluster_bytes(instance, rule, n_gpus, latencies=latencies)
    arrays = sum(array.nbytes for array in state)
    assert arrays <= told <= arrays + 64 * (len(state) + 1)
    owner = state.gpus
    while owner.base is not None:
        owner = owner.base
    assert told == owner.nbytes


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--policy", "trunk-reservation", "--gpus", "100000000"],
        ["evaluate", "--policy", "trunk-reservation", "--gpus", "99999999999999999999"],
        ["evaluate", "--policy", "fluid-mpc", "--gpus", "1000000000"],
        ["evaluate", "--policy", "trunk-reservation", "--replications", "1000000000"],
        ["evaluate", "--policy", "trunk-reservation", "--instance", "slots.json"],
        ["bench", "--scaling", "1000000000", "--gpus", "2", "--simulators", "floor"],
    ],
)
def test_too_much_is_one_line_with_what_is_needed_and_there(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda: 16 * GB)
    slots = lse.presets.base().to_dict()
    slots["hardware"]["batch_slots"] = 10**9
    (tmp_path / "slots.json").write_text(json.dumps(slots))
    if arguments[0] == "bench":
        arguments = [*arguments, "--runs", "1", "--seconds", "0.01"]
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert " need about " in err
    assert "16 GB are available; take fewer GPUs" in err


def test_environments_are_refused_before_they_are_allocated(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: GB // 10)
    monkeypatch.setattr(allocation.np, "zeros", lambda *_: pytest.fail("allocated"))
    instance, rule = lse.presets.base(), DispatchRule()
    with pytest.raises(InsufficientMemoryError, match=r"1 x 1,000,000 GPUs need about 2\.\d+ GB"):
        fresh_state(instance, rule, 1_000_000, latencies=False)


def test_stacked_clusters_count_all(monkeypatch):
    state = fresh_state(lse.presets.base(), DispatchRule(), 20, latencies=False)
    monkeypatch.setattr(memory, "available_bytes", lambda: GB)
    with pytest.raises(InsufficientMemoryError, match="1,000,000 x 20 GPUs"):
        allocation.stacked(state, 1_000_000)


def test_more_requests_than_their_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**15)
    with pytest.raises(ConfigurationError, match="at most 2,147,483,647"):
        fresh_state(lse.presets.base(), DispatchRule(), 200_000_000, latencies=False)


def test_what_is_available_is_told_by_the_system():
    available = memory.available_bytes()
    if available is None:
        pytest.skip("this system does not tell")
    assert 10**7 < available < 10**15


def test_the_error_comes_back_from_other_processes():
    import pickle

    error = InsufficientMemoryError("3 x 5 GPUs", 5 * GB, GB)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InsufficientMemoryError
    assert str(again) == str(error)


def test_memory_that_runs_out_all_the_same_is_one_line(run, monkeypatch):
    def exhausted(*_, **__):
        return np.zeros(1 << 58)

    monkeypatch.setattr("llm_sched_env.commands.plan.solve", exhausted)
    code, out, err = run("plan")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not enough memory (Unable to allocate 2.00 EiB" in err


def test_a_limit_of_the_process_counts():
    pytest.importorskip("resource")
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells how much of the limit is used")
    code = """
        import resource
        from llm_sched_env.simulation.state import memory
        before = memory.available_bytes()
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))
        assert memory.available_bytes() <= before * 1.1
        used = (1 << 40) - memory._of_limit()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), used + (1 << 28)))
        assert (1 << 27) < memory.available_bytes() <= 1 << 28
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
