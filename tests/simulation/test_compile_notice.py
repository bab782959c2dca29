"""A first use says that it compiles: once, where logs go, and only when it does."""

from __future__ import annotations

import logging

import pytest
from numba.core import event

from llm_sched_env.simulation.runtime import compile_notice


class Dispatcher:
    """What Numba says that it compiles."""

    def __init__(self, module: str) -> None:
        self.py_func = lambda: None
        self.py_func.__module__ = module


@pytest.fixture
def notice(monkeypatch):
    """As in a process that has compiled nothing."""
    monkeypatch.setattr(compile_notice._NOTICE, "told", False)
    compile_notice.announce_compilation()
    compile_notice.announce_compilation()


def compile_of(module: str) -> None:
    event.broadcast(
        event.Event("numba:compile", event.EventStatus.START, {"dispatcher": Dispatcher(module)})
    )


def test_the_engine_is_announced_once(notice, caplog) -> None:
    compile_of("somebody.else")
    assert caplog.records == []
    for _ in range(2):
        compile_of("llm_sched_env.simulation.engine")
    (record,) = caplog.records
    assert record.name == "llm_sched_env.compile"
    assert "compiling the engine" in record.message
    assert "\n" not in record.message


def test_a_level_silences_it(notice, caplog) -> None:
    logging.getLogger("llm_sched_env.compile").setLevel(logging.ERROR)
    try:
        compile_of("llm_sched_env.simulation.engine")
    finally:
        logging.getLogger("llm_sched_env.compile").setLevel(logging.NOTSET)
    assert caplog.records == []
