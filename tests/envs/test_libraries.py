"""The recipes of docs/libraries.md train with their libraries; RLlib's has a test of its own."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]


def block_with(text: str) -> str:
    page = (ROOT / "docs" / "libraries.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3  # the third is RLlib's
    (block,) = [block for block in blocks if text in block]
    return block


def test_stable_baselines3_learns_on_the_native_vector_form() -> None:
    pytest.importorskip("stable_baselines3")
    names: dict = {}
    exec(compile(block_with("stable_baselines3"), "docs/libraries.md", "exec"), names)
    assert names["model"].num_timesteps == 800
    assert 0.2 < names["model"].ep_info_buffer[-1]["r"] / 20.0 < 1.5


def test_torchrl_learns_on_the_native_vector_form(capsys) -> None:
    pytest.importorskip("torchrl")
    names: dict = {}
    exec(compile(block_with("torchrl"), "docs/libraries.md", "exec"), names)
    said = capsys.readouterr().out
    means = [float(mean) for mean in re.findall(r"^(\S+) of R", said, re.MULTILINE)]
    assert len(means) == 3
    assert all(0.2 < mean < 1.5 for mean in means)
    # Every cluster had several episodes of 20 steps, each cut at its horizon.
    assert names["played"]["next", "truncated"].sum() == 8 * 2
    assert not names["played"]["next", "terminated"].any()


@pytest.mark.extended
def test_one_file_of_pytorch_learns_from_scratch(capsys) -> None:
    module = runpy.run_path(str(ROOT / "examples" / "single_file_ppo.py"))
    module["main"](25_600)
    said = capsys.readouterr().out
    scores = dict(re.findall(r"^(\S+) +(\d\.\d+) of R", said, re.MULTILINE))
    assert list(scores) == ["PPO", "gate-and-route", "trunk-reservation"]
    first = float(re.search(r"0 steps: (\S+) of R", said).group(1))
    assert float(scores["PPO"]) > first + 0.05


def test_the_advantages_of_one_file_are_the_sums_that_define_them() -> None:
    import torch

    module = runpy.run_path(str(ROOT / "examples" / "single_file_ppo.py"))
    rng = torch.Generator().manual_seed(0)
    rewards, values, following = (torch.rand((6, 2), generator=rng) for _ in range(3))
    ended = torch.zeros(6, 2)
    ended[2, 0] = 1.0
    found = module["advantages"](rewards, values, following, ended)
    discount, decay = module["DISCOUNT"], module["DISCOUNT"] * module["LAMBDA"]
    deltas = rewards + discount * following - values
    for n in range(2):
        for t in range(6):
            last = 2 if n == 0 and t <= 2 else 5
            expected = sum(decay ** (u - t) * deltas[u, n] for u in range(t, last + 1))
            assert found[t, n] == pytest.approx(float(expected), rel=1e-5)
