"""Docstrings as Markdown of the site: examples as code blocks, roles as links."""

from __future__ import annotations

import inspect
import re
from functools import cache
from itertools import groupby
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_ROLE = re.compile(r":(?:class|func|mod|meth|attr|data):`~?([\w.]+)`")
_PAGE = re.compile(r"``docs/([\w/]+\.md)``")


def as_markdown(docstring: str, up: str = "../") -> str:
    """A docstring that is Markdown itself, such as an environment's.

    Args:
        docstring: as ``__doc__`` has it.
        up: from the page to the root of docs/.

    >>> as_markdown("See :class:`Prices`, :mod:`x.y`.")
    'See [`Prices`][llm_sched_env.Prices], `y`.'
    """
    text = _PAGE.sub(rf"[\1]({up}\1)", with_links(inspect.cleandoc(docstring)))
    lines = []
    for is_example, group in groupby(_marked(text.splitlines()), key=lambda pair: pair[0]):
        block = [line for _, line in group]
        lines += ["```pycon", *block, "```"] if is_example else block
    return "\n".join(lines)


def with_links(text: str) -> str:
    """Roles as links to what they name, where the reference has it."""
    documented = _documented()

    def linked(role: re.Match[str]) -> str:
        name = role[1].rpartition(".")[2]
        return f"[`{name}`][{documented[name]}]" if name in documented else f"`{name}`"

    return _ROLE.sub(linked, text)


@cache
def _documented() -> dict[str, str]:
    """What the reference documents: the path of each name."""
    pages = [path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md")]
    paths = [path for page in pages for path in re.findall(r"^::: (\S+)$", page, re.MULTILINE)]
    return {path.rpartition(".")[2]: path for path in paths}


def _marked(lines: list[str]) -> list[tuple[bool, str]]:
    """Each line, and whether it is part of an example: from ``>>>`` to the next empty line."""
    marked, inside = [], False
    for line in lines:
        inside = line.startswith(">>>") or (inside and bool(line.strip()))
        marked.append((inside, line))
    return marked
