"""Fixtures of several test files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llm_sched_env.cli import main


@pytest.fixture
def run(capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
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
        # Workers import the study of these tests.
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        machine = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=machine)
        cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()
