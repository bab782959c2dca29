"""The README's Python examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llm_sched_env as lse

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_examples():
    (scheduler,) = BLOCKS
    assert len([line for line in scheduler.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block):
    exec(compile(block, str(README), "exec"), {})


def test_links_lead_somewhere():
    for page in (
        README,
        *(README.parent / "docs").rglob("*.md"),
        README.parent / "CONTRIBUTING.md",
    ):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in path:
                continue
            linked = page.parent / path if path else page
            assert linked.exists(), (page.name, target)
            if anchor:
                assert anchor in anchors(linked.read_text(encoding="utf-8")), (page.name, target)


def anchors(text):
    """What GitHub makes of the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def test_the_instance_file_of_the_model_page_loads(tmp_path):
    page = (README.parent / "docs" / "model.md").read_text(encoding="utf-8")
    path = tmp_path / "chat.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    instance = lse.Instance.load(path)
    assert instance.hardware.kv_tokens == 60000
    assert lse.Instance.from_dict(instance.to_dict()) == instance
    result = lse.evaluate("token-bucket", instance, 3, horizon=200.0, warmup=100.0, replications=1)
    assert result.requests["completed"] > 10


def test_commands_of_the_readme_exist():
    from llm_sched_env.cli import app

    known = {c.name or c.callback.__name__ for c in app.registered_commands}
    used = set(re.findall(r"^llmsched (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert used <= known
    assert len(used) >= 6
