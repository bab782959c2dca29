"""Keys of a terminal, one by one and without waiting."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Keyboard:
    """Reads what has been pressed."""

    def pressed(self) -> str:
        """Keys since the last call, in their order; one character each."""
        if sys.platform == "win32":
            import msvcrt

            found = ""
            while msvcrt.kbhit():
                found += msvcrt.getwch()
            return found
        import os
        import select

        keys = b""
        while select.select([sys.stdin], [], [], 0.0)[0]:
            more = os.read(sys.stdin.fileno(), 64)
            if not more:  # the terminal is gone
                return "q"
            keys += more
        return keys.decode(errors="ignore")


@contextmanager
def keyboard() -> Iterator[Keyboard]:
    """The keyboard of the terminal, which gives each key at once and does not show it."""
    if sys.platform == "win32":
        yield Keyboard()
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield Keyboard()
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
