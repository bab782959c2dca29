"""A cluster as coloured text: queues by class, GPUs with their slots, the revenue against R*."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import Group, RenderableType
from rich.style import Style
from rich.text import Text

from llm_sched_env.envs.picture_style import class_colour, shortened
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState
from llm_sched_env.watching.session import HELP, Session

_LEVELS = " ▁▂▃▄▅▆▇█"
_FREE, _PREFILL = "·", "▶"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME = 22


def terminal_picture(session: Session, width: int, height: int) -> RenderableType:
    """All there is to see now, in so many columns and lines."""
    state = session.current.state
    classes = _class_lines(state, session, width)
    scores = _score_lines(session, width)
    room = height - len(classes) - len(scores) - 5
    lines = [
        _title(session),
        Text(),
        *classes,
        Text(),
        *_gpu_lines(state, session, width, max(room, 2 * len(state.groups))),
        Text(),
        *scores,
        Text(HELP, style="dim", no_wrap=True, overflow="crop"),
    ]
    return Group(*lines)


def _title(session: Session) -> Text:
    instance, n = session.cluster.instance.name, session.cluster.n_gpus
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{instance}, {n:,} GPUs", style="bold")
    text.append(f"   {session.current.name}", style="bold green")
    text.append(f"   t = {session.time:.1f} s   ")
    if session.time >= session.horizon:
        text.append("ended", style="reverse")
    elif session.paused:
        text.append("paused", style="reverse")
    else:
        text.append(f"{session.speed:g} x", style="dim")
    return text


def _class_lines(state: EngineState, session: Session, width: int) -> list[Text]:
    """A line a class: who waits for a prefill, is prefilled, waits for a slot, decodes."""
    instance = session.cluster.instance
    by_class = state.classes.reshape(instance.n_classes, -1)
    counts = {name: by_class[name].sum(axis=1).tolist() for name in OCCUPANCIES}
    bar = max(4, min(24, (width - _NAME - 44) // 2))
    longest = max(10, *counts["q_prefill"], *counts["q_decode"])
    head = f"{'class':{_NAME}}{'waiting':<{bar + 7}}{'prefill':>7}  {'waiting':<{bar + 7}}"
    lines = [Text(head + f"{'decode':>7}", style="dim", no_wrap=True, overflow="crop")]
    for i, own in enumerate(instance.classes):
        line = Text(no_wrap=True, overflow="crop")
        line.append(_letter(i), style=_class_style(i))
        line.append(f" {shortened(own.name, _NAME - 4):{_NAME - 2}}")
        decodes = int(counts["y_mixed"][i] + counts["y_solo"][i])
        for queue, served in (("q_prefill", int(counts["x"][i])), ("q_decode", decodes)):
            line.append_text(_bar(counts[queue][i] / longest, bar, _class_style(i)))
            line.append(f"{int(counts[queue][i]):>6,}")
            line.append(f"{served:>8,}  ")
        lines.append(line)
    return lines


def _gpu_lines(state: EngineState, session: Session, width: int, room: int) -> list[Text]:
    """Groups of GPUs below each other, each with its part of the lines."""
    sizes = state.groups["n_gpus"].tolist()
    several = len(sizes) > 1
    lines: list[Text] = []
    first = 0
    for group, size in zip(session.cluster.instance.groups, sizes, strict=True):
        gpus = np.arange(first, first + size)
        own_room = max(1, room * size // sum(sizes) - several)
        if several:
            lines.append(Text(f"{group.name}: {size:,} GPUs, {group.role}", style="dim"))
        slots = group.hardware.batch_slots
        across = max(1, width // (slots + 1))
        if slots < width and -(-size // across) <= own_room:
            lines += _slot_lines(state, gpus, slots, across)
        else:
            lines += _stack_lines(state, gpus, slots, width, own_room)
        first += size
    return lines


def _slot_lines(state: EngineState, gpus: np.ndarray, slots: int, across: int) -> list[Text]:
    """Every slot a character: the prefill, decodes by the letter of their class, free ones."""
    lines = []
    for start in range(0, len(gpus), across):
        line = Text(no_wrap=True, overflow="crop")
        for gpu in gpus[start : start + across].tolist():
            request = int(state.gpus["prefill_request"][gpu])
            used = int(request >= 0)
            if request >= 0:
                of_class = int(state.requests["request_class"][request])
                line.append(_PREFILL, style=_class_style(of_class))
            for i, count in enumerate(state.class_decodes[gpu].tolist()):
                line.append(_letter(i) * count, style=_class_style(i))
                used += count
            line.append(_FREE * (slots - used) + " ", style="dim")
        lines.append(line)
    return lines


def _stack_lines(
    state: EngineState, gpus: np.ndarray, slots: int, width: int, room: int
) -> list[Text]:
    """A GPU, or several, a column: shares of slots from below, prefills first, then by class."""
    room = max(1, room - 1)
    together = -(-len(gpus) // (room * width))
    parts = [gpus[k : k + together] for k in range(0, len(gpus), together)]
    bands = -(-len(parts) // width)
    high = max(1, min(4, room // bands))
    note = f"a column is {together:,} GPUs" if together > 1 else "a column is a GPU"
    lines = [Text(f"{note}: prefills white, then decodes by class", style="dim", no_wrap=True)]
    for start in range(0, len(parts), width):
        band = [Text(no_wrap=True, overflow="crop") for _ in range(high)]
        for part in parts[start : start + width]:
            for line, (level, style) in zip(band, _column(state, part, slots, high), strict=True):
                line.append(level, style=style)
        lines += band
    return lines


def _column(
    state: EngineState, gpus: np.ndarray, slots: int, high: int
) -> Iterator[tuple[str, Style]]:
    """Characters of a column from the top, each with what is below and above in it."""
    prefills = int((state.gpus["prefill_request"][gpus] >= 0).sum())
    counts = np.array([prefills, *state.class_decodes[gpus].sum(axis=0)])
    # Where each colour ends, in eighths of a character from below; the last, free slots and a
    # line that parts the rows of columns, has none.
    shares = np.cumsum(counts) / (slots * len(gpus))
    ends = np.append(np.round(shares * (8 * high - 1)), 8 * high)
    colours = ["white", *(_class_colour(i) for i in range(len(counts) - 1)), None]
    for row in reversed(range(high)):
        bottom, top = 8 * row, 8 * row + 8
        below = int(np.searchsorted(ends, bottom, side="right"))
        level = int(min(ends[below], top)) - bottom
        above = int(np.searchsorted(ends, min(top - 1, bottom + level), side="right"))
        if colours[below] is None:
            yield " ", Style()
        else:
            yield _LEVELS[level], Style(color=colours[below], bgcolor=colours[above])


def _score_lines(session: Session, width: int) -> list[Text]:
    """Each policy with what it has earned so far as a share of R*."""
    bar = max(10, width - _NAME - 28)
    lines = []
    for k, live in enumerate(session.clusters):
        share = session.score(live)
        totals = live.state.totals
        abandoned = int((totals["abandoned_prefill"] + totals["abandoned_decode"]).sum())
        line = Text(no_wrap=True, overflow="crop")
        style = "bold green" if k == session.shown else ""
        line.append(f"{k + 1} {shortened(live.name, _NAME - 3):{_NAME - 2}}", style=style)
        line.append_text(_bar(share, bar, Style(color="green")))
        line.append(f" {share:6.3f} of R*")
        line.append(f" {abandoned:>8,} left", style="dim")
        lines.append(line)
    return lines


def _bar(share: float, width: int, style: Style) -> Text:
    """A bar in eighths of a character on a dim track."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    bar = Text(filled, style=style)
    bar.append("·" * (width - len(filled)), style="dim")
    return bar


def _letter(i: int) -> str:
    return _LETTERS[i % len(_LETTERS)]


def _class_style(i: int) -> Style:
    return Style(color=_class_colour(i))


def _class_colour(i: int) -> str:
    red, green, blue = class_colour(i)
    return f"rgb({red},{green},{blue})"
