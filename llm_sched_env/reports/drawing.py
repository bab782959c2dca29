"""Figures of Matplotlib as SVG that takes the colours and fonts of the page around it.

Figures are drawn in placeholder colours, which become variables of the page's style sheet: light
and dark pages show the same drawing. Whatever belongs to a series is marked with its number, so
that the page can hide it.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
import zlib
from contextlib import ExitStack
from typing import Any

from typing_extensions import Self

from llm_sched_env.files.atomic import figure_bytes

N_COLOURS = 8
"""Series with their own colour; further ones repeat them, with other markers and lines."""
INK, FAINT, GRID, PAPER = "#010100", "#010200", "#010300", "#010400"
_VARIABLES = {INK: "--ink", FAINT: "--faint", GRID: "--grid", PAPER: "--paper"}
_SERIES = re.compile(r"#0200([0-9a-f]{2})")
_MARKERS, _LINES = "osD^vPX*", ("-", "--", ":", "-.")
_WIDTH, _HEIGHT, _DPI = 5.0, 3.2, 72
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llmsched",
    "font.size": 11.5,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


def colour(k: int) -> str:
    """The placeholder colour of series k."""
    return f"#0200{k % N_COLOURS:02x}"


def marker(k: int) -> str:
    """Of the points of series k."""
    return _MARKERS[k % len(_MARKERS)]


def line(k: int) -> str:
    """The pattern of the line of series k: the second eight are dashed, and so on."""
    return _LINES[(k // N_COLOURS) % len(_LINES)]


def of_series(k: int) -> str:
    """The mark (``gid``) of what is drawn for series k."""
    return f"series-{k}"


class Drawing:
    """A chart that is being drawn: use as a context that sets the style.

    Args:
        height: times the usual one.

    Attributes:
        axes: of Matplotlib, to draw on.

    Example:
        >>> with Drawing() as drawing:
        ...     _ = drawing.axes.plot([1, 2], [3, 4], color=colour(0), gid=of_series(0))
        >>> 'data-series="0"' in drawing.svg("a line")
        True
    """

    def __init__(self, height: float = 1.0) -> None:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self._style = ExitStack()
        with mpl.rc_context(_STYLE):
            self._figure = Figure(figsize=(_WIDTH, _HEIGHT * height), layout="constrained")
            self.axes: Any = self._figure.subplots()

    def __enter__(self) -> Self:
        import matplotlib as mpl

        self._style.enter_context(mpl.rc_context(_STYLE))
        return self

    def __exit__(self, *error: object) -> None:
        self._style.close()

    def svg(self, description: str) -> str:
        """The drawing for a page; ``description`` is its text alternative."""
        import matplotlib as mpl

        with mpl.rc_context(_STYLE):
            svg = figure_bytes(self._figure, "svg", dpi=_DPI, metadata={"Date": None})
        return _for_page(svg, description)


def _for_page(svg: bytes, description: str) -> str:
    """Drop what a page has no use for; colours by name; series marked; few decimals."""
    ET.register_namespace("", _SVG.strip("{}"))
    root = ET.fromstring(svg)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", description)
    for child in list(root):
        styles = child.tag == f"{_SVG}defs" and child.find(f"{_SVG}style") is not None
        if styles or child.tag == f"{_SVG}metadata":
            root.remove(child)
    names = _names(root, f"d{zlib.crc32(svg):08x}-")
    for node in root.iter():
        _tidy(node, names)
    return ET.tostring(root, encoding="unicode")


def _names(root: ET.Element, prefix: str) -> dict[str, str]:
    """Ids that are referred to, with names that differ from those of other drawings."""
    text = ET.tostring(root, encoding="unicode")
    used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    return {name: f"{prefix}{k}" for k, name in enumerate(dict.fromkeys(used))}


def _tidy(node: ET.Element, names: dict[str, str]) -> None:
    """Of one element: its id, links, colours and numbers."""
    own = node.attrib.pop("id", "")
    if own.startswith("series-"):
        node.set("data-series", own.removeprefix("series-"))
    elif own in names:
        node.set("id", names[own])
    if (target := node.attrib.pop(_LINK, "")) != "":
        node.set("href", f"#{names[target[1:]]}")
    if (clip := node.get("clip-path")) is not None:
        node.set("clip-path", f"url(#{names[clip[5:-1]]})")
    for name in ("style", "fill", "stroke"):
        if name in node.attrib:
            node.set(name, _named_colours(node.attrib[name]))
    if "style" in node.attrib:
        node.set(
            "style", re.sub(r"font: ([\d.]+px) [^;]*;?", r"font-size: \1;", node.attrib["style"])
        )
    for name in ("d", "x", "y", "transform"):
        if name in node.attrib:
            node.set(name, _short(node.attrib[name]))


def _named_colours(style: str) -> str:
    for placeholder, variable in _VARIABLES.items():
        style = style.replace(placeholder, f"var({variable})")
    return _SERIES.sub(lambda found: f"var(--s{int(found[1], 16)})", style)


def _short(numbers: str) -> str:
    """With one decimal: a tenth of a pixel."""
    shortened = re.sub(r"-?\d+\.\d+", lambda n: f"{float(n[0]):.1f}".removesuffix(".0"), numbers)
    return " ".join(shortened.split())
