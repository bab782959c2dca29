"""Long commands that are killed, interrupted or out of disk at any moment: docs/robustness.md.

What they leave is whole, and given again they end with what they would have written at once.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_copies import Copies, Ended, Moment
from folder_content import folder_content, parts

if not hasattr(os, "fork"):
    pytest.skip("commands begin as copies of a process", allow_module_level=True)
pytest.importorskip("matplotlib")

# One process loads what all of them start from.
pytestmark = pytest.mark.xdist_group("interruptions")

TIMES = ["--horizon", "40", "--warmup", "10"]
CHATS = ["--instance", "chat-deadlines", "--gpu", "h100-llama3-8b-b128", "--share", "0.9"]
CHATS += [*TIMES, "--replications", "2", "--jobs", "1"]
COMPARED = ["--instance", "base", "--gpus", "2,3", "--policies", "gate-and-route,token-bucket"]
COMMANDS = {
    "compare": ["compare", *COMPARED, "--replications", "1", "--jobs", "1", *TIMES],
    "size": ["size", *CHATS, "--rate", "30"],
    "max-rate": ["size", *CHATS, "--gpus", "2", "--max-rate", "--policies", "EDF"],
    "tune": ["tune", *CHATS, "--rate", "30", "--gpus", "2", "--slots", "32,64", "--chunks", "512"],
    "experiment": ["research", "experiment", "shadow-prices", "--quick", "--jobs", "1"],
    "leaderboard": ["research", "leaderboard", "--quick", "--policies", "FI-WSP", "--jobs", "1"],
    # These begin anew, to the same files.
    "evaluate": ["evaluate", *COMPARED[:2], "--policy", "token-bucket", "--gpus", "2", *TIMES],
}
USUAL = "compare"
RESUMES = {"compare", "size", "max-rate", "tune", "experiment", "leaderboard"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Iterator[Copies]:
    """Copies of a process that has compiled, or loaded, the engine and drawn a figure."""
    first = str(tmp_path_factory.mktemp("first"))
    with Copies(tmp_path_factory.mktemp("notes"), [*COMMANDS[USUAL], "--out", first]) as started:
        yield started


class Whole:
    """What each command writes when nothing happens to it."""

    def __init__(self, copies: Copies, folder: Path) -> None:
        self._copies, self._folder = copies, folder
        self._known: dict[str, tuple[dict[str, Any], int, float]] = {}

    def __call__(self, command: str) -> tuple[dict[str, Any], int, float]:
        """Content, how many files, in how many seconds."""
        if command not in self._known:
            folder = self._folder / command
            begun = time.monotonic()
            ended = self._copies.run(*COMMANDS[command], "--out", folder)
            assert ended.code == 0, ended.told
            assert ended.files >= 3
            seconds = time.monotonic() - begun
            self._known[command] = folder_content(folder), ended.files, seconds
        return self._known[command]


@pytest.fixture(scope="module")
def whole(copies, tmp_path_factory) -> Whole:
    return Whole(copies, tmp_path_factory.mktemp("whole"))


def require_whole_files(folder: Path, wanted: dict[str, Any]) -> None:
    """What is there already is what will be there in the end."""
    for name, found in folder_content(folder).items():
        assert found == wanted[name], name


def require_the_rest(copies: Copies, command: str, folder: Path, wanted: dict[str, Any]) -> Ended:
    """The command given again ends with everything, and nothing else."""
    kept = len([name for name in folder_content(folder) if name.startswith("cells")])
    ended = copies.run(*COMMANDS[command], "--out", folder)
    assert ended.code == 0, ended.told
    assert folder_content(folder) == wanted
    assert parts(folder) == []
    assert ended.files == len(wanted) - kept
    return ended


def drawn(command: str, number: int) -> np.random.Generator:
    """Random numbers of a case: the same every time."""
    return np.random.default_rng([number, *command.encode()])


def killed_at(copies: Copies, whole: Whole, command: str, number: int, folder: Path) -> None:
    """Kill a command at a random file, or at a random time, and start it again."""
    wanted, files, seconds = whole(command)
    random = drawn(command, number)
    kind = ("before", "within", "after", "time")[number % 4]
    if kind == "time":
        running = copies.start(*COMMANDS[command], "--out", folder)
        time.sleep(random.uniform(0.0, 0.9) * seconds)
        os.kill(running.process, signal.SIGKILL)
        assert running.ended().code in (0, -signal.SIGKILL)
    else:
        moment = Moment(kind, int(random.integers(1, files + 1)))
        assert copies.run(*COMMANDS[command], "--out", folder, moment=moment).code == -9
        assert len(parts(folder)) == (kind != "after")
    require_whole_files(folder, wanted)
    require_the_rest(copies, command, folder, wanted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_comparison_goes_on_to_the_same_bytes(copies, whole, tmp_path, number) -> None:
    killed_at(copies, whole, USUAL, number, tmp_path / "out")


@pytest.mark.extended
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_killed_command_goes_on(copies, whole, tmp_path, command, number) -> None:
    killed_at(copies, whole, command, number, tmp_path / "out")


def full_at(copies: Copies, whole: Whole, command: str, number: int, folder: Path) -> None:
    """Let the disk be full after so many bytes, or files be limited; then make room."""
    wanted, _, _ = whole(command)
    random = drawn(command, number)
    sizes = [len(found) for found in wanted.values() if isinstance(found, bytes)]
    kind = ("room", "limit")[number % 2]
    # Of the whole folder, which has JSON besides; or of the longest file.
    most = sum(sizes) if kind == "room" else max(sizes)
    moment = Moment(kind, int(random.uniform(0.05, 0.95) * most))
    ended = copies.run(*COMMANDS[command], "--out", folder, moment=moment)
    assert ended.code == 2, ended.told
    line = ended.told.splitlines()[-1]
    reason = {"room": "No space left on device", "limit": "File too large"}[kind]
    assert f"cannot be written ({reason})" in line
    assert "Traceback" not in ended.told
    assert parts(folder) == []
    require_whole_files(folder, wanted)
    require_the_rest(copies, command, folder, wanted)


@pytest.mark.parametrize("number", range(1))
def test_a_full_disk_is_a_line_and_the_rest_follows(copies, whole, tmp_path, number) -> None:
    full_at(copies, whole, USUAL, number, tmp_path / "out")


@pytest.mark.extended
@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_on_a_full_disk(copies, whole, tmp_path, command, number) -> None:
    full_at(copies, whole, command, number, tmp_path / "out")


def interrupted_at(copies: Copies, whole: Whole, command: str, number: int, folder: Path) -> None:
    wanted, files, _ = whole(command)
    moment = Moment("after", 1 + number % files, signal.SIGINT)
    ended = copies.run(*COMMANDS[command], "--out", folder, moment=moment)
    assert ended.code == 130, ended.told
    line = ended.told.splitlines()[-1]
    program = "python -m research" if COMMANDS[command][0] == "research" else "llmsched"
    assert line.startswith(f"{program}: interrupted; "), ended.told
    assert "Traceback" not in ended.told
    if command in RESUMES:
        assert line.endswith(f"are kept in {folder / 'cells'}, the same command resumes")
    else:
        assert line.endswith("the same command starts anew")
    assert parts(folder) == []
    require_whole_files(folder, wanted)
    require_the_rest(copies, command, folder, wanted)


@pytest.mark.parametrize("number", range(1))
def test_ctrl_c_is_a_line_that_says_what_is_kept(copies, whole, tmp_path, number) -> None:
    interrupted_at(copies, whole, USUAL, number, tmp_path / "out")


@pytest.mark.extended
@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_of_every_command(copies, whole, tmp_path, command, number) -> None:
    interrupted_at(copies, whole, command, number, tmp_path / "out")


WHILE_LOADING = """
import signal, sys
from llm_sched_env.__main__ import main
class Interrupt:
    def find_spec(self, name, *_):
        if name == "llm_sched_env.cli":
            signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
main()
"""


def test_ctrl_c_while_the_package_loads_is_a_line() -> None:
    command = [sys.executable, "-c", WHILE_LOADING]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr == "llmsched: interrupted; the same command starts anew\n"


SMALL_DISK = """
set -e
mount -t tmpfs -o size=96k tmpfs "$1"
shift
folder=$1 kept=$2
shift 2
set +e
"$@" --out "$folder/out"; code=$?
cp -r "$folder/out" "$kept/before"
mount -o remount,size=64m "$folder"
"$@" --out "$folder/out" || exit 1
cp -r "$folder/out" "$kept/after"
exit $code
"""


@pytest.mark.extended
def test_a_disk_that_is_full_indeed(whole, tmp_path) -> None:
    """A file system of 96 kB in memory, which any user may mount where namespaces are allowed."""
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs tmpfs {disk}"
    if not shutil.which("unshare") or subprocess.run([*apart, mount], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    wanted, _, _ = whole(USUAL)
    words = [sys.executable, "-m", "llm_sched_env", *COMMANDS[USUAL]]
    ended = subprocess.run(
        [*apart, SMALL_DISK, "sh", disk, disk, tmp_path, *words],
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2, ended.stderr
    assert "report.html: cannot be written (No space left on device)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert parts(tmp_path / "before") == []
    require_whole_files(tmp_path / "before", wanted)
    assert folder_content(tmp_path / "after") == wanted


@pytest.mark.extended
def test_ctrl_c_in_a_terminal_with_several_processes(whole, tmp_path) -> None:
    """All processes of the group get the signal, and none says more than the line."""
    folder = tmp_path / "out"
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = heard + "from llm_sched_env.cli import main; main()"
    words = [*COMMANDS["size"][:-2], "--rate", "300", "--out", str(folder)]
    words[words.index("--jobs") + 1] = "2"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list(folder.glob("cells/*.json")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.splitlines()[-1].startswith("llmsched: interrupted; finished runs are kept in ")
    assert "Traceback" not in told
