"""Show a session: live in a terminal, or as frames one after another."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live

from llm_sched_env.watching.keyboard import keyboard
from llm_sched_env.watching.session import Session
from llm_sched_env.watching.terminal_picture import terminal_picture

_FRAME_SECONDS = 1 / 12
# A viewer who stopped the program does not find it hours ahead.
_MOST_SECONDS = 0.5
_PLAIN_HEIGHT = 24


def watch_live(session: Session, console: Console) -> None:
    """Fill the terminal until a key says that it is enough."""
    with keyboard() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        before = time.monotonic()
        while not session.ended:
            for key in keys.pressed():
                session.press(key)
            now = time.monotonic()
            session.pass_time(min(now - before, _MOST_SECONDS))
            before = now
            live.update(terminal_picture(session, console.width, console.height), refresh=True)
            time.sleep(max(0.0, _FRAME_SECONDS - (time.monotonic() - now)))


def print_frames(session: Session, console: Console, every: float) -> None:
    """Print what there is to see each so many simulated seconds, up to the horizon."""
    while session.time < session.horizon:
        session.advance_to(session.time + every)
        console.print(terminal_picture(session, console.width, _PLAIN_HEIGHT))
        console.print()
