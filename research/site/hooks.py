"""What MkDocs calls while it builds the site (mkdocs.yml)."""

from __future__ import annotations

from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from research.site.examples import example_pages
from research.site.formulas import with_mathml
from research.site.insertions import with_insertions
from research.site.outside_files import linked_files, outside_pages, with_site_links


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages made of docstrings, pages of the repository and the data that pages link to."""
    pages = {**outside_pages(), **example_pages()}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    sources = [file for file in files.documentation_pages() if file.src_uri not in pages]
    texts = {file.src_uri: file.content_string for file in sources}
    for path in linked_files({**texts, **outside_pages()}):
        files.append(File.generated(config, path.as_posix(), abs_src_path=str(path.resolve())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Insert what is made of the code, and let links lead to pages and files of the site."""
    return with_site_links(with_insertions(markdown), page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw without a script or a font."""
    return with_mathml(html)
