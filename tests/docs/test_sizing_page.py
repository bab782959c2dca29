"""The commands and the Python of docs/sizing.md run as they stand, on short traces of its names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from research.pages import update_sizing

TEXT = (update_sizing.DOCS / "sizing.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```sh\nllmsched (.*)\n```", TEXT)
(PYTHON,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def traces(tmp_path, monkeypatch):
    """Two minutes in the formats of the traces that the page names."""
    rng = np.random.default_rng(0)
    for name, prompt in (("conv", 1000), ("code", 2000)):
        times = np.sort(rng.uniform(0, 59, 60))
        rows = [f"2023-11-16 18:15:{t:010.7f},{rng.integers(1, prompt)},20" for t in times]
        text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n"
        (tmp_path / f"AzureLLMInferenceTrace_{name}.csv").write_text(text)
    rows = [
        f'{{"timestamp": {1000 * k}, "input_length": {n}, "output_length": 20, "hash_ids": [0]}}'
        for k, n in enumerate([2000] * 56 + [90000] * 4)
    ]
    (tmp_path / "mooncake_conversation_trace.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.extended
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_answers(run, traces, line):
    code, out, err = run(*shlex.split(line))
    assert code == 0, err
    assert re.search(r"take|is enough|sustain|no size|chosen setting", out)


def test_the_python_runs(capsys):
    exec(compile(PYTHON, "docs/sizing.md", "exec"), {})
    gpus, bound = map(float, capsys.readouterr().out.split())
    assert 1 <= bound <= gpus


def test_the_page_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_sizing, "DOCS", tmp_path)
    update_sizing.main()
    assert (tmp_path / "sizing.md").read_text(encoding="utf-8") == TEXT


def test_every_command_has_its_answer():
    assert set(update_sizing.shown_commands()) == {
        p.stem for p in update_sizing.RESULTS.glob("*.md")
    }
    assert len(update_sizing.shown_commands()) == len(COMMANDS)
