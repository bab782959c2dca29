"""``llmsched train`` and ``export``: what they write and refuse."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")


@pytest.mark.extended
def test_train_writes_its_curve_and_strips(tmp_path, run):
    """The smallest training there is: one rollout of the default."""
    folder = tmp_path / "run"
    code, out, _ = run("train", "--gpus", 2, "--steps", 1, "--out", folder, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["steps"] == 3200
    assert {"curve.csv"} <= {file.name for file in folder.iterdir()}
    assert set(result["held_out"]) >= {"score", "minus trunk-reservation", "minus token-bucket"}
    small = tmp_path / "small.zip"
    code, out, _ = run("export", folder / "agent.zip", "--out", small, "--json")
    assert code == 0
    assert json.loads(out)["bytes"] == small.stat().st_size < 100_000


def test_bad_options_are_one_line(tmp_path, run):
    for arguments, message in (
        (["train", "--variant", "dqn", "--out", tmp_path / "a"], "common-random-numbers"),
        (["export", "missing.zip", "--out", tmp_path / "a.zip"], "no such file"),
        (["export", "missing.zip", "--out", tmp_path / "a.txt"], ".zip file"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == []
