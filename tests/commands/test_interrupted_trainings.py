"""Trainings that are killed, interrupted or out of disk go on to the same agents and rules."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_copies import Copies, Moment
from folder_content import folder_content, parts

if not hasattr(os, "fork"):
    pytest.skip("commands begin as copies of a process", allow_module_level=True)
pytest.importorskip("matplotlib")
pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")

pytestmark = [pytest.mark.extended, pytest.mark.xdist_group("interrupted trainings")]

RULE = ["research", "train-rule", "--instance", "overload", "--gpus", "2", "--seconds", "70"]
COMMANDS = {
    "train": ["train", "--instance", "overload", "--gpus", "2", "--steps", "9600"],
    "sweep": ["sweep", "--instance", "overload", "--gpus", "2", "--steps", "9600", "--jobs", "1"],
    "train-rule": [*RULE, "--generations", "40", "--jobs", "1"],
}
COMMANDS["sweep"] += ["--part-steps", "6400"]
FILES = {"train": "agent.zip", "train-rule": "training.npz"}


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Iterator[Copies]:
    """Copies of a process that has trained a little, and drawn the curve."""
    first = str(tmp_path_factory.mktemp("first") / "out")
    words = [*COMMANDS["train"][:-1], "100", "--out", first]
    with Copies(tmp_path_factory.mktemp("notes"), words) as started:
        yield started


@pytest.fixture(scope="module", params=COMMANDS)
def whole(request, copies, tmp_path_factory) -> tuple[str, dict[str, Any], int]:
    """A command, what it writes when nothing happens to it, and how many files on the way."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    ended = copies.run(*COMMANDS[request.param], "--out", folder)
    assert ended.code == 0, ended.told
    return request.param, folder_content(folder), ended.files


def go_on(copies: Copies, command: str, folder: Path, wanted: dict[str, Any]) -> None:
    """Give the command again, of ``train`` with ``--resume``: it ends as if never stopped."""
    words = COMMANDS[command]
    if command == "train" and (folder / "agent.zip").exists():
        words = ["train", *words[-2:], "--resume"]
    ended = copies.run(*words, "--out", folder)
    assert ended.code == 0, ended.told
    assert folder_content(folder) == wanted
    assert parts(folder) == []


@pytest.mark.parametrize("number", range(4))
def test_killed(copies, whole, tmp_path, number) -> None:
    command, wanted, files = whole
    random = np.random.default_rng([number, *command.encode()])
    kind = ("before", "within", "after")[number % 3]
    moment = Moment(kind, int(random.integers(1, files + 1)))
    folder = tmp_path / "out"
    assert copies.run(*COMMANDS[command], "--out", folder, moment=moment).code == -signal.SIGKILL
    folder_content(folder)  # whole: checkpoints and arrays can be read
    go_on(copies, command, folder, wanted)


@pytest.mark.parametrize("kind", ["room", "limit"])
def test_on_a_full_disk(copies, whole, tmp_path, kind) -> None:
    command, wanted, _ = whole
    folder = tmp_path / "out"
    moment = Moment(kind, {"room": 150_000, "limit": 20_000}[kind])
    ended = copies.run(*COMMANDS[command], "--out", folder, moment=moment)
    assert ended.code == 2, ended.told
    assert "cannot be written (" in ended.told.splitlines()[-1]
    assert "Traceback" not in ended.told
    assert parts(folder) == []
    go_on(copies, command, folder, wanted)


def test_ctrl_c(copies, whole, tmp_path) -> None:
    command, wanted, _ = whole
    folder = tmp_path / "out"
    moment = Moment("after", 1, signal.SIGINT)
    ended = copies.run(*COMMANDS[command], "--out", folder, moment=moment)
    assert ended.code == 130, ended.told
    line = ended.told.splitlines()[-1]
    assert f"are kept in {folder / FILES.get(command, '')}" in line
    assert line.endswith("goes on from there" if command == "train" else "resumes")
    go_on(copies, command, folder, wanted)
