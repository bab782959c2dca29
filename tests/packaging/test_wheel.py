"""The wheel and the sdist alone, in clean environments: on each Python that is there, with the
oldest versions that are allowed, and with the newest.

Packages come from the registry that pip is set up for; without one these tests are skipped. The
engine runs uncompiled there: what is tried is what is installed.
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


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_wheel_alone_works(built, combination, tmp_path) -> None:
    version, pins = COMBINATIONS[combination]
    python = shutil.which(f"python{version}")
    if python is None or run(python, "--version").returncode:
        pytest.skip(f"there is no Python {version}")
    assert run(python, "-m", "venv", tmp_path / "venv").returncode == 0
    installed = tmp_path / "venv" / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    pip = run(installed, "-m", "pip", "install", "--quiet", wheel, *pins, env=environment)
    assert pip.returncode == 0, pip.stderr[-2000:]
    environment["NUMBA_DISABLE_JIT"] = "1"
    done = run(installed, "-c", PROGRAM, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "works" in done.stdout
    help_ = run(tmp_path / "venv" / "bin" / "llmsched", "--version", env=environment)
    assert help_.returncode == 0, help_.stderr
