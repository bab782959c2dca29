"""Draw a cluster as a picture: GPUs, queues by class, and what it has earned of R*."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from llm_sched_env.envs.gpu_tiles import draw_gpus
from llm_sched_env.envs.picture_style import (
    CLASS_COLOURS,
    FAINT,
    INK,
    PAPER,
    class_colour,
    draw_bar,
    font,
    shortened,
)
from llm_sched_env.envs.rendering import revenue_share
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState

SIZE = (960, 540)
"""Width and height of a picture, pixels."""

_MARGIN, _PANEL = 24, 250
_TWO_BARS = 56  # least height of a class with a bar for each queue
GPUS_AT = (_MARGIN + _PANEL + 24, 76, SIZE[0] - _MARGIN, SIZE[1] - 64)
"""Left, top, right and bottom of the GPUs, pixels."""


def draw_cluster(state: EngineState, cluster: Cluster, pools: str) -> np.ndarray:
    """A picture of one cluster; uint8, shape (540, 960, 3).

    A tile is a GPU: its decodes in the colours of their classes, its prefill framed and filled as
    far as it has come, free slots grey; where KV tokens are limited a line below shows how much
    is reserved. Where there are too many GPUs for tiles with slots, a tile is a bar of shares, and
    beyond some thousands each stands for several GPUs. Groups of GPUs are below each other.
    """
    picture = Image.new("RGB", SIZE, PAPER)
    canvas = ImageDraw.Draw(picture)
    _draw_title(canvas, state, cluster, pools)
    _draw_classes(canvas, state, cluster)
    draw_gpus(canvas, state, cluster, GPUS_AT)
    _draw_revenue(canvas, state, cluster)
    return np.asarray(picture).copy()


def _draw_title(
    canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster, pools: str
) -> None:
    seconds = float(state.clock["time"][0])
    prefills = int((state.gpus["prefill_request"] >= 0).sum())
    pool = int(state.groups["mixed_pool_size"].sum())
    canvas.text((_MARGIN, 18), cluster.instance.name, INK, font(24))
    counts = f"{cluster.n_gpus:,} GPUs, {prefills:,} with a prefill"
    if pools == "static":
        first = "the first " if len(state.groups) == 1 else ""
        counts += f", {first}{pool:,} may prefill"
    canvas.text((GPUS_AT[0], 24), counts, INK, font(16))
    canvas.text((SIZE[0] - _MARGIN, 24), f"t = {seconds:,.1f} s", INK, font(16), anchor="ra")


def _draw_classes(canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster) -> None:
    """Requests by class and station; bars of those that wait, on one scale."""
    by_class = state.classes.reshape(cluster.instance.n_classes, -1)
    classes = {name: by_class[name].sum(axis=1) for name in OCCUPANCIES}
    waiting = np.stack([classes["q_prefill"], classes["q_decode"]])
    longest = max(10, int(waiting.max()))
    room = SIZE[1] - 64 - 100
    height = min(66, room // cluster.instance.n_classes)
    header = "waiting for a prefill, and for a decode slot" if height >= _TWO_BARS else "waiting"
    canvas.text((_MARGIN, 78), header, FAINT, font(13))
    for i, own in enumerate(cluster.instance.classes):
        top, colour = 100 + i * height, class_colour(i)
        if height < 24:  # names and numbers do not fit: bars only
            draw_bar(
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
        canvas.text((_MARGIN + 18, top), shortened(own.name, 20), INK, font(14))
        canvas.text((_MARGIN + _PANEL, top), served, FAINT, font(13), anchor="ra")
        for k in range(2 if height >= _TWO_BARS else 1):
            bar = top + 20 + 18 * k
            draw_bar(
                canvas,
                (_MARGIN, bar, _MARGIN + _PANEL - 44, bar + 13),
                waiting[k, i],
                longest,
                colour,
            )
            canvas.text(
                (_MARGIN + _PANEL, bar - 1), f"{int(waiting[k, i]):,}", INK, font(13), anchor="ra"
            )


def _draw_revenue(canvas: ImageDraw.ImageDraw, state: EngineState, cluster: Cluster) -> None:
    """Revenue so far as a share of R*, whose end is marked."""
    left, right = _MARGIN, SIZE[0] - _MARGIN - 120
    top, bottom = SIZE[1] - 36, SIZE[1] - 20
    share = revenue_share(state, cluster)
    # The scale reaches a little beyond R*, which short runs may exceed.
    scale = 1.1
    draw_bar(canvas, (left, top, right, bottom), min(scale, share), scale, CLASS_COLOURS[2])
    end = left + round((right - left) / scale)
    canvas.line((end, top - 5, end, bottom + 5), INK, 2)
    canvas.text((end, top - 8), "R*", INK, font(13), anchor="ms")
    text = f"{share:.3f} of R*"
    canvas.text((SIZE[0] - _MARGIN, (top + bottom) // 2), text, INK, font(17), anchor="rm")
