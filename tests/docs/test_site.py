"""The site builds strictly, loads nothing from the network, and is searched without it."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llm_sched_env as lse

for module in ("mkdocs", "material", "mkdocstrings", "math_core"):
    pytest.importorskip(module, reason="needs the extra docs")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PUBLIC = ROOT / "tests" / "docs" / "test_docstring_examples.py"
ENTRANCES = ("reinforcement_learning", "operations_research", "serving")
# What a browser loads by itself: scripts, styles, fonts, pictures and frames, not links.
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=\"?(?P<src>[^\s\">]+)"
    r"|<link\b(?![^>]*rel=\"?(?:canonical|next|prev))[^>]*?\bhref=\"?(?P<href>[^\s\">]+)"
)


# One worker builds the site, once.
pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return folder


def html(site):
    return {
        page.relative_to(site).as_posix(): page.read_text(encoding="utf-8")
        for page in sorted(site.rglob("*.html"))
    }


def test_nothing_is_loaded_from_the_network(site):
    loaded = [
        found["src"] or found["href"]
        for text in html(site).values()
        for found in LOADED.finditer(text)
    ]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    loaded += re.findall(r"url\([\"']?([^\"')]+)", styles)
    loaded += re.findall(r"@import\s+[\"']([^\"']+)", styles)
    assert len(loaded) > 100
    assert [source for source in loaded if source.startswith(("http:", "https:", "//"))] == []


def test_search_has_an_index_beside_the_pages(site):
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    entries = json.loads(text.removeprefix("var __index = "))["docs"]
    for words, page in (
        ("trunk reservation", "model.html"),
        ("max-num-seqs", "sizing.html"),
        ("admission rate of class i", "environments/interval.html"),
    ):
        assert any(
            words in entry["text"].lower() and entry["location"].startswith(page)
            for entry in entries
        )
    assert "assets/iframe-worker.js" in html(site)["index.html"]


def test_formulas_are_mathml(site):
    pages = html(site)
    assert not [name for name, text in pages.items() if 'class="arithmatex"' in text]
    assert pages["model.html"].count("<math") > 100


def test_parts_that_are_made_of_the_code_are_there(site):
    pages = html(site)
    assert not [name for name, text in pages.items() if "<!-- insert:" in text]
    assert 'id="observation-space"' in pages["environments/interval.html"]
    assert 'id="action-space"' in pages["environments/event.html"]
    for part in ("policies.html", "environments/index.html", "symbols.html", "api/commands.html"):
        assert pages[part].count("<tr>") > 10
    for entrance in ENTRANCES:
        assert f"start/{entrance}.html" in pages["index.html"]


def test_the_reference_has_every_public_name(site):
    documented = set()
    for path in (site / "api").glob("*.html"):
        documented |= set(re.findall(r'id="([\w.]+)"', path.read_text(encoding="utf-8")))
    documented = {name.rpartition(".")[2] for name in documented}
    public = {*lse.__all__} - {"__version__", "presets"}
    further = re.findall(r'"llm_sched_env[\w.]+:(\w+)"', PUBLIC.read_text(encoding="utf-8"))
    assert len(further) > 20
    public |= {*further}
    # These are on pages of their own; the rule, an example of a policy, is in routing.md, the form
    # of a task on its page.
    own = {"HiddenHardware", "LLMSchedEnv", "LLMSchedEventEnv", "LLMSchedRoutingEnv", "RoutingRule"}
    assert public - documented == own


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_begins_with_what_it_is_for(page):
    title, _, first, *_ = page.read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert first.startswith("*")


@pytest.mark.parametrize("page", ["index", "operate", *(f"start/{name}" for name in ENTRANCES)])
def test_figures_have_captions_that_say_what_to_see(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    figures = re.findall(r"^!\[([^\]]+)\]\([^)]+\)\n(.*)$", text, re.MULTILINE)
    assert figures
    assert all(alt and caption.startswith("*What to see: ") for alt, caption in figures)


@pytest.mark.parametrize("name", ["docstrings", "formulas"])
def test_docstrings_of_the_site(name):
    import importlib

    result = doctest.testmod(importlib.import_module(f"research.site.{name}"))
    assert result.attempted
    assert not result.failed
