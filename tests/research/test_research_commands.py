"""``python -m research``: its commands, and one clear line for bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-rule", "--out", "x", "--instance", "base", "--gpus", "99999999999"], "at most"),
        (["train-rule", "--out", "x", "--initial", "none.json"], "no such file"),
        (["train-study", "everything", "--out", "x"], "variants, scale or scratch"),
        (["experiment", "nothing", "--out", "x"], "nothing"),
        (["leaderboard", "--agents", "none.zip", "--out", "x"], "none.zip"),
        (["compare", "--out", "x"], "No such command"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run_research, arguments, message, tmp_path, monkeypatch
):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_research(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("python -m research: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help_with_an_example(run_research):
    for command in ("experiment", "leaderboard", "train-rule", "train-study"):
        code, out, _ = run_research(command, "--help")
        assert code == 0
        assert f"Example: python -m research {command}" in " ".join(out.split())


def test_the_commands_have_left_the_package(run):
    for command in ("experiment", "leaderboard", "train-rule", "train-study"):
        code, out, err = run(command)
        assert (code, out) == (2, "")
        assert f"No such command '{command}'" in err


def test_module_entry_point():
    command = [sys.executable, "-m", "research", "experiment", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "convergence" in done.stdout
