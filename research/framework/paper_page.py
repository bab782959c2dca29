"""Write the page of claims: one generated part per study, between its marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_sched_env.errors import ConfigurationError
from research.framework.captions import caption_line
from research.framework.claims import AGREES, DIFFERS, UNDECIDED, Claim, Findings
from research.framework.study import Study

INTRODUCTION = """# The paper's statements, computed

*For readers of the paper and of this project's claims. After reading you know which statements the
simulator confirms, how clearly, and which command computes each. All of it is generated: results,
not documentation.*

Every statement of Lin, Ding, Han and Zhang
([arXiv 2602.02987](https://arxiv.org/abs/2602.02987)) that can be computed has a command that
computes it; this page is what the commands wrote (`make paper`). Each check follows from the
numbers: a claim *agrees* when the whole 95% interval of our number lies in the stated range,
*differs* when none of it does, and is *undecided* otherwise.

<!-- overview -->
<!-- end of overview -->
"""

_MARK = "experiment"
_OUTCOMES = (AGREES, DIFFERS, UNDECIDED)
_OVERVIEW = re.compile(r"(<!-- overview -->\n).*?(<!-- end of overview -->)", re.DOTALL)
_START = re.compile(r"<!-- experiment: (?P<name>[\w-]+)(?P<quick> \(quick\))? -->")


@dataclass(frozen=True)
class Run:
    """How a study was run.

    Attributes:
        quick: whether at reduced size.
        seed: of the command line.
        command: that runs it again.
        times: length and warm-up of its simulations, a sentence or nothing.
        versions: of what computed it.
    """

    quick: bool
    seed: int
    command: str
    times: str
    versions: Mapping[str, str]


def paragraph(study: Study, rows: list[dict[str, Any]], findings: Findings, run: Run) -> str:
    """The study's part of the page, marks included; the same rows give the same text."""
    lines = [_start_mark(study.name, quick=run.quick), f"## {study.title}", ""]
    if run.quick:
        lines += ["**Quick run** at reduced size: a check that it works, not a result.", ""]
    lines += [f"*{study.source}.* {study.settings(rows)} {run.times}".rstrip(), ""]
    lines += _claims_table(findings.claims)
    numbered = enumerate(findings.claims, 1)
    reasons = [f"- ({k}) {claim.outcome}: {claim.reason}." for k, claim in numbered if claim.reason]
    lines += ["", *reasons, ""] if reasons else [""]
    if findings.table:
        lines += [*table_lines(findings.table), ""]
    for remark in findings.remarks:
        lines += [remark, ""]
    versions = ", ".join(f"{name} {number}" for name, number in run.versions.items())
    lines += [
        f"![{study.title}]({study.name}.png)",
        *([line] if (line := caption_line(study.name)) else []),
        "",
        f"`{run.command}` with {versions}; all rows: [{study.name}.csv]({study.name}.csv).",
        _end_mark(study.name),
    ]
    return "\n".join(lines)


def with_paragraph(page: str, name: str, text: str, order: Sequence[str]) -> str:
    """The page with a study's part replaced, or put in its place in the order.

    The overview, where the page has its marks, counts the outcomes of all parts.

    Raises:
        ConfigurationError: for a page whose marks are not pairs.
    """
    found = _part(page, name)
    later = (
        [_part(page, other) for other in order[order.index(name) + 1 :]] if name in order else []
    )
    following = next((part for part in later if part is not None), None)
    if found is not None:
        changed = page[: found.start()] + text + page[found.end() :]
    elif following is not None:
        changed = page[: following.start()] + text + "\n\n" + page[following.start() :]
    else:
        changed = page.rstrip("\n") + "\n\n" + text + "\n"
    overview = "\n".join(table_lines(_overview(parts(changed))))
    return _OVERVIEW.sub(lambda marks: f"{marks[1]}{overview}\n{marks[2]}", changed)


def parts(page: str) -> dict[str, str]:
    """The studies' parts of a page by name, marks included."""
    names = [match["name"] for match in _START.finditer(page)]
    return {name: found[0] for name in names if (found := _part(page, name)) is not None}


def is_quick(part: str) -> bool:
    """Whether a part was written by a quick run."""
    start = _START.match(part)
    return start is not None and start["quick"] is not None


def _part(page: str, name: str) -> re.Match[str] | None:
    """Where a study's part is, with its marks."""
    start = rf"<!-- {_MARK}: {re.escape(name)}(?: \(quick\))? -->"
    end = re.escape(_end_mark(name))
    pairs = list(re.finditer(f"{start}.*?{end}", page, re.DOTALL))
    marks = len(re.findall(start, page)), len(re.findall(end, page))
    if marks not in {(0, 0), (1, 1)} or len(pairs) != marks[0]:
        raise ConfigurationError(
            f"The page of claims has {marks[0]} start marks and {marks[1]} end marks of {name}; "
            "restore one pair of marks, or remove all."
        )
    return pairs[0] if pairs else None


def _overview(found: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row a study: its title and how many of its claims came out how."""
    return [
        {"study": f"`{name}`", "question": part.splitlines()[1].removeprefix("## ")}
        | {outcome: part.count(f"| {_outcome(outcome)} |") for outcome in _OUTCOMES}
        for name, part in found.items()
    ]


def _outcome(outcome: str) -> str:
    return f"**{outcome}**"


def _start_mark(name: str, *, quick: bool) -> str:
    return f"<!-- {_MARK}: {name}{' (quick)' if quick else ''} -->"


def _end_mark(name: str) -> str:
    return f"<!-- end of {_MARK}: {name} -->"


def _claims_table(claims: Sequence[Claim]) -> list[str]:
    rows = [
        {
            "": k,
            "the paper": f"{claim.statement} ({claim.place})",
            "our number": claim.quantity,
            "value [95% interval]": claim.number(),
            "agrees if": claim.criterion.text(claim.shown),
            "outcome": _outcome(claim.outcome),
        }
        for k, claim in enumerate(claims, 1)
    ]
    return table_lines(rows)


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table; columns of numbers are set to the right."""
    if not rows:
        return []
    header = list(rows[0])
    numeric = [isinstance(rows[0][name], (int, float)) for name in header]
    rule = ["---:" if right else "---" for right in numeric]
    cells = [[_text(row[name]) for name in header] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *cells)]


def _text(value: Any) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")
