"""Commands in copies of a process that has loaded everything, stopped at moments that are chosen.

A test asks :class:`Copies` to start commands. Behind it this file runs as a script: it loads the
package and the machine code once, and forks for each command, which so begins to work at once.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import Self

# In the background of a shell SIGINT is ignored, and whoever is started there inherits that.
HEARD = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Moment:
    """When a command is stopped, and how.

    Attributes:
        kind: ``before``, ``within`` or ``after`` the writing of a file: it gets a signal there;
            ``room``: the disk is full after so many bytes; ``limit``: no file may be longer
            (``ulimit -f``).
        number: the file, counted from 1, or the bytes.
        signal: that it gets.
    """

    kind: str
    number: int
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the signal that ended it.
        files: how many files it wrote whole.
        told: what it wrote to stderr.
    """

    code: int
    files: int
    told: str


class Copies:
    """Starts commands; use it as a context.

    Args:
        folder: for notes of the running commands.
        warm_up: command lines that load what the others need.
    """

    def __init__(self, folder: Path, *warm_up: list[str]) -> None:
        self._notes = folder
        self._started = 0
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(warm_up)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self._answer() == "ready"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()

    def start(self, *words: object, moment: Moment | None = None) -> Running:
        """Start a command: ``llmsched``'s, or others if the first word is ``research``."""
        self._started += 1
        notes = self._notes / str(self._started)
        request = {"words": [*map(str, words)], "notes": str(notes)}
        request["moment"] = None if moment is None else asdict(moment)
        return Running(int(self._ask(request)), notes, lambda n: int(self._ask({"wait": n})))

    def run(self, *words: object, moment: Moment | None = None) -> Ended:
        """The same, and wait for its end."""
        return self.start(*words, moment=moment).ended()

    def _ask(self, request: dict[str, Any]) -> str:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()


@dataclass(frozen=True)
class Running:
    """A command that has begun."""

    process: int
    notes: Path
    wait: Callable[[int], int]

    def ended(self) -> Ended:
        """Wait for its end."""
        code = self.wait(self.process)
        files = self.notes.with_suffix(".files")
        written = files.stat().st_size if files.exists() else 0
        return Ended(code, written, self.notes.with_suffix(".err").read_text("utf-8"))


class _Stops:
    """Counts the files that take their place, and stops this process at its moment."""

    def __init__(self, notes: Path, moment: dict[str, Any] | None) -> None:
        self._log = os.open(notes.with_suffix(".files"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self._written = 0
        self._moment = Moment(**moment) if moment is not None else Moment("never", 0)
        self._left = self._moment.number
        self._open, self._replace = Path.open, Path.replace

    def install(self) -> None:
        """Stand between this process and its files."""
        if self._moment.kind == "limit":
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (self._moment.number,) * 2)
        stops = self

        def opened(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
            file = stops._open(path, mode, *rest, **options)
            return _Written(file, stops) if "w" in mode else file

        def replaced(path: Path, target: Path) -> Path:
            stops.at("before")
            done = stops._replace(path, target)
            stops._written += 1
            os.write(stops._log, b".")
            stops.at("after", stops._written)
            return done

        Path.open = opened  # type: ignore[assignment, method-assign]
        Path.replace = replaced  # type: ignore[assignment, method-assign]

    def at(self, kind: str, number: int | None = None) -> None:
        """Stop if this is the moment; the number of a file that is being written is the next."""
        number = self._written + 1 if number is None else number
        if (kind, number) == (self._moment.kind, self._moment.number):
            os.kill(os.getpid(), self._moment.signal)

    def room(self, wanted: int) -> int:
        """How many of these bytes there is room for."""
        if self._moment.kind != "room":
            return wanted
        given = max(0, min(wanted, self._left))
        self._left -= given
        return given


class _Written:
    """A file of which half may be written when something happens."""

    def __init__(self, file: Any, stops: _Stops) -> None:
        self._file, self._stops = file, stops

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        """Half of it first."""
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._stops.at("within")
        rest = data[half:]
        if (room := self._stops.room(len(data))) < len(data):
            self._file.write(rest[: max(0, room - half)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file.write(rest)
        return len(data)


def _serve(warm_up: list[list[str]]) -> None:
    """Fork for each line of stdin; what commands print goes to files of their own."""
    answers = os.fdopen(os.dup(1), "w")
    for words in warm_up:
        assert _inside(words) == 0, words
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
        else:
            child = _fork(request["words"], Path(request["notes"]), request["moment"])
            print(child, file=answers, flush=True)


def _inside(words: list[str]) -> int:
    """Run a command in this process, silently; its exit code."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        return _command(words)


def _fork(words: list[str], notes: Path, moment: dict[str, Any] | None) -> int:
    if child := os.fork():
        return child
    code = 70
    try:
        os.setpgid(0, 0)
        for number in HEARD:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        for descriptor, suffix in ((1, ".out"), (2, ".err")):
            place = os.open(notes.with_suffix(suffix), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(place, descriptor)
        _Stops(notes, moment).install()
        code = _command(words)
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # noqa: BLE001 - a copy may not go on where the server is
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _command(words: list[str]) -> int:
    from llm_sched_env.cli import main, run

    try:
        if words[0] == "research":
            from research.__main__ import app

            run(app, "python -m research", words[1:])
        else:
            main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
