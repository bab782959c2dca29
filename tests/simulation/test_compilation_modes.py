"""The engine's tests once more: with bounds checks, and, a few of them, without compilation.

Compiled code reads past the end of an array without a word; NUMBA_BOUNDSCHECK=1 makes it an
IndexError. NUMBA_DISABLE_JIT=1 runs the same functions as plain Python. ``make test-bounds`` runs
the whole suite with bounds checks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# The twin drives every rule through growth of records, ties, KV limits and changing rates.
WITH_BOUNDS = [
    "simulation/test_engine.py",
    "simulation/test_reference_simulator.py",
    "simulation/test_event_accounting.py",
    "simulation/test_corrected_rule.py::test_without_weights_it_is_trunk_reservation",
    "simulation/test_corrected_rule.py::test_rows_with_networks_of_their_own_run_as_if_alone",
]
WITH_BOUNDS_SUBSET = "not test_reference_simulator or (beyond and kv and decode-first)"
INTERPRETED = [
    "simulation/test_reference_simulator.py::test_same_log_beyond_the_markov_model",
    "simulation/test_engine.py::test_recorded_stream_is_served_and_billed_by_its_own_tokens",
    "simulation/test_engine.py::test_zero_token_requests_pass_through",
    "simulation/test_engine.py::test_snapshot_restores_the_future",
    "envs/test_event_env.py::test_a_small_case_by_hand",
    "envs/test_routing_env.py::test_a_small_case_by_hand",
    "simulation/test_corrected_rule.py::test_same_log_as_the_twin[1-kv-day-3-bundled]",
]
INTERPRETED_SUBSET = (
    "not beyond or (solo-first-static-decode and affine) or (randomized-static-decode and day)"
    " or (coupled and kv)"
)


def run_tests(files, subset, environment, cache):
    """Run pytest on its own with other settings of Numba and a cache of its own."""
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            *files,
            "-k",
            subset,
        ],
        cwd=TESTS,
        env={**os.environ, **environment, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert " passed" in result.stdout


@pytest.mark.extended
@pytest.mark.slow
def test_with_bounds_checks(tmp_path):
    run_tests(WITH_BOUNDS, WITH_BOUNDS_SUBSET, {"NUMBA_BOUNDSCHECK": "1"}, tmp_path)
    assert list(tmp_path.iterdir())  # compiled anew, not read from another cache


@pytest.mark.extended
@pytest.mark.slow
def test_without_compilation(tmp_path):
    run_tests(INTERPRETED, INTERPRETED_SUBSET, {"NUMBA_DISABLE_JIT": "1"}, tmp_path)
    assert not list(tmp_path.iterdir())  # nothing was compiled


def test_bounds_checks_reach_the_engine(tmp_path):
    """The switch does what the first test relies on: a wrong index of an entry point is caught."""
    code = (
        "import numpy as np\n"
        "from llm_sched_env.envs.actions import apply_actions\n"
        "apply_actions(np.ones((2, 1)), np.array([7]), 1, np.array([5]), np.zeros((2, 3)))"
    )
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "IndexError" in result.stderr
