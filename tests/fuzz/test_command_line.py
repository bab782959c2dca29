"""``llmsched`` under words that are drawn: it does what it says, or says in a line why not."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer
from fuzzing import fuzzed
from hypothesis import assume, given
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.cli import app, main

GROUP: Any = typer.main.get_command(app)
# Former names of options warn, as they should.
OPTIONS = {
    name: sorted(
        option
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
        for option in parameter.opts
    )
    for name, command in GROUP.commands.items()
}
# Options whose sound values make a command take long: the smallest stand for them.
BRIEF = {
    "--horizon": "2",
    "--warmup": "0",
    "--replications": "1",
    "--jobs": "1",
    "--gpus": "1",
    "--seconds": "1",
    "--steps": "5",
}
# Commands that compute for long or never end with sound words: they get a word that is none.
LONG = {
    "adapt",
    "bench",
    "compare",
    "dataset",
    "optimum",
    "profile",
    "serve",
    "size",
    "sweep",
    "train",
    "tune",
}
LONG |= {"watch", "export"}
QUICK = sorted(set(OPTIONS) - LONG)

BAD = ["", "-1", "nan", "inf", "1e400", "x", "0", "\x00", "ü", ",", "a=b", "99999999999999999999"]
SOUND = ["base", "mixed-fleet", "h100-llama3-8b-b32", "gate-and-route", "token-bucket", "2", "0.5"]
FILES = ["chat.csv", "broken.csv", "base.toml", "broken.toml", "log.csv", "missing.csv", "."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files to name, sound and broken."""
    place = tmp_path_factory.mktemp("fuzz")
    rows = "".join(f"{k}.5,chat,{20 + k},{3 + k}\n" for k in range(6))
    (place / "chat.csv").write_text("arrival_seconds,class,prompt_tokens,output_tokens\n" + rows)
    (place / "broken.csv").write_text("arrival_seconds,class\n1,2,3\n")
    lse.presets.base().save(place / "base.toml")
    (place / "broken.toml").write_text('name = "x"\n[[classes]\n')
    counts = "".join(f"0.0{k + 1},{32 * (k % 2)},0,{k},{k * 20}\n" for k in range(1, 8))
    (place / "log.csv").write_text(
        "seconds,prefill_tokens,prefill_context,decodes,kv_tokens\n" + counts
    )
    return place


VALUES = st.sampled_from([*SOUND, *FILES]) | st.sampled_from(BAD) | st.text(max_size=4)


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A command with some options and arguments, most of which exist."""
    name = draw(st.sampled_from(QUICK) | st.sampled_from(sorted(LONG)))
    line = [name, *draw(st.lists(VALUES, max_size=2))]
    for option in draw(st.lists(st.sampled_from(OPTIONS[name] or ["--help"]), max_size=3)):
        line.append(option)
        if draw(st.integers(0, 4)):
            line.append(draw(VALUES))
    for option, value in BRIEF.items():
        if option in OPTIONS[name] and draw(st.integers(0, 9)):
            line += [option, draw(st.sampled_from([value, value, value, *BAD]))]
        elif option in OPTIONS[name]:
            line += [option, value]
    if name in LONG:
        line.insert(1, "--no-such-option")
    elif draw(st.integers(0, 19)) == 0:
        line.insert(draw(st.integers(0, len(line))), draw(st.text(max_size=5)))
    return line


def require_one_line(code: Any, told: str) -> None:
    """What went wrong is the last line of stderr, and it says who says so."""
    assert "Traceback" not in told, told
    assert code in (0, 2), (code, told)
    if code == 2:
        assert told.rstrip("\n").splitlines()[-1].startswith("llmsched: "), told


@fuzzed
@given(words())
def test_command_line(folder, line) -> None:
    assume("--debug" not in line)
    before = Path.cwd()
    err = io.StringIO()
    os.chdir(folder)
    try:
        code = exit_code(line, err)
    finally:
        os.chdir(before)
    require_one_line(code, err.getvalue())
    assert not list(folder.rglob("*.part"))


def exit_code(line: list[str], err: io.StringIO) -> Any:
    """Run the command; a warning that nobody catches is a fault, too."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        try:
            main(line)
        except SystemExit as stop:
            return stop.code
    raise AssertionError("it neither ended nor failed")
