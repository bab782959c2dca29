"""Render a cluster as text or as a picture."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState

RENDER_MODES = ("ansi", "rgb_array")
RENDER_METADATA = {"render_modes": [*RENDER_MODES], "render_fps": 1}
"""What Gymnasium's wrappers ask an environment's metadata for."""

_CELL = 6  # pixels of a slot, border included
_GPUS_PER_ROW = 64
_BACKGROUND, _FREE = (255, 255, 255), (222, 222, 222)
_PREFILL, _MIXED_DECODE, _SOLO_DECODE = (214, 39, 40), (255, 152, 80), (31, 119, 180)


def checked_render_mode(mode: Any) -> str | None:
    """The mode; raises ConfigurationError."""
    if mode is None or mode in RENDER_MODES:
        chosen: str | None = mode
        return chosen
    remedy = 'wrap "rgb_array" in Gymnasium\'s HumanRendering' if mode == "human" else ""
    raise ConfigurationError(
        "render_mode", mode, f"None or one of {', '.join(RENDER_MODES)}", remedy
    )


def warn_no_mode() -> None:
    """Say that there is nothing to render, as Gymnasium's environments do."""
    gym.logger.warn("render() does nothing without a render_mode")


def show(state: EngineState, cluster: Cluster, mode: str) -> str | np.ndarray:
    """A cluster in one of ``RENDER_MODES``."""
    return describe(state, cluster) if mode == "ansi" else draw(state, cluster)


def describe(state: EngineState, cluster: Cluster) -> str:
    """One line per class with its requests at every station."""
    header = f"t = {float(state.clock['time'][0]):.1f} s, {cluster.n_gpus} GPUs, "
    header += f"{int(state.clock['mixed_pool_size'][0])} in the mixed pool"
    width = max(len(c.name) for c in cluster.instance.classes)
    titles = " ".join(f"{name:>9}" for name in OCCUPANCIES)
    lines = [header, " " * width + titles]
    for request_class, counts in zip(cluster.instance.classes, state.classes, strict=True):
        row = " ".join(f"{int(counts[name]):9d}" for name in OCCUPANCIES)
        lines.append(f"{request_class.name:<{width}}{row}")
    return "\n".join(lines)


def draw(state: EngineState, cluster: Cluster) -> np.ndarray:
    """A picture of all slots; uint8, shape (height, width, 3).

    A column is a GPU, 64 to a row of columns; from below, red is its prefill, orange are decodes
    beside one, blue decodes without one, grey free slots.
    """
    slots = cluster.instance.hardware.batch_slots
    prefilling = state.gpus["prefill_request"] >= 0
    used = state.gpus["decodes"] + prefilling
    colours = np.full((len(used), slots, 3), _FREE, np.uint8)
    decode = np.where(prefilling[:, None], _MIXED_DECODE, _SOLO_DECODE)
    colours = np.where(
        np.arange(slots)[None, :, None] < used[:, None, None], decode[:, None, :], colours
    )
    colours[prefilling, 0] = _PREFILL
    columns = min(_GPUS_PER_ROW, len(used))
    rows = -(-len(used) // columns)
    picture = np.full((rows, columns, (slots + 1) * _CELL, _CELL, 3), _BACKGROUND, np.uint8)
    for gpu, column in enumerate(colours):
        # Slot 0 at the bottom; a pixel of background separates the cells.
        cells = np.repeat(np.repeat(column[::-1, None], _CELL, axis=0), _CELL, axis=1)
        tile = picture[gpu // columns, gpu % columns, : slots * _CELL]
        tile[...] = cells
        tile[::_CELL] = tile[:, 0] = _BACKGROUND
    height, width = rows * (slots + 1) * _CELL, columns * _CELL
    return np.ascontiguousarray(picture.transpose(0, 2, 1, 3, 4).reshape(height, width, 3))
