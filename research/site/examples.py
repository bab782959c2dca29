"""The scripts of examples/ as pages: what a script says of itself, then its code."""

from __future__ import annotations

import ast
from pathlib import Path

from research.site.docstrings import with_links
from research.site.outside_files import ROOT

FIRST = ("first_look", "train_ppo", "calibrate_and_validate", "size_cluster")
"""Where to start; the others follow."""


def example_pages() -> dict[str, str]:
    """The Markdown of a page for each script, by its place in the site."""
    return {f"examples/{path.stem}.md": _page(path) for path in _scripts()}


def example_list() -> str:
    """A list of the scripts, with the first sentence of each."""
    return "\n".join(
        f"- [{path.name}](../../examples/{path.name}): {_docstring(path).splitlines()[0]}"
        for path in _scripts()
    )


def _scripts() -> list[Path]:
    found = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
    return [found.pop(name) for name in FIRST] + list(found.values())


def _docstring(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None, path
    return with_links(text)


def _page(path: Path) -> str:
    code = path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[2].strip()
    title, _, rest = _docstring(path).partition("\n")
    return f"# {path.name}\n\n*{title}*\n{rest}\n\n```python\n{code}\n```\n"
