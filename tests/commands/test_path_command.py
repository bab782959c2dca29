"""``llmsched path``: fluid paths on the command line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import llm_sched_env as lse


def test_a_path_is_written_in_full_with_its_figure(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "new" / "path.csv"
    options = ("--horizon", 20, "--every", 3, "--router", "randomized", "--backlog", "1,0.5")
    code, text, err = run("path", *options, "--out", out)
    assert code == 0
    assert "fluid path of base, router randomized" in text
    assert "path.png" in " ".join(err.split())
    with out.open() as file:
        rows = list(csv.DictReader(file))
    times = [0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 20.0]
    assert [float(row["time"]) for row in rows] == times
    start = np.zeros((5, 2))
    start[0] = 1.0, 0.5
    exact = lse.fluid_path(lse.plan("base"), 20, router="randomized", start=start).at(times)
    found = [
        [float(row[f"y_solo {name}"]) for name in ("decode-heavy", "prefill-heavy")] for row in rows
    ]
    np.testing.assert_array_equal(found, exact.y_solo)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_path_from_the_plan_stays_there(run):
    data = json.loads(run("path", "--start", "plan", "--horizon", 5, "--json")[1])
    assert data["classes"] == ["decode-heavy", "prefill-heavy"]
    plan = lse.plan("base")
    for station in ("q_prefill", "x", "q_decode", "y_mixed", "y_solo"):
        np.testing.assert_allclose(data[station][-1], getattr(plan, station), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--horizon", "0"], "--horizon"),
        (["--every", "-1"], "--every"),
        (["--every", "1e-9"], "at least"),
        (["--router", "coupled"], "solo-first or randomized"),
        (["--start", "full"], "empty or plan"),
        (["--backlog", "1"], "2 numbers"),
        (["--backlog", "1,x"], "comma-separated"),
        (["--out", "path.txt"], "ends in .csv"),
        (["--slo", "speed@limit=1"], "service level"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(run, arguments, message, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err = run("path", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []
