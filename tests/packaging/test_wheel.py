"""The wheel and the sdist alone, in clean environments: on each Python that is there, with the
oldest versions that are allowed, and with the newest.

Packages come from the registry that pip is set up for; without one these tests are skipped. The
engine runs uncompiled there, which tries what is installed and how it is called; with the oldest
versions it is compiled, too, in minutes, and gives the same scores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.extended

ROOT = Path(__file__).parents[2]
OLDEST = ["gymnasium==1.1.*", "numpy==1.26.*", "numba==0.60.*", "scipy==1.11.*"]
COMBINATIONS = {
    "3.10, oldest": ("3.10", OLDEST),
    "3.10": ("3.10", []),
    "3.11": ("3.11", []),
    "3.12": ("3.12", []),
    "3.13": ("3.13", []),
}
PROGRAM = """
import gymnasium as gym, numpy as np, llm_sched_env as lse, sys
assert "site-packages" in lse.__file__, lse.__file__
for name in ("LLMSched-v0", "LLMSchedEvent-v0", "LLMSchedRouting-v0"):
    env = gym.make(name, instance="overload", n_gpus=2, horizon=3.0)
    observation, info = env.reset(seed=0)
    done = False
    while not done:
        mask = info.get("action_mask")
        action = env.action_space.sample() if mask is None else int(np.flatnonzero(mask)[-1])
        observation, reward, _, done, info = env.step(action)
    assert observation in env.observation_space
for policy in ("gate-and-route", "trunk-reservation", "learned"):
    score = lse.evaluate(policy, "base", n_gpus=2, horizon=4.0, warmup=1.0, replications=2).score
    assert 0.0 <= score.mean < 3.0, score
print("works", sys.version_info[:2], np.__version__, gym.__version__)
"""
SCORES = """
import llm_sched_env as lse
print(*(lse.evaluate(policy, "base", n_gpus=2, horizon=9.0, warmup=3.0, replications=2).scores
        for policy in ("gate-and-route", "trunk-reservation")))
"""


def run(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    words = [*map(str, command)]
    return subprocess.run(words, check=False, text=True, capture_output=True, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with a wheel and an sdist of a copy of this tree."""
    folder = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "results")
    shutil.copytree(ROOT, tree, ignore=ignored)
    made = run(sys.executable, "-m", "venv", folder / "builder")
    assert made.returncode == 0, made.stderr
    python = folder / "builder" / "bin" / "python"
    if run(python, "-m", "pip", "install", "--quiet", "build").returncode:
        pytest.skip("pip has no registry that it can install from")
    done = run(python, "-m", "build", "--outdir", folder / "dist", tree)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "dist"


def test_both_hold_what_the_package_needs(built) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for needed in (
        "llm_sched_env/py.typed",
        "llm_sched_env/model/measured_hardware/h100-llama3-8b-b32.toml",
        "llm_sched_env/baselines/dispatch_rules.py",
        "llm_sched_env/agents/rules/learned.json",
    ):
        folder = needed.rsplit("/", 1)[0]
        assert needed in names, sorted(name for name in names if name.startswith(folder))
    assert not [name for name in names if name.startswith(("tests/", "research/"))]
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    assert any(member.endswith("/pyproject.toml") for member in members)
    assert any(member.endswith("/LICENSE") for member in members)


COMPILED = {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "OMP_NUM_THREADS": "1"}
INTERPRETED = {**COMPILED, "NUMBA_DISABLE_JIT": "1"}


def installed(built: Path, combination: str, folder: Path) -> Path:
    """The Python of a new environment that has the wheel."""
    version, pins = COMBINATIONS[combination]
    python = shutil.which(f"python{version}")
    if python is None or run(python, "--version").returncode:
        pytest.skip(f"there is no Python {version}")
    assert run(python, "-m", "venv", folder / "venv").returncode == 0
    found = folder / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    pip = run(found, "-m", "pip", "install", "--quiet", wheel, *pins, env=COMPILED)
    assert pip.returncode == 0, pip.stderr[-2000:]
    return found


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_wheel_alone_works(built, combination, tmp_path) -> None:
    python = installed(built, combination, tmp_path)
    done = run(python, "-c", PROGRAM, cwd=tmp_path, env=INTERPRETED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "works" in done.stdout
    told = run(python.with_name("llmsched"), "--version", env=INTERPRETED)
    assert told.returncode == 0, told.stderr


def test_the_oldest_versions_compile_the_engine(built, tmp_path) -> None:
    python = installed(built, "3.10, oldest", tmp_path)
    found = [run(python, "-c", SCORES, cwd=tmp_path, env=env) for env in (INTERPRETED, COMPILED)]
    assert [done.returncode for done in found] == [0, 0], found[-1].stderr[-2000:]
    assert "compiling the engine" in found[1].stderr
    assert found[0].stdout == found[1].stdout
