"""Reports as a person opens them: in a real browser, wide and narrow, light and dark."""

from __future__ import annotations

import re

import pytest
from browser import browser, opened

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")

SHORT = ("--horizon", "60", "--warmup", "20", "--replications", "2")
GPU = ("--gpu", "h100-llama3-8b-b64=2.5")
COMMANDS = {
    "compare": (
        *("compare", "--instance", "base,chat-deadlines", "--gpus", "2,4", "--jobs", "1"),
        *("--policies", "gate-and-route,token-bucket,trunk-reservation", *SHORT),
    ),
    "evaluate": ("evaluate", "--policy", "trunk-reservation", "--gpus", "3", *SHORT),
    "size": (
        *("size", "--instance", "chat-deadlines", "--rate", "10", *GPU, "--share", "0.5"),
        *("--policies", "fcfs-immediate,trunk-reservation", *SHORT),
    ),
    "max-rate": (
        *("size", "--instance", "chat-deadlines", "--gpus", "1", *GPU, "--share", "0.5"),
        *("--max-rate", "--policies", "fcfs-immediate", *SHORT),
    ),
    "tune": (
        *("tune", "--instance", "chat-deadlines", "--gpus", "1,2", *GPU, "--slots", "16,32"),
        *("--chunks", "1024", "--policies", "fcfs-immediate", *SHORT),
    ),
}
# What a report must have of figures, by what a command knows.
SECTIONS = {
    "compare": ("Scores", "Latencies: base, 4", "Over time: chat-deadlines", "Classes: base"),
    "evaluate": ("Scores", "Latencies: base", "Over time: base", "Classes: base"),
    "size": ("Attainment and cost", "Policies", "Latencies: ", "Over time: "),
    "max-rate": ("Policies", "Latencies: ", "Over time: "),
    "tune": ("Settings", "Latencies: ", "Over time: "),
}


SLOW = {"max-rate", "size", "tune"}

# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("reports")


@pytest.fixture(scope="module")
def chromium():
    with browser() as program:
        yield program


@pytest.fixture(scope="module")
def reports(tmp_path_factory, chromium):
    """The report of a command, made once."""
    from llm_sched_env.cli import main

    made = {}

    def report(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            with pytest.raises(SystemExit) as stop:
                main([*COMMANDS[name], "--out", str(folder)])
            assert stop.value.code == 0
            made[name] = folder / "report.html"
        return made[name]

    return report


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.extended if name in SLOW else ()) for name in COMMANDS
    ]
)
def name(request):
    """Of a report."""
    return request.param


def test_a_report_is_whole_alone_and_small(reports, chromium, name):
    path = reports(name)
    assert path.stat().st_size < 2_000_000
    with opened(chromium, path) as found:
        assert found.errors == []
        assert found.requests == [path.as_uri()]  # nothing else, from anywhere
        titles = found.page.locator("h2").all_inner_texts()
        for title in SECTIONS[name]:
            assert any(text.startswith(title) for text in titles), title
        assert found.page.locator(".answer p").first.inner_text().endswith(".")
        facts = found.page.locator("dl").inner_text()
        assert {"llmsched", "numpy", "Seed"} <= set(re.findall(r"\w+", facts))
        check_figures(found)


FIGURES = """Array.from(document.querySelectorAll("figure"), figure => {
  const drawing = figure.querySelector("svg[role=img]");
  const outer = drawing.getBoundingClientRect();
  const parts = Array.from(drawing.querySelectorAll("[data-series] path, [data-series] use"));
  const inside = parts.map(part => part.getBoundingClientRect())
    .filter(b => b.width + b.height > 1 && b.left < outer.right && b.right > outer.left);
  return {
    title: figure.querySelector("h3").textContent, width: outer.width, height: outer.height,
    inside: inside.length, text: drawing.getAttribute("aria-label"),
    caption: figure.querySelector("figcaption").textContent,
    colours: parts.flatMap(part => [getComputedStyle(part).stroke, getComputedStyle(part).fill]),
  };
})"""


def check_figures(found):
    """Drawn in the page's colours, with a text alternative and a caption."""
    figures = found.page.evaluate(FIGURES)
    assert len(figures) >= 5
    for figure in figures:
        assert figure["width"] > 200, figure
        assert figure["height"] > 60, figure
        assert figure["inside"] > 0, figure
        assert len(figure["text"]) > 20, figure
        assert "What to see" in figure["caption"], figure
        assert any(colour.startswith("rgb") for colour in figure["colours"]), figure


def test_a_report_fits_a_phone(reports, chromium, name):
    scheme = "dark" if name == "compare" else "light"
    with opened(chromium, reports(name), 390, scheme) as found:
        assert found.errors == []
        assert found.width <= 390
        rights = found.page.evaluate(
            """Array.from(document.querySelectorAll("h1, h2, p, figure, dd, li, label, button"))
                 .filter(node => !node.closest(".scroll") && !node.matches(".skip"))
                 .map(node => node.getBoundingClientRect().right)"""
        )
        assert max(rights) <= 390
        # Text in drawings shrinks with them, but stays readable.
        heights = found.page.evaluate(
            """Array.from(document.querySelectorAll("figure svg text"),
                 node => parseFloat(getComputedStyle(node).fontSize)
                   * node.ownerSVGElement.getScreenCTM().a)"""
        )
        assert min(heights) >= 9


def test_light_and_dark_have_contrast(reports, chromium):
    """Text at least 4.5, lines of series at least 3, as WCAG asks."""
    for scheme in ("light", "dark"):
        names = ["--paper", "--raised", "--ink", "--faint", "--accent"]
        names += [f"--s{k}" for k in range(8)]
        with opened(chromium, reports("evaluate"), scheme=scheme) as found:
            value = {each: found.style(":root", each).strip() for each in names}
        assert (luminance(value["--paper"]) > 0.5) == (scheme == "light")
        for ground in ("--paper", "--raised"):
            for each in names[2:]:
                least = 3.0 if each.startswith("--s") else 4.5
                assert contrast(value[each], value[ground]) >= least, (scheme, ground, each)


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def column(found, name):
    return found.page.locator("thead button").all_inner_texts().index(name)


def shown(found, place):
    return found.page.evaluate(
        """k => Array.from(document.querySelectorAll("tbody tr"))
             .filter(row => !row.hidden).map(row => row.cells[k].textContent)""",
        place,
    )


def test_the_table_sorts_and_filters(reports, chromium):
    with opened(chromium, reports("compare")) as found:
        page, score = found.page, column(found, "% of R*")
        rows = shown(found, score)
        assert len(rows) == 12
        button = page.get_by_role("button", name="% of R*")
        button.click()
        scores = list(map(float, shown(found, score)))
        assert scores == sorted(map(float, rows), reverse=True)
        assert page.locator("th").nth(score).get_attribute("aria-sort") == "descending"
        button.click()
        assert list(map(float, shown(found, score))) == scores[::-1]
        policy = column(found, "policy")
        page.locator("thead button").nth(policy).click()
        assert shown(found, policy) == sorted(shown(found, policy))
        page.locator("select[data-filter]").nth(1).select_option("token-bucket")
        assert set(shown(found, policy)) == {"token-bucket"}
        page.get_by_label("Contains").fill("CHAT")
        assert set(shown(found, column(found, "instance"))) == {"chat-deadlines"}
        assert page.locator("[data-count]").inner_text() == "2 of 12 rows"
        page.get_by_label("Contains").fill("nobody")
        assert shown(found, 0) == []
        assert found.errors == []


def test_a_legend_hides_and_shows_a_series_by_keyboard(reports, chromium):
    with opened(chromium, reports("compare")) as found:
        sections = found.page.locator("main > section")
        entry = sections.nth(0).get_by_role("button", name="token-bucket")
        own = f'[data-series="{entry.get_attribute("data-toggles")}"]'
        drawn, elsewhere = (sections.nth(k).locator(f"{own} > path").first for k in (0, 1))
        assert drawn.is_visible()
        entry.focus()
        found.page.keyboard.press("Space")
        assert entry.get_attribute("aria-pressed") == "false"
        assert not drawn.is_visible()
        assert elsewhere.is_visible()
        found.page.keyboard.press("Enter")
        assert drawn.is_visible()


def test_every_control_is_reached_by_the_tab_key(reports, chromium):
    with opened(chromium, reports("evaluate")) as found:
        page = found.page
        wanted = page.locator("a, button, input, select, .scroll").count()
        reached = []
        for _ in range(wanted):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    """() => {
                      const node = document.activeElement;
                      node.dataset.reached = "yes";
                      return [node.tagName, parseFloat(getComputedStyle(node).outlineWidth)];
                    }"""
                )
            )
        assert reached[0][0] == "A"  # the link that skips to the table
        assert page.locator("[data-reached]").count() == wanted
        assert all(outline >= 2 for _, outline in reached)


def test_axes_have_ticks_at_the_sizes_used(reports, chromium):
    with opened(chromium, reports("compare")) as found:
        texts = found.page.locator("figure").first.locator("svg text").all_text_contents()
    assert {"2", "4", "GPUs", "bound R*"} <= {text.strip() for text in texts}
    assert not [text for text in texts if re.search(r"10\^|\$|e[+-]", text)]


def test_the_same_command_writes_the_same_bytes(tmp_path, run):
    words = (*COMMANDS["evaluate"], "--out", tmp_path)
    assert run(*words)[0] == 0
    page = (tmp_path / "report.html").read_bytes()
    assert run(*words)[0] == 0
    assert (tmp_path / "report.html").read_bytes() == page


def test_the_browser_hears_errors_and_requests(chromium, tmp_path):
    """What the checks above rely on."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='nowhere.png'><script>throw new Error('no')</script>")
    with opened(chromium, path) as found:
        found.page.wait_for_load_state("load")
        assert any("no" in error for error in found.errors)
        assert (tmp_path / "nowhere.png").as_uri() in found.requests
