"""Say in a line that the engine is being compiled, since a first use then seems to hang.

The line is a record of the logger ``llm_sched_env.compile``: without any logging set up it goes
to stderr, with it to where the program's log goes, and a level or a handler silences it. Numba
tells when it compiles, so nothing is said where machine code is loaded from its cache.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from numba.core import event

LOGGER = logging.getLogger("llm_sched_env.compile")
_ENGINE = "llm_sched_env.simulation.engine"
_LINE = (
    "llm_sched_env: compiling the engine for this machine, which takes some minutes; "
    "later runs load it from a cache"
)


class _Notice(event.Listener):
    """Tells once a process."""

    def __init__(self) -> None:
        self.told = False

    def on_start(self, found: Any) -> None:
        """A function is about to be compiled."""
        function = getattr(found.data.get("dispatcher"), "py_func", None)
        if not self.told and getattr(function, "__module__", "") == _ENGINE:
            self.told = True
            LOGGER.warning(_LINE)

    def on_end(self, found: Any) -> None:
        """It has been."""


_NOTICE = _Notice()


@cache
def announce_compilation() -> None:
    """From now on the first compilation of the engine in this process is announced."""
    event.register("numba:compile", _NOTICE)
