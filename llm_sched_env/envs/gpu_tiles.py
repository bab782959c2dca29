"""The GPUs of a picture as tiles: slots by class, prefills, reserved memory."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from llm_sched_env.envs.picture_style import (
    FAINT,
    FREE,
    INK,
    PAPER,
    Colour,
    class_colour,
    draw_bar,
    font,
)
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import EngineState

# A tile narrower than this shows shares of its slots, not every one of them.
_LEAST_SLOT, _MOST_SLOT = 5, 56
_LEAST_TILE = (6, 10)
_CAPTION, _LEAST_BAND = 20, 44  # height of a group's name; least height of its tiles

Box = tuple[int, int, int, int]


def draw_gpus(canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster, box: Box) -> None:
    """Tiles of all GPUs in a box of pixels; several groups below each other, by name."""
    left, top, right, bottom = box
    progress = _prefill_progress(state)
    sizes = state.groups["n_gpus"].tolist()
    if len(sizes) == 1:
        _draw_group(canvas, state, range(sizes[0]), progress, box)
        return
    # Each gets a part of the height by its number of GPUs, but enough to be seen.
    shown = bottom - top - len(sizes) * (_CAPTION + _LEAST_BAND)
    first = 0
    for group, size in zip(cluster.instance.groups, sizes, strict=True):
        gpus = range(first, first + size)
        height = _CAPTION + _LEAST_BAND + shown * size // sum(sizes)
        running = int((state.gpus["prefill_request"][first : first + size] >= 0).sum())
        text = f"{group.name}: {size:,} GPUs"
        text += f" that {group.role}" if group.role != "mixed" else f", {running:,} with a prefill"
        canvas.text((left, top), text, FAINT, font(13))
        _draw_group(canvas, state, gpus, progress, (left, top + _CAPTION, right, top + height))
        first, top = first + size, top + height


def _draw_group(
    canvas: ImageDraw.ImageDraw,
    state: EngineState,
    gpus: range,
    progress: np.ndarray,
    box: Box,
) -> None:
    left, top, right, bottom = box
    n, slots = len(gpus), int(state.groups["batch_slots"][state.gpus["group"][gpus[0]]])
    most = ((right - left) // _LEAST_TILE[0]) * ((bottom - top) // _LEAST_TILE[1])
    together = -(-n // most)
    tiles = -(-n // together)
    columns = _columns(tiles, right - left, bottom - top)
    width = (right - left) // columns
    height = min((bottom - top) // -(-tiles // columns), 2 * width + 40)
    grid = _slot_grid(slots, width - 6, height - 10)
    for tile in range(tiles):
        place = (
            left + (tile % columns) * width,
            top + (tile // columns) * height,
            left + (tile % columns + 1) * width - max(1, min(6, width // 6)),
            top + (tile // columns + 1) * height - max(1, min(6, height // 6)),
        )
        own = gpus[tile * together : (tile + 1) * together]
        if grid is not None and together == 1:
            _draw_slots(canvas, place, state, own[0], grid, slots, progress[own[0]])
            _draw_memory(canvas, place, state, own[0], grid)
        else:
            _draw_shares(canvas, place, state, slice(own[0], own[-1] + 1), slots * len(own))
    if together > 1:
        text = f"a bar is {together} GPUs"
        canvas.text((right, top - 18), text, FAINT, font(13), anchor="ra")


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
            canvas.rectangle(cell, FREE)
        elif filled[slot] >= 0:
            canvas.rectangle(cell, class_colour(filled[slot]))
        else:
            colour = class_colour(int(state.requests["request_class"][request]))
            canvas.rectangle(cell, PAPER, outline=colour)
            inner = x + 1 + round((size - 4) * progress)
            canvas.rectangle((x, y, inner, y + size - 2), colour)
            canvas.rectangle(cell, None, outline=INK)


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
    draw_bar(canvas, (left, top + 1, left + columns * size - 2, top + 4), min(1.0, share), 1.0, INK)


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
    parts: list[tuple[int, Colour]] = [(int((prefills >= 0).sum()), INK)]
    parts += [
        (int(count), class_colour(i))
        for i, count in enumerate(state.class_decodes[gpus].sum(axis=0))
    ]
    canvas.rectangle(box, FREE)
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
