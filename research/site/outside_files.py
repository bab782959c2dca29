"""Pages and data of the repository that lie outside docs/, and links to them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results/speed.md")
"""Pages of the repository that are pages of the site at the same place."""

_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def outside_pages() -> dict[str, str]:
    """The text of each page outside docs/, by its place in the site."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}


def linked_files(pages: Mapping[str, str]) -> list[Path]:
    """Files outside docs/ that pages link to and that are no pages, relative to the repository."""
    found = {
        Path(target)
        for uri, text in pages.items()
        for target in _targets(text, uri)
        if not target.startswith("docs/") and (ROOT / target).is_file()
    }
    return sorted(path for path in found if path.suffix not in {".md", ".py"})


def with_site_links(text: str, uri: str) -> str:
    """Links between files of the repository as links between pages of the site.

    Args:
        text: the Markdown of a page.
        uri: where the page is in the site.
    """

    def moved(link: re.Match[str]) -> str:
        target, anchor = _in_site(_in_repository(link[2], uri)), link[3]
        if target == "index.md":
            anchor = ")"  # the home page has other headings than the README
        return link[1] + posixpath.relpath(target, posixpath.dirname(uri) or ".") + anchor

    parts = _CODE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in parts)


def _targets(text: str, uri: str) -> Iterator[str]:
    for link in _LINK.finditer(_CODE.sub("", text)):
        yield _in_repository(link[2], uri)


def _in_repository(target: str, uri: str) -> str:
    """Where a link of a page leads, from the root of the repository."""
    page = uri if uri in PAGES else f"docs/{uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def _in_site(path: str) -> str:
    if path == "README.md":
        return "index.md"
    if path in {"examples", "examples/"}:
        return "examples/index.md"
    if path.startswith("examples/"):
        return path.removesuffix(".py") + ".md"
    return path.removeprefix("docs/")
