"""Fixtures of several test files, and which tests only ``make test-all`` runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_sched_env.cli import main
from llm_sched_env.cli import run as run_commands
from llm_sched_env.evaluation.executor import Executor

TESTS = Path(__file__).parent
# Where Ray's workers find what tests send them.
SENT = (TESTS.parent, TESTS / "helpers", TESTS / "evaluation", TESTS / "research")


# What compiles last, while workers compile what comes first and wait for each other.
WARM_UP = """
import gymnasium as gym
import llm_sched_env
for name in ("LLMSchedEvent-v0", "LLMSchedRouting-v0"):
    gym.make(name, n_gpus=2, horizon=5.0).reset(seed=0)  # it runs up to the first decision
"""


def pytest_sessionstart(session):
    """Compile the entries of agents at events and arrivals beside the first tests."""
    is_worker = hasattr(session.config, "workerinput")
    if is_worker or not session.config.getoption("numprocesses", None):
        return
    command = [sys.executable, "-c", WARM_UP]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    session.config.stash[_COMPILING] = subprocess.Popen(command, **quiet)


def pytest_sessionfinish(session):
    """A short session is over before it."""
    process = session.config.stash.get(_COMPILING, None)
    if process is not None:
        process.kill()
        process.wait()


_COMPILING = pytest.StashKey[subprocess.Popen]()


def pytest_collection_modifyitems(items):
    """Tests of research/ are extended unless they say that ``make test`` runs them, too.

    Those on Ray run in one process (``--dist loadgroup``), which starts the cluster once.
    """
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "ray_address" in item.fixturenames or parameters.get("way", "").startswith("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        if item.path.is_relative_to(TESTS / "research") and not item.get_closest_marker("core"):
            item.add_marker(pytest.mark.extended)


@pytest.fixture
def run(capsys):
    """Run ``llmsched`` in this process: exit code, stdout, stderr."""
    return _runner(capsys, main)


@pytest.fixture
def run_research(capsys):
    """Run ``python -m research`` in this process: exit code, stdout, stderr."""
    from research.__main__ import app

    return _runner(capsys, lambda words: run_commands(app, "python -m research", words))


def _runner(capsys, commands):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            commands(list(map(str, arguments)))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def ray_address():
    """Two machines, as far as Ray can tell, with a worker each."""
    pytest.importorskip("ray", reason="needs the extra ray")
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patched:
        for folder in SENT:
            patched.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        machine = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=machine)
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(params=["joblib-1", "joblib-2", pytest.param("ray-2", marks=pytest.mark.extended)])
def way(request):
    """Each way to spread computations."""
    backend, jobs = request.param.split("-")
    address = request.getfixturevalue("ray_address") if backend == "ray" else None
    return Executor(int(jobs), backend, address)
