"""Every code block of the pages runs: on its own page here, or in the test that OWN_TESTS names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.cli import app, main
from research.__main__ import app as research_app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Whose blocks of which kind run where: they need files, or another environment.
OWN_TESTS = {
    ("calibration.md", "python"): "calibration/test_calibration.py",
    ("calibration.md", "sh"): "calibration/test_calibration.py",
    ("event_control.md", "python"): "envs/test_event_env.py",
    ("libraries.md", "python"): "envs/test_libraries.py",
    ("libraries.md", "sh"): "envs/test_libraries.py",
    ("model.md", "toml"): "docs/test_readme.py",
    ("routing.md", "python"): "envs/test_routing_env.py",
    ("service_levels.md", "python"): "evaluation/test_slo_attainment.py",
    ("serving.md", "python"): "serving/test_serving_backend.py",
    ("sizing.md", "python"): "docs/test_sizing_page.py",
    ("sizing.md", "sh"): "docs/test_sizing_page.py",
    ("traces.md", "python"): "docs/test_trace_docs.py",
    ("traces.md", "sh"): "docs/test_trace_docs.py",
}
# Commands of minutes to hours, or on files of the reader: their options are checked.
PARSED_ONLY = {
    "bandits.md",
    "constraints.md",
    "learned.md",
    "reuse.md",
    "serving.md",
    "results/leaderboard.md",
    "results/tasks.md",
    "scaling_out.md",
    "training.md",
    "validation.md",
}
# What is no command of this package: installing it, other engines, clusters of machines.
FOREIGN = ("python examples/", "make ", "pip ", "ray ", "vllm ", "  --", "python -m sglang", "#")


def pages():
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def blocks(page):
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def commands(text):
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith(FOREIGN)]


def runs_here(page, kind):
    return (page, kind) not in OWN_TESTS and not (kind == "sh" and page in PARSED_ONLY)


RUN_HERE = [
    page
    for page in pages()
    if any(kind in {"python", "sh"} and runs_here(page, kind) for kind, _ in blocks(page))
]


# Pages whose commands take longest.
LONG = {"operate.md", "policies.md", "start/reinforcement_learning.md", "start/serving.md"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.extended if p in LONG else ()) for p in RUN_HERE],
)
def test_blocks_run_in_their_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "llmsched train" in "".join(text for _, text in blocks(page)):
        pytest.importorskip("torch", reason="needs the extra agents")
    if "import minari" in "".join(text for _, text in blocks(page)):
        pytest.importorskip("minari", reason="needs the extra offline")
        pytest.importorskip("torch", reason="needs the extra agents")
    names: dict[str, object] = {}
    for kind, text in blocks(page):
        if kind == "python" and runs_here(page, kind):
            exec(compile(text, page, "exec"), names)
        for command in commands(text) if kind == "sh" and runs_here(page, kind) else ():
            with pytest.raises(SystemExit) as stop:
                main(shlex.split(command, comments=True)[1:])
            assert stop.value.code == 0, command


@pytest.mark.parametrize(
    "page", [page for page in pages() if any(kind == "sh" for kind, _ in blocks(page))]
)
def test_commands_have_the_options_that_a_page_gives(page):
    for kind, text in blocks(page):
        for line in commands(text) if kind == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[0] == "llmsched":
                known, rest = app, words[1:]
            else:
                assert words[:3] == ["python", "-m", "research"], line
                known, rest = research_app, words[3:]
            command = typer.main.get_command(known).commands[rest[0]]
            command.make_context(rest[0], rest[1:])  # raises for what it does not know


def test_own_tests_are_of_their_page():
    for (page, kind), test in OWN_TESTS.items():
        assert page.removesuffix(".md") in (ROOT / "tests" / test).read_text(encoding="utf-8")
        assert any(kind == found for found, _ in blocks(page)), page


def test_no_block_is_of_a_kind_that_nothing_runs():
    kinds = {(page, kind) for page in pages() for kind, _ in blocks(page)}
    run = {"python", "sh", ""}
    assert {(page, kind) for page, kind in kinds if kind not in run} == {
        ("calibration.md", "toml"),
        ("disaggregation.md", "toml"),
        ("groups.md", "toml"),
        ("reuse.md", "toml"),
        ("model.md", "toml"),
    }


def test_the_groups_of_the_groups_page_are_an_instance(tmp_path):
    ((_, text),) = [block for block in blocks("groups.md") if block[0] == "toml"]
    presets.overload().save(tmp_path / "overload.toml")
    plain = (tmp_path / "overload.toml").read_text(encoding="utf-8")
    tables = re.split(r"^(?=\[)", plain, flags=re.MULTILINE)
    kept = "".join(table for table in tables if not table.startswith("[hardware"))
    (tmp_path / "groups.toml").write_text(f"{kept}\n{text}", encoding="utf-8")
    groups = lse.Instance.load(tmp_path / "groups.toml").groups
    assert [(group.name, group.share, group.role) for group in groups] == [
        ("h100", 0.4, "mixed"),
        ("a100", 0.6, "decode"),
    ]


def test_the_link_of_its_page_is_that_of_the_preset(tmp_path):
    ((_, text),) = [block for block in blocks("disaggregation.md") if block[0] == "toml"]
    presets.mixed_fleet().save(tmp_path / "plain.toml")
    plain = (tmp_path / "plain.toml").read_text(encoding="utf-8")
    (tmp_path / "linked.toml").write_text(f"{plain}\n{text}", encoding="utf-8")
    linked = lse.Instance.load(tmp_path / "linked.toml").groups
    assert {group.link for group in linked} == {presets.disaggregated().groups[0].link}


def test_the_shared_prefixes_of_their_page_are_those_of_a_class(tmp_path):
    ((_, text),) = [block for block in blocks("reuse.md") if block[0] == "toml"]
    presets.base().save(tmp_path / "plain.toml")
    plain = (tmp_path / "plain.toml").read_text(encoding="utf-8")
    (tmp_path / "talk.toml").write_text(
        plain.replace("[[classes]]\n", f"[[classes]]\n{text}", 1), encoding="utf-8"
    )
    talking = lse.Instance.load(tmp_path / "talk.toml").classes[0]
    assert talking.sessions is not None
    assert (talking.sessions.turns, talking.shared_prefix.variants) == (4.0, 8)
