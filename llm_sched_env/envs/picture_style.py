"""Colours, fonts and bars of pictures of a cluster."""

from __future__ import annotations

from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Okabe and Ito's colours, which colour-blind people tell apart.
CLASS_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (213, 94, 0), (117, 112, 179), (140, 140, 60),
)  # fmt: skip
INK, FAINT, PAPER = (33, 37, 41), (134, 142, 150), (255, 255, 255)
FREE, TRACK = (233, 236, 239), (222, 226, 230)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font that comes with Pillow, in pixels."""
    return ImageFont.load_default(size)


def class_colour(i: int) -> Colour:
    """The colour of class i."""
    return CLASS_COLOURS[i % len(CLASS_COLOURS)]


def draw_bar(
    canvas: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    value: float,
    most: float,
    colour: Colour,
) -> None:
    """A bar on its track; box is left, top, right and bottom in pixels."""
    left, top, right, bottom = box
    canvas.rectangle(box, TRACK)
    if value > 0:
        end = left + max(1, round((right - left) * value / most))
        canvas.rectangle((left, top, end, bottom), colour)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
