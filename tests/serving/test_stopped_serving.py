"""``llmsched serve --workers 2`` stopped by Ctrl-C, kill and kill -9: whole files, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from short_requests import short_instance

from llm_sched_env.calibration.iteration_log import read_iteration_logs
from llm_sched_env.validation.served_files import read_served_run
from llm_sched_env.validation.served_run import COMPLETED

# One at a time: they count what is in the shared memory of the machine.
pytestmark = pytest.mark.xdist_group("shared memory")

if not Path("/proc/self/stat").is_file():
    pytest.skip("looks for processes in /proc", allow_module_level=True)

# In the background of a shell SIGINT is ignored, and whoever is started there inherits that.
AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from llm_sched_env.cli import main
main()
"""
FILES = ["decisions.csv", "iterations_0.csv", "iterations_1.csv", "requests.csv"]
WAIT = 60.0  # seconds, on a machine that does other things


class Serving:
    """The command, as the leader of a session of its own; it serves when this is made."""

    def __init__(self, folder: Path, *more: str) -> None:
        file = folder / "short.toml"
        short_instance().save(file)
        self.out = folder / "run"
        common = ("--instance", str(file), "--shape", "tiny", "--device", "cpu", "--workers", "2")
        words = ["serve", *common, "--out", str(self.out), "--seconds", "60", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-c", AS_IN_A_TERMINAL, *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stderr is not None
        assert "serving under" in self.process.stderr.readline()

    def wait_for_iterations(self) -> None:
        """Until each engine has computed for a while, however busy this machine is."""
        before = list(map(processor_seconds, self.engines()))
        assert len(before) == 2
        end = time.monotonic() + WAIT
        while min(np.subtract(list(map(processor_seconds, self.engines())), before)) < 0.5:
            assert time.monotonic() < end
            time.sleep(0.05)

    def members(self) -> list[int]:
        """Processes of the session that still run, but for the command itself."""
        return sorted(set(members(self.process.pid)) - {self.process.pid})

    def engines(self) -> list[int]:
        return [
            n for n in self.members() if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()
        ]

    def ended(self) -> tuple[int, str]:
        """Exit code and stderr; nothing that it started runs any more."""
        _, told = self.process.communicate(timeout=WAIT)
        end = time.monotonic() + WAIT
        while self.members() and time.monotonic() < end:
            time.sleep(0.05)
        assert self.members() == []
        shared = Path("/dev/shm")
        assert not shared.is_dir() or list(shared.glob("llmsched_*")) == []
        return self.process.returncode, told

    def require_whole_files(self) -> None:
        assert sorted(p.name for p in self.out.iterdir()) == FILES
        run = read_served_run(self.out / "requests.csv")
        assert (run.outcome == COMPLETED).any()
        assert np.nanmax(run.end) < WAIT
        for name in FILES[1:3]:
            assert len(read_iteration_logs([self.out / name])) > 10


def processor_seconds(process: int) -> float:
    """Of user and system."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def members(session: int) -> Iterator[int]:
    """Processes of a session that are no zombies."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *numbers = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(numbers[2]) == session and state not in "ZX":
                yield int(entry.name)


@pytest.fixture
def serve(tmp_path):
    made: list[Serving] = []

    def start(*more: str) -> Serving:
        made.append(Serving(tmp_path, *more))
        return made[-1]

    yield start
    for serving in made:
        for number in members(serving.process.pid):
            os.kill(number, signal.SIGKILL)


def test_ctrl_c_reaches_all_and_leaves_whole_files(serve) -> None:
    serving = serve("--policy", "gate-and-route")
    serving.wait_for_iterations()
    os.killpg(serving.process.pid, signal.SIGINT)  # as a terminal does
    code, told = serving.ended()
    assert code == 130, told
    assert "Traceback" not in told
    serving.require_whole_files()


@pytest.mark.extended
def test_a_polite_kill_of_the_router_ends_its_engines(serve) -> None:
    serving = serve("--policy", "gate-and-route")
    serving.wait_for_iterations()
    serving.process.send_signal(signal.SIGTERM)
    code, told = serving.ended()
    assert code == 130, told
    serving.require_whole_files()


@pytest.mark.extended
def test_an_engine_that_is_killed_ends_the_run_in_one_line(serve) -> None:
    serving = serve("--policies", "gate-and-route,fcfs-immediate")
    serving.wait_for_iterations()
    os.kill(serving.engines()[0], signal.SIGKILL)
    code, told = serving.ended()
    assert code == 2, told
    wrote, line = told.splitlines()
    assert wrote.startswith("wrote ")
    assert line.startswith("llmsched: engine ")
    assert "its process ended during the run (killed by SIGKILL)" in line
    serving.out /= "gate-and-route"
    serving.require_whole_files()


@pytest.mark.extended
@pytest.mark.parametrize(
    "seconds",
    [0.7, *(pytest.param(0.3 * k, marks=pytest.mark.extended) for k in range(10))],
)
def test_a_killed_router_leaves_whole_files_or_none(serve, tmp_path, seconds: float) -> None:
    """Of short runs one after the other, of which any may be on its way into its files."""
    names = ["gate-and-route", "fcfs-immediate", "round-robin", "least-loaded", "sjf"]
    serving = serve("--policies", ",".join(names), "--seconds", "0.3")
    time.sleep(seconds)
    serving.process.kill()
    code, _ = serving.ended()
    assert code in (0, -signal.SIGKILL)
    written = sorted(p for p in serving.out.rglob("*") if p.is_file())
    for path in written:
        if path.name == "requests.csv":
            read_served_run(path)
        elif path.name.startswith("iterations") and path.suffix == ".csv":
            assert path.read_text().startswith("start_seconds,")
            assert path.read_text().endswith("\n")
        elif path.name == "decisions.csv":
            assert path.read_text().endswith("\n")
        else:
            assert path.suffix == ".part", path
