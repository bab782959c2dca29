"""What must hold on every sample path, whatever the instance, rule, controls and stream."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from event_accounting import OCCUPANCIES, Books
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly import lightly
from reference_cases import RULES
from sample_paths import instances, streams

from llm_sched_env import presets
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import PRICINGS, plan
from llm_sched_env.simulation.scheduling.rules import (
    ROUTERS_BY_PROBABILITY,
    DispatchRule,
)
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import (
    DECODE_START,
    LEAVE_PREFILL,
    PREFILL_START,
    RequestStream,
)

# Where no free slot may be left that somebody waits for.
WORK_CONSERVING = [
    DispatchRule("fcfs", "coupled", "dynamic"),
    DispatchRule("fcfs", "solo-first", "static"),
    DispatchRule("occupancy", "solo-first", "static"),
    DispatchRule("occupancy", "solo-first", "dynamic", prefill_first=True),
]

shares = st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0])


@st.composite
def clusters(draw: st.DrawFn, rules: list[DispatchRule]) -> dict[str, Any]:
    """Arguments of a simulation of a recorded stream."""
    instance, n_gpus = draw(instances()), draw(st.integers(1, 5))
    several = st.lists(shares, min_size=instance.n_classes, max_size=instance.n_classes)
    stream = draw(streams(instance, n_gpus))
    controls = [*draw(several), *draw(several), draw(st.integers(0, n_gpus))]
    return {
        "instance": instance,
        "rule": draw(st.sampled_from(rules)),
        "controls": np.array(controls),
        "n_gpus": n_gpus,
        "seed": np.random.SeedSequence(draw(st.integers(0, 2**32))),
        "stream": stream,
        "log_events": 6 * len(stream.arrival_time),
        "ranks": np.arange(5.0 * instance.n_classes).reshape(5, -1),
        "weights": np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])[:, : instance.n_classes],
    }


def finished(arguments: dict[str, Any]) -> Simulation:
    cluster = Simulation(**arguments)
    cluster.run(np.inf)
    return cluster


def by_class(values: np.ndarray, classes: np.ndarray, indices: list[int], n: int) -> np.ndarray:
    return np.bincount(classes[indices], values[indices], minlength=n)


def check_books(arguments: dict[str, Any]) -> Books:
    """Replay the log with every check of Books, and compare what the engine counted."""
    cluster = finished(arguments)
    instance, stream = arguments["instance"], arguments["stream"]
    books = Books(
        instance, arguments["rule"], arguments["controls"], arguments["n_gpus"], stream
    ).replay(cluster.events())
    metrics, n, classes = cluster.metrics(), instance.n_classes, stream.request_class
    # Requests.
    size = len(stream.arrival_time)
    gone = (books.completed, books.left_prefill, books.left_decode, books.rejected)
    assert books.arrived == size
    assert sum(map(len, gone)) + books.inside() == size
    assert metrics.inside.sum() == books.inside()
    ones = np.ones(size)
    for name, indices in zip(
        ("completed", "abandoned_prefill", "abandoned_decode", "rejected", "prefilled"),
        (*gone, books.prefilled),
        strict=True,
    ):
        np.testing.assert_array_equal(
            metrics.counts[name], by_class(ones, classes, indices, n), name
        )
    # Whoever is left waits for a prefill that the gate or the pool never gives, or for more free
    # slots than the cluster has.
    slots = arguments["n_gpus"] * instance.hardware.batch_slots
    reserved = arguments["rule"].router == "bid-price" and arguments["ranks"][3].max() > slots
    randomized = arguments["rule"].router in ROUTERS_BY_PROBABILITY
    assert books.inside() == sum(map(len, books.queues)) or randomized or reserved
    # Tokens and money.
    prompt = by_class(stream.prompt_tokens, classes, books.prefilled, n)
    output = by_class(stream.output_tokens, classes, books.completed, n)
    paid_prompt = by_class(stream.prompt_tokens, classes, books.completed, n)
    prices = instance.prices
    for found, expected in (
        (metrics.prompt_tokens, prompt),
        (metrics.output_tokens, output),
        (metrics.prefill_revenue, prices.prefill * prompt),
        (metrics.decode_revenue, prices.decode * output),
        (metrics.bundled_revenue, prices.prefill * paid_prompt + prices.decode * output),
        (metrics.latency_sums, books.latencies),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-7)
    # Each latency is counted in the histogram.
    np.testing.assert_array_equal(
        metrics.latency_counts.sum(axis=-1),
        [metrics.counts["prefilled"], metrics.counts["completed"], metrics.counts["completed"]],
    )
    # Time.
    assert metrics.end == books.time
    if metrics.end > 0.0:
        areas = np.array([metrics.occupancy[name] for name in OCCUPANCIES]) * metrics.gpu_seconds
        np.testing.assert_allclose(areas, books.areas, rtol=1e-9, atol=1e-7)
    return books


@settings(max_examples=250, deadline=None, derandomize=True)
@given(arguments=clusters(RULES))
def test_every_rule_keeps_the_books(arguments: dict[str, Any]) -> None:
    check_books(arguments)


@pytest.mark.extended
@settings(max_examples=200, deadline=None, derandomize=True)
@given(arguments=clusters(WORK_CONSERVING))
def test_work_conserving_rules_leave_no_slot_idle(arguments: dict[str, Any]) -> None:
    """Only a pool without GPUs leaves a request behind."""
    books = check_books(arguments)
    if arguments["rule"].pools == "dynamic" or arguments["controls"][-1] > 0:
        assert books.inside() == 0


def long_path(rule: DispatchRule, log_events: int = 60_000) -> dict[str, Any]:
    """Thousands of requests of a preset."""
    instance, n_gpus, size = presets.overload(), 6, 4000
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 2, size).astype(np.int32)
    stream = RequestStream(
        np.cumsum(rng.exponential(1 / (2.0 * n_gpus), size)),
        classes,
        rng.exponential(instance.prompt_tokens[classes]),
        rng.exponential(instance.output_tokens[classes]),
    )
    return {
        "instance": instance,
        "rule": rule,
        "controls": plan(instance).controls(n_gpus),
        "n_gpus": n_gpus,
        "seed": np.random.SeedSequence(3),
        "stream": stream,
        "log_events": log_events,
        "weights": np.array([[1.0, 3.0], [3.0, 1.0]]),
    }


@pytest.mark.parametrize("rule", WORK_CONSERVING, ids=str)
def test_long_paths_keep_the_books(rule: DispatchRule) -> None:
    books = check_books(long_path(rule))
    assert len(books.completed) > 1500
    assert len(books.left_prefill) + len(books.left_decode) > 100


@pytest.mark.parametrize(
    ("rule", "other"),
    [
        (DispatchRule("credit", "solo-first", "static"), WORK_CONSERVING[2]),
        (DispatchRule("occupancy", "solo-first", "static"), WORK_CONSERVING[1]),
        (DispatchRule("occupancy", "randomized", "static"), WORK_CONSERVING[2]),
        (
            DispatchRule("occupancy", "weighted-randomized", "static"),
            DispatchRule("occupancy", "randomized", "static"),
        ),
        (DispatchRule("occupancy", "solo-first", "dynamic"), WORK_CONSERVING[2]),
        (DispatchRule("fcfs", "solo-first", "dynamic"), WORK_CONSERVING[0]),
    ],
    ids=str,
)
def test_books_of_another_rule_do_not_balance(rule: DispatchRule, other: DispatchRule) -> None:
    """Power: idle slots, wrong order, wrong router, wrong pool."""
    arguments = long_path(rule)
    cluster = finished(arguments)
    arguments["rule"] = other
    books = Books(*(arguments[k] for k in ("instance", "rule", "controls", "n_gpus", "stream")))
    with pytest.raises(AssertionError):
        books.replay(cluster.events())


@pytest.mark.parametrize(
    ("kind", "field", "change"),
    [(PREFILL_START, "gpu", 1), (DECODE_START, "gpu", 1), (LEAVE_PREFILL, "time", 1e-3)],
)
def test_books_notice_one_wrong_entry(kind: int, field: str, change: float) -> None:
    """Power: a single changed entry in the middle of a log."""
    arguments = long_path(WORK_CONSERVING[1])
    events = finished(arguments).events().copy()
    chosen = np.flatnonzero(events["kind"] == kind)[100]
    if field == "gpu":
        events[field][chosen] = (events[field][chosen] + change) % arguments["n_gpus"]
    else:
        events[field][chosen] = events[field][chosen + 1] + change
    books = Books(*(arguments[k] for k in ("instance", "rule", "controls", "n_gpus", "stream")))
    with pytest.raises(AssertionError):
        books.replay(events)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("ran", "checked"),
    [
        ({"iteration_law": "affine"}, {}),
        ({}, {"iteration_law": "affine"}),
        ({"chunking": "ceil"}, {}),
        ({}, {"chunking": "ceil"}),
        ({"kv_tokens": 20_000}, {"kv_tokens": 19_000}),
        ({"kv_tokens": 20_000}, {"kv_tokens": 21_000}),
        ({"kv_tokens": 20_000}, {}),
    ],
    ids=str,
)
def test_books_of_other_hardware_do_not_balance(
    ran: dict[str, Any], checked: dict[str, Any]
) -> None:
    """Power: the law of iterations, whole chunks and room for KV tokens are really checked."""
    arguments = long_path(WORK_CONSERVING[1])
    instance = arguments["instance"]

    def on(changes: dict[str, Any]) -> dict[str, Any]:
        hardware = dataclasses.replace(instance.hardware, **changes)
        return arguments | {"instance": dataclasses.replace(instance, hardware=hardware)}

    check_books(on(ran))
    events = finished(on(ran)).events()
    other = on(checked)
    books = Books(*(other[k] for k in ("instance", "rule", "controls", "n_gpus", "stream")))
    with pytest.raises(AssertionError):
        books.replay(events)


# The same cluster in other words.


def assert_same_events(arguments: dict[str, Any], other: dict[str, Any], time: float = 1.0) -> None:
    """Bit by bit, with times multiplied by a power of two."""
    ours, theirs = finished(arguments).events(), finished(other).events()
    for name in ("kind", "index", "gpu"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_array_equal(time * ours["time"], theirs["time"])


@pytest.mark.extended
@settings(max_examples=100, deadline=None, derandomize=True)
@given(arguments=clusters(RULES))
def test_units_of_time_and_tokens_do_not_matter(arguments: dict[str, Any]) -> None:
    """Seconds four times as long, and prompts and chunks in half tokens."""
    own, stream = arguments["instance"], arguments["stream"]
    hardware = own.hardware
    slower = dataclasses.replace(
        own,
        classes=tuple(
            dataclasses.replace(
                c, arrival_rate=c.arrival_rate / 4, patience_rate=c.patience_rate / 4
            )
            for c in own.classes
        ),
        hardware=dataclasses.replace(
            hardware, alpha=hardware.alpha * 4, beta=hardware.beta * 4, gamma=hardware.gamma / 4
        ),
    )
    other = {"instance": slower, "stream": stream._replace(arrival_time=4 * stream.arrival_time)}
    assert_same_events(arguments, arguments | other, 4.0)
    if hardware.iteration_law == "affine" or hardware.kv_tokens is not None:
        return  # there prompt and output tokens add up
    halves = dataclasses.replace(
        own,
        classes=tuple(
            dataclasses.replace(c, prompt_tokens=2 * c.prompt_tokens) for c in own.classes
        ),
        hardware=dataclasses.replace(
            hardware, beta=hardware.beta / 2, chunk_tokens=2 * hardware.chunk_tokens
        ),
    )
    other = {"instance": halves, "stream": stream._replace(prompt_tokens=2 * stream.prompt_tokens)}
    assert_same_events(arguments, arguments | other)


@pytest.mark.extended
@settings(max_examples=100, deadline=None, derandomize=True)
@given(arguments=clusters([rule for rule in RULES if rule.gate in {"fcfs", "credit"}]))
def test_names_of_classes_do_not_matter(arguments: dict[str, Any]) -> None:
    """Gates that break no tie by the number of a class: the reverse order changes nothing."""
    own, stream, controls = (arguments[k] for k in ("instance", "stream", "controls"))
    n = own.n_classes
    # The credit gate's timers at one time go by class: they do not change the events.
    assert_same_events(
        arguments,
        arguments
        | {
            "instance": dataclasses.replace(own, classes=own.classes[::-1]),
            "stream": stream._replace(request_class=n - 1 - stream.request_class),
            "controls": np.array([*controls[n - 1 :: -1], *controls[2 * n - 1 : n - 1 : -1],
                                  controls[-1]]),
        },
    )  # fmt: skip


# The fluid bound.


def random_instance(rng: np.random.Generator) -> Instance:
    """Around and above what the hardware can serve."""
    classes = tuple(
        RequestClass(
            f"class {k}",
            float(rng.uniform(50, 4000)),
            float(rng.uniform(30, 1200)),
            float(rng.uniform(0.1, 1.5)),
            float(rng.choice([0.0, 0.05, 0.3])),
        )
        for k in range(rng.integers(1, 4))
    )
    hardware = Hardware(
        float(rng.uniform(0.005, 0.03)), 6.2e-5, 45.45, 256, int(rng.integers(2, 20))
    )
    return Instance("random", classes, hardware, Prices(*rng.uniform(0.05, 0.3, 2)))


BOUNDED = {
    "base": presets.base(),
    "overload": presets.overload(),
    "dolly15k": presets.dolly15k(),
    **{f"random {k}": random_instance(np.random.default_rng(k)) for k in range(8)},
}
NAMED_RULES = [
    *WORK_CONSERVING,
    DispatchRule("strict-occupancy", "solo-first", "static"),
    DispatchRule("credit", "solo-first", "static"),
    DispatchRule("largest-credit", "solo-first", "dynamic"),
    DispatchRule("occupancy", "coupled", "dynamic"),
    DispatchRule("credit", "randomized", "static"),
]
REPLICATIONS = 6


def revenue_rates(
    instance: Instance, rule: DispatchRule, controls: np.ndarray, n_gpus: int, until: float
) -> np.ndarray:
    """Bundled and separate, shape (replications, 2), of clusters that start empty."""
    rates = []
    for seed in np.random.SeedSequence(17).spawn(REPLICATIONS):
        cluster = Simulation(instance, rule, controls, n_gpus, seed)
        cluster.run(until)
        rates.append([cluster.metrics().revenue_rate(pricing) for pricing in PRICINGS])
    return np.array(rates)


def excess(scores: np.ndarray) -> float:
    """Standard errors of the mean score above 1."""
    error = np.std(scores, ddof=1) / math.sqrt(len(scores))
    return float((scores.mean() - 1.0) / max(error, 1e-12))


@pytest.mark.parametrize("instance", lightly(BOUNDED, "overload", "random 0"))
def test_no_policy_earns_more_than_the_fluid_bound(instance: Instance) -> None:
    """From an empty start the bound holds in expectation at any time, not only in the long run:

    time averages of the occupancies satisfy the capacities on every path and, as requests in
    service at the end only add slack, the balances as inequalities in expectation.
    """
    best = 0.0
    plans = {pricing: plan(instance, pricing) for pricing in PRICINGS}
    bounds = [plans[pricing].value for pricing in PRICINGS]
    for rule, n_gpus in product(NAMED_RULES, (3, 20)):
        for fluid_plan in plans.values():
            rates = revenue_rates(instance, rule, fluid_plan.controls(n_gpus), n_gpus, 600.0)
            scores = rates / bounds
            assert excess(scores[:, 0]) < 3.0
            assert excess(scores[:, 1]) < 3.0
            best = max(best, scores.mean(axis=0).max())
    # Power: the bound is near, so that a wrong one would be exceeded.
    assert best > 0.95


def test_the_bound_of_slower_hardware_is_exceeded() -> None:
    """Power: iterations that last 10% longer in the program than in the cluster."""
    instance, n_gpus = presets.overload(), 100
    own = instance.hardware
    slower = dataclasses.replace(
        own, alpha=1.1 * own.alpha, beta=1.1 * own.beta, gamma=own.gamma / 1.1
    )
    bound = plan(dataclasses.replace(instance, hardware=slower)).value
    rule = DispatchRule("largest-credit", "solo-first", "dynamic")
    controls = plan(instance).controls(n_gpus)
    scores = revenue_rates(instance, rule, controls, n_gpus, 1000.0)[:, 0] / bound
    assert excess(scores) > 5.0
