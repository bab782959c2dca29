"""Draw the model's figure, ``docs/model.png`` (``make model-figure``)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llm_sched_env.files.atomic import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT = Path(__file__).parents[2] / "docs" / "model.png"

CLASSES = ("#2f6db3", "#d9822b")  # blue and orange, apart for colour-blind readers too
INK, FAINT, POLICY, EARNED = "#222222", "#777777", "#7a2f8f", "#2c7a3f"
MIXED, SOLO, ASKED = "#fdf1e0", "#e9f2e6", "#f6eef9"

Point = tuple[float, float]
Slots = tuple[tuple["int | None", str], ...]  # of each slot: the class in it, and its use

MIXED_SLOTS: Slots = (
    (1, "prefill"),
    (0, "decode"),
    (0, "decode"),
    (1, "decode"),
    (0, "decode"),
    (None, "free"),
)
SOLO_SLOTS: Slots = (
    (0, "decode"),
    (1, "decode"),
    (0, "decode"),
    (0, "decode"),
    (None, "free"),
    (None, "free"),
)


def main(out: str | Path = OUT) -> None:
    """Write the figure to a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 5.0), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, 120), ylim=(0, 50))
    axes.axis("off")
    draw_queue(axes, (17, 30), "prefill queues", "one per class", (5, 2))
    draw_queue(axes, (27, 7), "decode queues", "prefilled, waiting for a slot", (2, 3))
    draw_policy(axes, (50, 36), "ADMISSION (gate)", "which class is prefilled next?")
    draw_policy(axes, (60, 12.7), "ROUTING (router)", "which GPU decodes it?")
    text(axes, 92, 47.4, "n GPUs with B batch slots each", weight="bold")
    draw_gpu(axes, (79, 29.5), "mixed: a prefill and decodes", "slow iterations", MIXED_SLOTS)
    text(axes, 92, 25, "$\\cdots$", size=18, color=FAINT)
    draw_gpu(axes, (79, 6.5), "solo: decodes only", "fast iterations", SOLO_SLOTS)
    draw_flows(axes)
    save_figure(figure, Path(out))


def draw_queue(axes: Axes, corner: Point, title: str, note: str, lengths: tuple[int, int]) -> None:
    """Two rows of waiting requests, the head of each at the right."""
    from matplotlib.patches import Rectangle

    x, y = corner
    text(axes, x + 6, y + 14.0, title, weight="bold")
    text(axes, x + 6, y + 11.8, note, size=9, color=FAINT)
    for row, (count, color) in enumerate(zip(lengths, CLASSES, strict=True)):
        bottom = y + 6.2 - 5 * row
        axes.plot([x, x + 12, x + 12, x], [bottom, bottom, bottom + 4, bottom + 4], color=INK, lw=1)
        for k in range(count):
            left = x + 9.8 - 2.2 * k
            axes.add_patch(Rectangle((left, bottom + 0.6), 1.6, 2.8, facecolor=color, lw=0))


def draw_gpu(axes: Axes, corner: Point, title: str, note: str, slots: Slots) -> None:
    """A GPU's slots: coloured by class, hatched while prefilling, empty ones outlined."""
    from matplotlib.patches import FancyBboxPatch, Rectangle

    x, y = corner
    face = MIXED if slots[0][1] == "prefill" else SOLO
    box = FancyBboxPatch((x, y), 26, 14, boxstyle="round,pad=0.4", facecolor=face, edgecolor=INK)
    axes.add_patch(box)
    text(axes, x + 13, y + 12.4, title, size=9.5, weight="bold")
    text(axes, x + 13, y + 10.1, note, size=9, color=FAINT)
    for slot, (owner, use) in enumerate(slots):
        color = FAINT if owner is None else CLASSES[owner]
        axes.add_patch(
            Rectangle(
                (x + 0.9 + 4.1 * slot, y + 3.8),
                3.6,
                4.4,
                facecolor=color if use == "decode" else "white",
                edgecolor=color,
                hatch="////" if use == "prefill" else None,
                linewidth=1.2,
            )
        )
    for use in ("prefill", "decode", "free"):
        places = [slot for slot, (_, found) in enumerate(slots) if found == use]
        if places:
            middle = x + 2.7 + 4.1 * sum(places) / len(places)
            words = f"{use}s" if use == "decode" else use
            text(axes, middle, y + 1.7, words, size=9)


def draw_flows(axes: Axes) -> None:
    """Arrivals, admission, routing, completion, abandonment."""
    text(axes, 8, 44.0, "requests", weight="bold")
    text(axes, 8, 41.8, "arrive at rate $n\\lambda_i$", size=9, color=FAINT)
    for color, y, name in zip(CLASSES, (38.2, 33.2), ("class 1", "class 2"), strict=True):
        arrow(axes, (2, y), (16.4, y), color)
        text(axes, 8, y + 1.3, name, size=9, color=color)
    arrow(axes, (29.6, 36), (38.8, 36), INK)
    arrow(axes, (61.4, 36), (78.0, 36), INK)
    text(axes, 69.5, 37.4, "starts a prefill", size=9)
    arrow(axes, (79.6, 32.4), (33, 23.2), INK, bend=-0.12)
    text(axes, 49.5, 28.2, "prefill done: needs a decode slot", size=9)
    arrow(axes, (39.6, 12.7), (48.8, 12.7), INK)
    arrow(axes, (71.4, 12.7), (78.0, 12.7), INK)
    arrow(axes, (66, 16.4), (82.5, 28.6), INK, bend=0.08)
    for y in (36, 12.7):
        arrow(axes, (105.8, y), (110.6, y), INK)
        text(axes, 115.2, y + 1.4, "completed:", size=9.5)
        text(axes, 115.2, y - 1.1, "revenue", size=11, weight="bold", color=EARNED)
    for x, y in ((23, 30.4), (33, 7.4)):
        arrow(axes, (x, y), (x, y - 4.0), FAINT, style="--")
        text(axes, x, y - 5.3, "abandons", size=9, color=FAINT)


def draw_policy(axes: Axes, at: Point, title: str, question: str) -> None:
    """A decision of the policy."""
    from matplotlib.patches import FancyBboxPatch

    x, y = at
    box = FancyBboxPatch(
        (x - 10.8, y - 3.2), 21.6, 6.4, boxstyle="round,pad=0.3", facecolor=ASKED, edgecolor=POLICY
    )
    axes.add_patch(box)
    text(axes, x, y + 1.3, title, size=9.5, weight="bold", color=POLICY)
    text(axes, x, y - 1.3, question, size=9, color=POLICY)


def arrow(
    axes: Axes,
    start: Point,
    end: Point,
    color: str,
    *,
    bend: float = 0.0,
    style: str = "-",
) -> None:
    """An arrow, curved by ``bend``."""
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=13,
            color=color,
            linestyle=style,
            linewidth=1.4,
            shrinkA=0,
            shrinkB=0,
        )
    )


def text(
    axes: Axes,
    x: float,
    y: float,
    words: str,
    *,
    size: float = 10.5,
    weight: str = "normal",
    color: str = INK,
) -> None:
    """Centred text."""
    axes.text(x, y, words, fontsize=size, fontweight=weight, color=color, ha="center", va="center")


if __name__ == "__main__":
    main(*sys.argv[1:])
