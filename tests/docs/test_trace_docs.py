"""The commands and the Python of docs/traces.md run as they stand."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import llm_sched_env as lse
from llm_sched_env.cli import main
from llm_sched_env.workloads.formats import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "traces.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^llmsched .*$", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the page names, small."""
    monkeypatch.chdir(tmp_path)
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    rows = [f"{k},{('ChatGPT', 'GPT-4')[k % 2]},{100 + k},{k % 5},9,API log" for k in range(60)]
    Path("BurstGPT_1.csv").write_text("\n".join([header, *rows]) + "\n")
    for name in ("conversation", "toolagent"):
        rows = [
            json.dumps(
                {"timestamp": 500 * k, "input_length": 900, "output_length": 30 + k, "hash_ids": []}
            )
            for k in range(40)
        ]
        Path(f"{name}_trace.jsonl").write_text("\n".join(rows) + "\n")
    request = {"timestamp": 1.5, "input_length": 900, "output_length": 30}
    Path("requests.jsonl").write_text(json.dumps(request) + "\n")
    plain = lse.presets.base().to_dict()
    for k, name in enumerate(("ChatGPT", "GPT-4")):
        plain["classes"][k]["name"] = name
    lse.Instance.from_dict(plain).save("my_chat.toml")


def test_every_format_is_on_the_page() -> None:
    for known in FORMATS:
        assert known.name in PAGE
        for column in (*known.header, *known.marks):
            assert column in PAGE


@pytest.mark.usefixtures("files")
def test_commands_run() -> None:
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(command)[1:])
        assert stop.value.code == 0


@pytest.mark.usefixtures("files")
def test_python_runs() -> None:
    names: dict[str, object] = {}
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        exec(compile(block, "docs/traces.md", "exec"), names)
    assert len(names["again"]) == len(names["trace"])
