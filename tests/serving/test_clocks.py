"""The clock of the wall goes on by itself; the processor's goes on while the thread computes."""

from __future__ import annotations

import time

import pytest

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.serving.clocks import clock_of


def test_the_processor_s_clock_counts_what_is_computed() -> None:
    clock = clock_of("processor")
    before = clock.now()
    time.sleep(0.2)  # as if another program had the processor
    assert clock.now() - before < 0.1
    begun = time.thread_time()
    while time.thread_time() - begun < 0.05:
        pass
    assert clock.now() - before >= 0.05


@pytest.mark.parametrize("name", ["wall", "processor"])
def test_a_sleep_ends_at_its_time(name: str) -> None:
    clock = clock_of(name)
    clock.start()
    begun = time.perf_counter()
    clock.sleep(0.1)
    assert time.perf_counter() - begun > 0.09
    now = clock.now()
    assert now >= 0.1 - 1e-9
    clock.sleep(now - 0.05)  # is over
    assert time.perf_counter() - begun < 10.0


def test_a_clock_that_cannot_tell_the_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"wall|processor"):
        clock_of("sundial")
    for more in ({"device": "cuda"}, {"workers": 2}):
        with pytest.raises(ConfigurationError, match="one engine on a CPU"):
            clock_of("processor", **more)
