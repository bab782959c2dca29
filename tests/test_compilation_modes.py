"""The engine's tests once more: with bounds checks, and, a few of them, without compilation.

Compiled code reads past the end of an array without a word; NUMBA_BOUNDSCHECK=1 makes it an
IndexError. NUMBA_DISABLE_JIT=1 runs the same functions as plain Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

WITH_BOUNDS = ["test_engine.py", "test_twin.py", "test_envs.py"]
# Each gate, router and kind of pools once; a run of plain Python takes seconds.
SUBSET = "(beyond and kv) or (ties and 0.5) or by_hand or zero_token or snapshot"
INTERPRETED = [
    "test_twin.py::test_same_log_when_controls_change",
    "test_engine.py::test_recorded_stream_is_served_and_billed_by_its_own_tokens",
    "test_engine.py::test_zero_token_requests_pass_through",
    "test_engine.py::test_snapshot_restores_the_future",
    "test_engine.py::test_start_at_the_plan_fills_the_cluster",
]


def run_tests(arguments, environment, tmp_path):
    """Run pytest on its own with other settings of Numba and a cache of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *arguments],
        cwd=TESTS,
        env={**os.environ, **environment, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    return result.stdout


@pytest.mark.slow
def test_with_bounds_checks(tmp_path):
    out = run_tests([*WITH_BOUNDS, "-k", SUBSET], {"NUMBA_BOUNDSCHECK": "1"}, tmp_path)
    assert " passed" in out


@pytest.mark.slow
def test_without_compilation(tmp_path):
    out = run_tests(INTERPRETED, {"NUMBA_DISABLE_JIT": "1"}, tmp_path)
    assert " passed" in out
    assert not list(tmp_path.iterdir())  # nothing was compiled


@pytest.mark.parametrize("place", [-1, 7])
def test_bounds_checks_would_catch_a_wrong_index(place, tmp_path):
    """The switch does what the first test relies on."""
    code = (
        "import numpy as np; from llm_sched_env.simulation.compiled import compiled, entry_point\n"
        "from numba import njit\n"
        f"print(njit(lambda a, k: a[k + 10])(np.zeros(3), {place}))"
    )
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "IndexError" in result.stderr
