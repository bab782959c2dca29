"""Draw a cluster as a picture: GPUs, queues by class, and what it has earned of R*."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState

SIZE = (960, 540)
"""Width and height of a picture, pixels."""

# Okabe and Ito's colours, which colour-blind people tell apart.
_CLASS_COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (213, 94, 0), (117, 112, 179), (140, 140, 60),
)  # fmt: skip
_INK, _FAINT, _PAPER = (33, 37, 41), (134, 142, 150), (255, 255, 255)
_FREE, _FRAME, _TRACK = (233, 236, 239), (173, 181, 189), (222, 226, 230)
_MARGIN, _PANEL = 24, 250
_TWO_BARS = 56  # least height of a class with a bar for each queue
_GPUS_AT = (_MARGIN + _PANEL + 24, 76, SIZE[0] - _MARGIN, SIZE[1] - 64)
# A tile narrower than this shows shares of its slots, not every one of them.
_LEAST_SLOT, _MOST_SLOT = 5, 56
_LEAST_TILE = (6, 10)

Colour = tuple[int, int, int]


def draw_cluster(state: EngineState, cluster: Cluster, pools: str) -> np.ndarray:
    """A picture of one cluster; uint8, shape (540, 960, 3).

    A tile is a GPU: its decodes in the colours of their classes, its prefill framed and filled as
    far as it has come, free slots grey; where KV tokens are limited a line below shows how much
    is reserved. Where there are too many GPUs for tiles with slots, a tile is a bar of shares, and
    beyond some thousands each stands for several GPUs.
    """
    picture = Image.new("RGB", SIZE, _PAPER)
    canvas = ImageDraw.Draw(picture)
    _draw_title(canvas, state, cluster, pools)
    _draw_classes(canvas, state, cluster)
    _draw_gpus(canvas, state)
    _draw_revenue(canvas, state, cluster)
    return np.asarray(picture).copy()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _class_colour(i: int) -> Colour:
    return _CLASS_COLOURS[i % len(_CLASS_COLOURS)]


def _draw_title(
    canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster, pools: str
) -> None:
    seconds = float(state.clock["time"][0])
    prefills = int((state.gpus["prefill_request"] >= 0).sum())
    pool = int(state.groups["mixed_pool_size"].sum())
    canvas.text((_MARGIN, 18), cluster.instance.name, _INK, _font(24))
    counts = f"{cluster.n_gpus:,} GPUs, {prefills:,} with a prefill"
    if pools == "static":
        first = "the first " if len(state.groups) == 1 else ""
        counts += f", {first}{pool:,} may prefill"
    if len(state.groups) > 1:
        sizes = zip(state.groups["n_gpus"], cluster.instance.groups, strict=True)
        counts = f"{' + '.join(f'{n:,} {g.name}' for n, g in sizes)}: {counts}"
    canvas.text((_GPUS_AT[0], 24), counts, _INK, _font(16))
    canvas.text((SIZE[0] - _MARGIN, 24), f"t = {seconds:,.1f} s", _INK, _font(16), anchor="ra")


def _draw_classes(canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster) -> None:
    """Requests by class and station; bars of those that wait, on one scale."""
    by_class = state.classes.reshape(cluster.instance.n_classes, -1)
    classes = {name: by_class[name].sum(axis=1) for name in OCCUPANCIES}
    waiting = np.stack([classes["q_prefill"], classes["q_decode"]])
    longest = max(10, int(waiting.max()))
    room = SIZE[1] - 64 - 100
    height = min(66, room // cluster.instance.n_classes)
    header = "waiting for a prefill, and for a decode slot" if height >= _TWO_BARS else "waiting"
    canvas.text((_MARGIN, 78), header, _FAINT, _font(13))
    for i, own in enumerate(cluster.instance.classes):
        top, colour = 100 + i * height, _class_colour(i)
        if height < 24:  # names and numbers do not fit: bars only
            _bar(
                canvas,
                (_MARGIN, top, _MARGIN + _PANEL, top + height - 3),
                waiting[0, i],
                longest,
                colour,
            )
            continue
        canvas.rectangle((_MARGIN, top + 3, _MARGIN + 11, top + 14), colour)
        served = (
            f"{int(classes['x'][i])} + {int(classes['y_mixed'][i] + classes['y_solo'][i])} served"
        )
        canvas.text((_MARGIN + 18, top), _shortened(own.name, 20), _INK, _font(14))
        canvas.text((_MARGIN + _PANEL, top), served, _FAINT, _font(13), anchor="ra")
        for k in range(2 if height >= _TWO_BARS else 1):
            bar = top + 20 + 18 * k
            _bar(
                canvas,
                (_MARGIN, bar, _MARGIN + _PANEL - 44, bar + 13),
                waiting[k, i],
                longest,
                colour,
            )
            canvas.text(
                (_MARGIN + _PANEL, bar - 1), f"{int(waiting[k, i]):,}", _INK, _font(13), anchor="ra"
            )


def _bar(
    canvas: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    value: float,
    most: float,
    colour: Colour,
) -> None:
    left, top, right, bottom = box
    canvas.rectangle(box, _TRACK)
    if value > 0:
        canvas.rectangle(
            (left, top, left + max(1, round((right - left) * value / most)), bottom), colour
        )


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _draw_gpus(canvas: ImageDraw.ImageDraw, state: EngineState) -> None:
    left, top, right, bottom = _GPUS_AT
    n, slots = len(state.gpus), state.groups["batch_slots"][state.gpus["group"]]
    most = ((right - left) // _LEAST_TILE[0]) * ((bottom - top) // _LEAST_TILE[1])
    together = -(-n // most)
    tiles = -(-n // together)
    columns = _columns(tiles, right - left, bottom - top)
    width = (right - left) // columns
    height = min((bottom - top) // -(-tiles // columns), 2 * width + 40)
    grid = _slot_grid(int(slots.max()), width - 6, height - 10)
    progress = _prefill_progress(state)
    for tile in range(tiles):
        box = (
            left + (tile % columns) * width,
            top + (tile // columns) * height,
            left + (tile % columns + 1) * width - max(1, min(6, width // 6)),
            top + (tile // columns + 1) * height - max(1, min(6, height // 6)),
        )
        if grid is not None and together == 1:
            _draw_slots(canvas, box, state, tile, grid, int(slots[tile]), progress[tile])
            _draw_memory(canvas, box, state, tile, grid)
        else:
            gpus = slice(tile * together, (tile + 1) * together)
            _draw_shares(canvas, box, state, gpus, int(slots[gpus].sum()))
    if together > 1:
        text = f"a bar is {together} GPUs"
        canvas.text((right, top - 18), text, _FAINT, _font(13), anchor="ra")


def _columns(tiles: int, width: int, height: int) -> int:
    """Columns of tiles that are about as wide as high."""
    return max(1, min(tiles, math.ceil(math.sqrt(tiles * width / height))))


def _slot_grid(slots: int, width: int, height: int) -> tuple[int, int, int] | None:
    """Columns, rows and pixels of the slots of a tile; None where they would be too small."""
    grids = [(columns, -(-slots // columns)) for columns in range(1, slots + 1)]
    sized = [(c, r, min(width // c, height // r, _MOST_SLOT)) for c, r in grids]
    # Of the largest the one that is nearest to a square.
    columns, rows, size = max(sized, key=lambda grid: (grid[2], -abs(grid[0] - grid[1])))
    return (columns, rows, size) if size >= _LEAST_SLOT else None


def _draw_slots(
    canvas: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    state: EngineState,
    gpu: int,
    grid: tuple[int, int, int],
    slots: int,
    progress: float,
) -> None:
    """Every slot of a GPU: first the prefill, then the decodes by class."""
    columns, _, size = grid
    request = int(state.gpus["prefill_request"][gpu])
    decodes = np.repeat(np.arange(state.class_decodes.shape[1]), state.class_decodes[gpu]).tolist()
    filled: list[int] = ([-1] if request >= 0 else []) + decodes
    for slot in range(slots):
        x = box[0] + (slot % columns) * size
        y = box[1] + (slot // columns) * size
        cell = (x, y, x + size - 2, y + size - 2)
        if slot >= len(filled):
            canvas.rectangle(cell, _FREE)
        elif filled[slot] >= 0:
            canvas.rectangle(cell, _class_colour(filled[slot]))
        else:
            colour = _class_colour(int(state.requests["request_class"][request]))
            canvas.rectangle(cell, _PAPER, outline=colour)
            inner = x + 1 + round((size - 4) * progress)
            canvas.rectangle((x, y, inner, y + size - 2), colour)
            canvas.rectangle(cell, None, outline=_INK)


def _draw_memory(
    canvas: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    state: EngineState,
    gpu: int,
    grid: tuple[int, int, int],
) -> None:
    """How much of the KV cache is reserved, below the slots, if it is limited."""
    if not len(state.kv_reserved):
        return
    share = float(state.kv_reserved[gpu]) / float(state.settings["kv_tokens"][0])
    columns, rows, size = grid
    left, top = box[0], box[1] + rows * size
    _bar(canvas, (left, top + 1, left + columns * size - 2, top + 4), min(1.0, share), 1.0, _INK)


def _draw_shares(
    canvas: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    state: EngineState,
    gpus: slice,
    room: int,
) -> None:
    """Shares of the slots of one GPU or several, from below: prefills, decodes by class."""
    left, top, right, bottom = box
    prefills = state.gpus["prefill_request"][gpus]
    parts: list[tuple[int, Colour]] = [(int((prefills >= 0).sum()), _INK)]
    parts += [
        (int(count), _class_colour(i))
        for i, count in enumerate(state.class_decodes[gpus].sum(axis=0))
    ]
    canvas.rectangle(box, _FREE)
    done = 0
    for count, colour in parts:
        if count:
            low = bottom - round((bottom - top) * done / room)
            done += count
            high = bottom - round((bottom - top) * done / room)
            canvas.rectangle((left, min(high, low - 2), right, low), colour)


def _prefill_progress(state: EngineState) -> np.ndarray:
    """How far the prefill of each GPU has come, 0 to 1; shape (n,); 0 without one."""
    gpus, groups = state.gpus, state.groups
    running = gpus["prefill_request"] >= 0
    elapsed = np.maximum(0.0, float(state.clock["time"][0]) - gpus["updated_time"])
    seconds = gpus["iteration_seconds"]
    growth = state.loads["growth"] if len(state.loads) else np.zeros(len(gpus))
    with np.errstate(invalid="ignore", divide="ignore"):
        now = gpus["iterations"] + 2.0 * elapsed / (
            seconds + np.sqrt(seconds**2 + 2.0 * growth * elapsed)
        )
        prompts = state.requests["prompt_tokens"][np.maximum(gpus["prefill_request"], 0)]
        needed = np.maximum(prompts / groups["chunk_tokens"][gpus["group"]], 1e-9)
        progress = 1.0 - (gpus["prefill_mark"] - now) / np.maximum(needed, 1.0)
    found: np.ndarray = np.where(running, np.clip(np.nan_to_num(progress), 0.0, 1.0), 0.0)
    return found


def _draw_revenue(canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster) -> None:
    """Revenue so far as a share of R*, whose end is marked."""
    left, right = _MARGIN, SIZE[0] - _MARGIN - 120
    top, bottom = SIZE[1] - 36, SIZE[1] - 20
    totals = state.totals
    names = ("bundled_revenue",) if cluster.pricing == "bundled" else _SEPARATE
    revenue = sum(float(totals[name].sum()) for name in names)
    seconds = float(state.clock["time"][0] - state.clock["metrics_start"][0])
    share = revenue / (cluster.plan.value * cluster.n_gpus * seconds) if seconds > 0 else 0.0
    # The scale reaches a little beyond R*, which short runs may exceed.
    scale = 1.1
    _bar(canvas, (left, top, right, bottom), min(scale, share), scale, _CLASS_COLOURS[2])
    end = left + round((right - left) / scale)
    canvas.line((end, top - 5, end, bottom + 5), _INK, 2)
    canvas.text((end, top - 8), "R*", _INK, _font(13), anchor="ms")
    text = f"{share:.3f} of R*"
    canvas.text((SIZE[0] - _MARGIN, (top + bottom) // 2), text, _INK, _font(17), anchor="rm")


_SEPARATE = ("prefill_revenue", "decode_revenue")
