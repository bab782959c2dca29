"""Write docs/sizing.md from answers of the commands that it shows (``make sizing`` runs them)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.model.hardware_presets import HARDWARE_PRESETS
from llm_sched_env.workloads.locations import data_folders

ROOT = Path(__file__).parents[2]
DOCS, RESULTS = ROOT / "docs", ROOT / "research" / "results" / "sizing"
TEMPLATE = Path(__file__).parent / "sizing_page.md"
_WIDTH = 120


def shown_commands() -> dict[str, list[str]]:
    """The words of each command of the page whose answer follows it, by the answer's name."""
    text = TEMPLATE.read_text(encoding="utf-8")
    pairs = re.findall(r"```sh\nllmsched (.*)\n```\n\n\{(\w+)\}", text)
    return {name: shlex.split(line) for line, name in pairs}


def main(*, measure: bool = False) -> None:
    """Write the page; with ``measure`` run every command first."""
    if measure:
        for name, words in shown_commands().items():
            write_whole(RESULTS / f"{name}.md", run(words))
    template = TEMPLATE.read_text(encoding="utf-8")
    answers = {name: _quoted(RESULTS / f"{name}.md") for name in shown_commands()}
    answers["tune_azure_flags"] = _flags(RESULTS / "tune_azure.md")
    write_whole(DOCS / "sizing.md", template.format(**answers))


def run(words: list[str]) -> str:
    """The answer that a command writes."""
    found = [_found(word) if word.endswith((".csv", ".jsonl")) else word for word in words]
    kept = [w for k, w in enumerate(found) if w != "--out" and (k == 0 or found[k - 1] != "--out")]
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, "-m", "llm_sched_env", *kept, "--out", folder]
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
        return (Path(folder) / "answer.md").read_text(encoding="utf-8")


def _found(name: str) -> str:
    for folder in data_folders():
        if (folder / name).is_file():
            return str(folder / name)
    raise ConfigurationError("trace", name, "a file in $LLM_SCHED_DATA", "see docs/traces.md")


def _quoted(file: Path) -> str:
    """The sentences of an answer, as a quotation, and its first table."""
    sentences, heading, table, *_ = file.read_text(encoding="utf-8").split("\n\n")
    lines = [
        textwrap.fill(
            line, _WIDTH, initial_indent="> ", subsequent_indent="> ", break_on_hyphens=False
        )
        for line in sentences.splitlines()
    ]
    title = heading.removeprefix("## ")
    if title in HARDWARE_PRESETS:
        title = f"The best policy at each size or rate, {title}"
    return "\n>\n".join(lines) + f"\n\n{title}:\n\n{table}"


def _flags(file: Path) -> str:
    """The part of an answer that is flags."""
    text = file.read_text(encoding="utf-8")
    return "```sh\n" + text.partition("```sh\n")[2].partition("\n#")[0].strip() + "\n```"


if __name__ == "__main__":
    main(measure=sys.argv[1:] == ["--measure"])
