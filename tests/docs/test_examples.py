"""The scripts of examples/ run, and show what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_says_what_it_shows_and_runs_only_when_asked(path):
    if path.stem in {"train_ppo", "single_file_ppo"}:
        pytest.importorskip("stable_baselines3", reason="needs the extra agents")
    module = runpy.run_path(str(path))
    assert f"examples/{path.name}" in module["__doc__"]
    assert callable(module["main"])


def test_own_scheduler(capsys):
    main_of("own_scheduler")(horizon=120.0, warmup=60.0)
    scores = dict(re.findall(r"^(\S+) +([\d.]+) of R", capsys.readouterr().out, re.MULTILINE))
    assert list(scores) == ["ThrottleWhenFull", "gate-and-route", "trunk-reservation"]
    assert float(scores["ThrottleWhenFull"]) > float(scores["gate-and-route"])


def test_plan_and_prices_predict(capsys):
    main_of("plan_and_prices")("overload")
    lines = re.findall(r"earn (\S+); its shadow price says (\S+)", capsys.readouterr().out)
    assert len(lines) == 2
    assert all(gain == predicted for gain, predicted in lines)
    assert any(float(gain) > 1.0 for gain, _ in lines)


def test_replay_trace(capsys, tmp_path):
    module = runpy.run_path(str(EXAMPLES / "replay_trace.py"))
    module["main"]([str(module["recorded_bursts"](tmp_path))])
    out = capsys.readouterr().out
    assert out.startswith("1391 requests")
    assert len(re.findall(r"[\d.]+ of R\*, TTFT p99", out)) == 2


@pytest.mark.extended
def test_size_cluster(capsys):
    main_of("size_cluster")(rate=6.0, horizon=60.0)
    out = capsys.readouterr().out
    once, twice = (int(n) for n in re.findall(r"take (\d+) h100", out))
    assert 1 <= once <= twice
    assert len(re.findall(r"ruled out", out)) == 2


def test_first_look(capsys, tmp_path):
    picture = tmp_path / "cluster.png"
    main_of("first_look")(str(picture), seconds=60.0)
    scores = dict(
        re.findall(r"^(\S+(?: actions)?) +([\d.]+) of R", capsys.readouterr().out, re.MULTILINE)
    )
    assert list(scores) == ["random actions", "fcfs-immediate", "trunk-reservation"]
    assert 0.0 < float(scores["random actions"]) < float(scores["trunk-reservation"])
    with Image.open(picture) as image:
        assert image.size == (960, 540)


@pytest.mark.extended
def test_train_ppo(capsys):
    pytest.importorskip("stable_baselines3", reason="needs the extra agents")
    main_of("train_ppo")(steps=8_000)
    out = capsys.readouterr().out
    scores = dict(re.findall(r"^(\S+) +([\d.]+) of R", out, re.MULTILINE))
    assert list(scores) == ["agent.zip", "fcfs-immediate", "trunk-reservation"]
    assert float(scores["agent.zip"]) > 0.3
    assert re.search(r"\d+ steps: [\d.]+ of R", out)


def test_calibrate_and_validate(capsys):
    """The fit finds the law of its engine, and predicts a busier run."""
    module = runpy.run_path(str(EXAMPLES / "calibrate_and_validate.py"))
    module["main"]([])
    out = capsys.readouterr().out
    (seconds, per_decode) = map(float, re.search(r"solo +(\S+) s \+ (\S+) s", out).groups())
    assert seconds == pytest.approx(0.008, rel=0.05)
    assert per_decode == pytest.approx(9e-5, rel=0.25)
    errors = [float(error) for error in re.findall(r"\(([+-][\d.]+)%\)", out)]
    assert len(errors) == 3
    assert max(map(abs, errors)) < 5.0


def test_calibrate_and_validate_on_files(capsys, tmp_path):
    module = runpy.run_path(str(EXAMPLES / "calibrate_and_validate.py"))
    logs = module["log_engine"](tmp_path, "run", rate=2.0, seed=3)
    module["main"]([str(path) for path in logs])
    assert capsys.readouterr().out.count("simulated") == 3
