"""Of processes that need the same machine code at the same time, one compiles it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from llm_sched_env.simulation.runtime.compiled import COMPILED

pytestmark = pytest.mark.skipif(not COMPILED, reason="nothing is compiled")

MODULE = """
from llm_sched_env.simulation.runtime.compiled import entry_point

@entry_point
def twice(x):
    return 2.0 * x
"""
SCRIPT = """
import sys
from numba.core import event
import small
print(small.twice._cache._cache_file._index_path, flush=True)
sys.stdin.readline()
with event.install_recorder("numba:compile") as recorder:
    value = small.twice(21.0)
begun = [e for _, e in recorder.buffer if e.is_start and e.data["dispatcher"] is small.twice]
print(value, len(begun))
"""


@pytest.fixture
def processes(tmp_path: Path):
    (tmp_path / "small.py").write_text(MODULE)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes)

    begun = [start() for _ in range(2)]
    yield begun
    for process in begun:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def test_one_compiles_and_the_other_loads(processes) -> None:
    indexes = {process.stdout.readline().strip() for process in processes}
    (index,) = indexes
    lock = FileLock(f"{index}.lock")
    Path(index).parent.mkdir(parents=True, exist_ok=True)
    with lock:  # as if a third process were at it
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert "another process compiles" in process.stderr.readline()
    said = [process.communicate()[0].split() for process in processes]
    assert [value for value, _ in said] == ["42.0", "42.0"]
    assert sorted(count for _, count in said) == ["0", "1"]
