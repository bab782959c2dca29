"""Event control on every sample path: whatever an agent does, the books balance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from event_accounting import OCCUPANCIES, Books
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from sample_paths import instances, streams

from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.errors import PlanError
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    DECODE_START,
    LEAVE_DECODE,
    LEAVE_PREFILL,
    PREFILL_END,
    PREFILL_START,
)

DISPATCHES = [
    ("agent", "static"),
    ("agent", "dynamic"),
    ("randomized", "static"),
    ("randomized", "dynamic"),
    ("coupled", "dynamic"),
]


@st.composite
def controlled_clusters(draw: st.DrawFn) -> dict[str, Any]:
    """A recorded stream, any router and pools, and how a random agent acts."""
    instance, n_gpus = draw(instances()), draw(st.integers(1, 5))
    router, pools = draw(st.sampled_from(DISPATCHES))
    return {
        "instance": instance,
        "n_gpus": n_gpus,
        "router": router,
        "pools": pools,
        "pool_size": draw(st.integers(0, n_gpus)),
        "stream": draw(streams(instance, n_gpus)),
        "seed": draw(st.integers(0, 2**32)),
        "laziness": draw(st.sampled_from([0.0, 0.1, 0.5])),
    }


def random_run(arguments: dict[str, Any]) -> tuple[EventControl, int]:
    """Possible actions at random until the horizon; how many there were."""
    instance: Instance = arguments["instance"]
    stream = arguments["stream"]
    configuration = EventConfiguration.validated(
        instance,
        arguments["n_gpus"],
        horizon=float(stream.arrival_time[-1]) + 50.0,
        router=arguments["router"],
        pools=arguments["pools"],
    )
    size = len(stream.arrival_time)
    control = EventControl(configuration, stream=stream, log_events=6 * size, latencies=True)
    control._plan_controls[-1] = arguments["pool_size"]
    rng = np.random.default_rng(arguments["seed"])
    control.start(0, np.random.SeedSequence(arguments["seed"]))
    actions = 0
    while not control.truncated()[0]:
        possible = np.flatnonzero(control.action_masks()[0])
        action = 0 if rng.random() < arguments["laziness"] else rng.choice(possible)
        control.step([action], control.empty_report())
        actions += 1
    return control, actions


@pytest.mark.extended
@settings(max_examples=150, deadline=None, derandomize=True)
@given(arguments=controlled_clusters())
def test_random_agents_keep_the_books(arguments: dict[str, Any]) -> None:
    try:
        control, _ = random_run(arguments)
    except PlanError:
        reject()
    instance, stream, n_gpus = (arguments[k] for k in ("instance", "stream", "n_gpus"))
    rule = control.configuration.rule
    books = Books(instance, rule, control._plan_controls, n_gpus, stream)
    events = control.batch.events(0)
    books.replay(events)
    metrics = control.batch.metrics(0)
    books._pass(metrics.end)
    n = instance.n_classes
    for name, indices in (
        ("completed", books.completed),
        ("abandoned_prefill", books.left_prefill),
        ("abandoned_decode", books.left_decode),
        ("rejected", books.rejected),
        ("prefilled", books.prefilled),
    ):
        found = np.bincount(stream.request_class[indices], minlength=n)
        np.testing.assert_array_equal(metrics.counts[name], found, name)
    assert metrics.inside.sum() == books.inside()
    areas = np.array([metrics.occupancy[name] for name in OCCUPANCIES]) * metrics.gpu_seconds
    np.testing.assert_allclose(areas, books.areas, rtol=1e-9, atol=1e-7)


def test_random_agents_meet_every_kind_of_event() -> None:
    """Power: the runs above start, end and lose requests in every way."""
    kinds: set[int] = set()

    @settings(max_examples=30, deadline=None, derandomize=True, database=None)
    @given(arguments=controlled_clusters())
    def collect(arguments: dict[str, Any]) -> None:
        try:
            control, _ = random_run(arguments)
        except PlanError:
            reject()
        kinds.update(control.batch.events(0)["kind"].tolist())

    collect()
    started = {ARRIVE, PREFILL_START, PREFILL_END, DECODE_START, DECODE_END}
    assert started | {LEAVE_PREFILL, LEAVE_DECODE} <= kinds
