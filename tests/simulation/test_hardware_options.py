"""The affine iteration law, whole chunks and KV tokens: by hand, by exact chains, by replay."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from event_accounting import Books
from reference_cases import RULES, each_rule
from scipy import stats

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    LEAVE_PREFILL,
    PREFILL_END,
    PREFILL_START,
    REJECT,
    RequestStream,
)

COUPLED = DispatchRule("fcfs", "coupled", "dynamic")
SOLO_FIRST = DispatchRule("fcfs", "solo-first", "dynamic")


def on(instance: Instance, **fields: Any) -> Instance:
    """The instance on changed hardware."""
    return dataclasses.replace(instance, hardware=dataclasses.replace(instance.hardware, **fields))


def recorded(*requests: tuple[float, float, float]) -> RequestStream:
    """Requests of one class: arrival (s), prompt and output tokens."""
    times, prompts, outputs = (np.array(column, float) for column in zip(*requests, strict=True))
    return RequestStream(times, np.zeros(len(requests), np.int32), prompts, outputs)


def times_of(cluster: Simulation, kind: int) -> list[float]:
    """Of all requests that it happened to, by request."""
    events = cluster.events()
    chosen = events[events["kind"] == kind]
    return chosen["time"][np.argsort(chosen["index"])].tolist()


def replayed(
    instance: Instance, stream: RequestStream, n_gpus: int = 1, rule: DispatchRule = COUPLED
) -> Simulation:
    """Everybody is admitted; half of the GPUs, where there are pools, may prefill."""
    n = instance.n_classes
    solo = 1.0 if rule.pools == "dynamic" else 0.5  # a dynamic mixed line may wait for ever
    controls = np.array([1.0] * n + [solo] * n + [(n_gpus + 1) // 2])
    cluster = Simulation(
        instance, rule, controls, n_gpus, np.random.SeedSequence(3),
        stream=stream, log_events=7 * len(stream.arrival_time),
        ranks=np.zeros((5, instance.n_classes)), weights=np.ones((2, instance.n_classes)),
    )  # fmt: skip
    cluster.run(math.inf)
    return cluster


# The affine law by hand. In units of 1/256 s an iteration takes 4 and one more for each token
# above the first: 4, 5, 6, 7 for 1, 2, 3, 4 decodes, and 7, 8, 9 for a chunk of 4 tokens beside 0,
# 1, 2 decodes.
UNIT = 2.0**-8
BY_HAND = Instance(
    "by hand",
    (RequestClass("only", 100.0, 100.0, 1.0, 0.0),),
    Hardware(3 * UNIT, UNIT, 64.0, 4, 4, iteration_law="affine"),
    Prices(0.1, 0.2),
)


def units(*requests: tuple[float, float, float]) -> RequestStream:
    return recorded(*((UNIT * arrival, prompt, output) for arrival, prompt, output in requests))


@pytest.mark.parametrize("rule", [COUPLED, SOLO_FIRST], ids=str)
@pytest.mark.parametrize(
    ("stream", "ends"),
    [
        # Alone: 10 tokens of 4.
        (units((0, 0, 10)), [40]),
        # A has 4 tokens at 16, then 5 a token: B ends 4 tokens later at 36, when A has 8; at 4 a
        # token A ends at 44.
        (units((0, 0, 10), (16, 0, 4)), [44, 36]),
        # Three together at 6 a token, then two at 5, then one at 4.
        (units((0, 0, 2), (0, 0, 4), (0, 0, 7)), [12, 22, 34]),
        # A prefill of 8 tokens beside a decode that has 1 token: two iterations of 8 until 20. Then
        # two decodes at 5: E has 3 of 6 and ends at 35 when F has 3 of 5; F ends at 43.
        (units((0, 0, 6), (4, 8, 5)), [35, 43]),
        # A prefill of 6 tokens, 1.5 iterations of 7; a decode joins it after one, at 7: the rest,
        # half an iteration, takes 4. That decode has half a token then: 1.5 more at 5, until 18.5.
        (units((0, 6, 10)), [10.5 + 40]),
        # A decode of half a token beside a prefill: it ends within an iteration.
        (units((0, 0, 0.5), (0, 4, 1)), [4, 4 + 0.5 * 7 + 4]),
    ],
)
def test_decodes_end_when_the_sum_of_their_iterations_says(
    stream: RequestStream, ends: list[float], rule: DispatchRule
) -> None:
    found = times_of(replayed(BY_HAND, stream, rule=rule), DECODE_END)
    assert found == pytest.approx(UNIT * np.array(ends), rel=1e-12)
    # Power: the two-speed law gives something else, unless there is one token in each iteration.
    two_speed = times_of(
        replayed(on(BY_HAND, iteration_law="two-speed"), stream, rule=rule), DECODE_END
    )
    assert (found == pytest.approx(two_speed)) == (len(ends) == 1)


@pytest.mark.parametrize("rule", [COUPLED, SOLO_FIRST, DispatchRule("credit")], ids=str)
def test_below_its_flat_part_the_affine_law_has_one_speed(rule: DispatchRule) -> None:
    """b0 of a chunk and all decodes: each iteration takes 1/gamma, mixed or not.

    (3) says alpha + beta C < 1/gamma for this hardware: there the two-speed form differs, which
    is meant for chunks above b0. It agrees where its two speeds are set equal.
    """
    rng = np.random.default_rng(5)
    size, c = 400, 2.0**-6
    stream = RequestStream(
        np.cumsum(rng.exponential(0.05, size)),
        np.zeros(size, np.int32),
        rng.exponential(2000.0, size),
        rng.exponential(300.0, size),
    )
    classes = (RequestClass("only", 2000.0, 300.0, 5.0, 0.5),)
    flat = Hardware(c - 2.0**-16 * (256 + 8), 2.0**-16, 1 / c, 256, 8, iteration_law="affine")
    assert flat.flat_tokens == 264.0
    one_speed = Hardware(c, 0.0, 1 / c, 256, 8)
    ours, theirs = (
        replayed(Instance("flat", classes, hardware, Prices(0.1, 0.2)), stream, 3, rule).events()
        for hardware in (flat, one_speed)
    )
    for name in ("kind", "index", "gpu"):
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["time"], theirs["time"], rtol=1e-12)
    assert len(ours) > 1000


# Exact chains of one GPU under fcfs with coupled decodes.

REPLICATIONS, HORIZON, WARMUP = 20, 1200.0, 50.0
LARGEST_T = float(stats.t.isf(0.005 / 8, REPLICATIONS - 1))  # 99% for eight means together


def one_gpu(prompt: float, output: float, rate: float, patience: float, slots: int) -> Instance:
    hardware = Hardware(0.004, 0.001, 100.0, 20, slots, iteration_law="affine")  # b0 = 6
    return Instance(
        "one GPU",
        (RequestClass("only", prompt, output, rate, patience),),
        hardware,
        Prices(0.1, 0.2),
    )


def assert_means(found: list[np.ndarray], exact: np.ndarray) -> None:
    values = np.array(found)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    distance = np.abs(values.mean(axis=0) - exact) / np.maximum(error, 1e-300)
    assert (distance < LARGEST_T).all(), (values.mean(axis=0), exact, error)


def runs(instance: Instance) -> list[Simulation]:
    clusters = []
    for seed in np.random.SeedSequence(11).spawn(REPLICATIONS):
        cluster = Simulation(
            instance, COUPLED, np.array([1.0, 1.0, 0.0]), 1, seed, log_events=100_000
        )
        cluster.run(WARMUP)
        cluster.reset_metrics()
        cluster.run(HORIZON)
        clusters.append(cluster)
    return clusters


def shares_in_system(cluster: Simulation, size: int) -> np.ndarray:
    """Of the time since the warm-up with 0..size-1 requests present."""
    events = cluster.events()
    changes = np.select(
        [events["kind"] == ARRIVE, np.isin(events["kind"], (DECODE_END, LEAVE_PREFILL))], [1, -1], 0
    )
    present = np.concatenate([[0], np.cumsum(changes)])
    times = np.clip(np.concatenate([[0.0], events["time"], [HORIZON]]), WARMUP, HORIZON)
    return np.bincount(present, np.diff(times), minlength=size)[:size] / (HORIZON - WARMUP)


def test_decodes_that_slow_each_other_are_a_birth_death_chain() -> None:
    """Prompts of no length: k decodes end at the rate k / (D tau(k)), B = 12, b0 = 6."""
    slots, output, rate, patience = 12, 50.0, 14.0, 0.8
    instance = one_gpu(1e-9, output, rate, patience, slots)
    law = [1.0]
    for n in range(1, 60):
        k = min(n, slots)
        seconds = 0.01 + 0.001 * max(0, k - 6)
        law.append(law[-1] * rate / (k / (output * seconds) + patience * (n - k)))
    exact = np.array(law) / sum(law)
    busiest = np.argsort(exact)[-8:]
    found = [shares_in_system(cluster, 60)[busiest] for cluster in runs(instance)]
    assert_means(found, exact[busiest])
    # Power: with iterations of constant length.
    with pytest.raises(AssertionError):
        assert_means(
            [shares_in_system(c, 60)[busiest] for c in runs(on(instance, alpha=0.01, beta=1e-9))],
            exact[busiest],
        )


def prefill_and_decode_chain(instance: Instance, size: int = 40) -> dict[str, float]:
    """Means per GPU of the chain (waiting, prefilling, decoding), whose waiting room has an end."""
    only, hardware = instance.classes[0], instance.hardware
    slots, chunk = hardware.batch_slots, hardware.chunk_tokens
    states = [
        (q, x, y)
        for q, x, y in product(range(size), (0, 1), range(slots + 1))
        if x + y <= slots and (q == 0 or x == 1 or y == slots)
    ]
    place = {state: k for k, state in enumerate(states)}
    generator = np.zeros((len(states), len(states)))

    def admitted(q: int, x: int, y: int) -> tuple[int, int, int]:
        return (q - 1, 1, y) if q > 0 and x == 0 and y < slots else (q, x, y)

    for q, x, y in states:
        tau = max(hardware.tau_solo, hardware.alpha + hardware.beta * (x * chunk + y))
        moves = [
            (admitted(q + 1, x, y), only.arrival_rate),
            (admitted(q - 1, x, y), only.patience_rate * q),
            (admitted(q, 0, y + 1), x * chunk / (only.prompt_tokens * tau)),
            (admitted(q, x, y - 1), y / (only.output_tokens * tau)),
        ]
        for target, rate in moves:
            if rate > 0 and target in place:
                generator[place[q, x, y], place[target]] += rate
    generator -= np.diag(generator.sum(axis=1))
    equations = np.vstack([generator.T, np.ones(len(states))])
    law = np.linalg.lstsq(equations, np.append(np.zeros(len(states)), 1.0), rcond=None)[0]
    q, x, y = np.array(states).T
    assert law[q == size - 1].sum() < 1e-9
    means = {"q_prefill": q, "x": x, "y_mixed": x * y, "y_solo": (1 - x) * y}
    return {name: float(law @ value) for name, value in means.items()}


def test_prefills_and_decodes_on_one_affine_gpu_are_an_exact_chain() -> None:
    instance = one_gpu(prompt=300.0, output=40.0, rate=3.0, patience=0.5, slots=3)
    exact = prefill_and_decode_chain(instance)
    found = [
        np.array([cluster.metrics().occupancy[name][0] for name in exact])
        for cluster in runs(instance)
    ]
    assert_means(found, np.array(list(exact.values())))
    # Power: decodes beside a prefill that do not count.
    other = prefill_and_decode_chain(on(instance, beta=0.0008))
    with pytest.raises(AssertionError):
        assert_means(found, np.array(list(other.values())))


# Whole chunks.


@pytest.mark.parametrize("rule", [COUPLED, SOLO_FIRST], ids=str)
def test_prefills_take_whole_chunks(rule: DispatchRule) -> None:
    prompts = [0.0, 0.5, 1.0, 255.0, 256.0, 257.0, 512.0, 1000.0]
    stream = recorded(*((10.0 * k, prompt, 1.0) for k, prompt in enumerate(prompts)))
    for chunking, iterations in (
        ("ceil", [0, 1, 1, 1, 1, 2, 2, 4]),
        ("exact", np.array(prompts) / 256),
    ):
        instance = on(presets.base(), chunking=chunking)
        cluster = replayed(instance, stream, rule=rule)
        seconds = np.subtract(times_of(cluster, PREFILL_END), times_of(cluster, PREFILL_START))
        exact = np.array(iterations) * instance.hardware.tau_mixed
        np.testing.assert_allclose(seconds, exact, rtol=1e-9, atol=1e-12)


# KV tokens.

KV = 4000


def random_stream(size: int = 300, rate: float = 6.0) -> RequestStream:
    """Two classes; one in eight requests has more tokens than fit, some exactly as many."""
    rng = np.random.default_rng(8)
    total = np.where(rng.random(size) < 0.125, rng.uniform(KV, 3 * KV, size), 0.0)
    total = np.where(total > 0, total, rng.exponential(1300.0, size) % KV)
    total[::25] = KV
    prompts = np.floor(total * rng.random(size))
    return RequestStream(
        np.cumsum(rng.exponential(1.0 / rate, size)),
        rng.integers(0, 2, size).astype(np.int32),
        prompts,
        total - prompts,
    )


def with_patience(rate: float, kv_tokens: int | None) -> Instance:
    base = presets.overload()
    classes = tuple(dataclasses.replace(c, patience_rate=rate) for c in base.classes)
    return on(dataclasses.replace(base, classes=classes), kv_tokens=kv_tokens)


@each_rule(RULES)
def test_all_that_fit_are_served_in_the_end_and_all_others_rejected(rule: DispatchRule) -> None:
    instance, stream = with_patience(0.0, KV), random_stream()
    fits = stream.prompt_tokens + stream.output_tokens <= KV
    assert 20 < (~fits).sum() < 60
    cluster = replayed(instance, stream, 4, rule)
    controls = np.array([1.0, 1.0, 0.5, 0.5, 2.0])
    books = Books(instance, rule, controls, 4, stream).replay(cluster.events())  # KV never exceeded
    assert sorted(books.completed) == np.flatnonzero(fits).tolist()
    assert books.rejected == np.flatnonzero(~fits).tolist()
    counts = cluster.metrics().counts
    assert counts["rejected"].tolist() == np.bincount(stream.request_class[~fits]).tolist()
    assert counts["completed"].tolist() == np.bincount(stream.request_class[fits]).tolist()
    assert (cluster.state.kv_reserved == 0.0).all()


@each_rule(RULES)
def test_a_limit_that_never_binds_changes_nothing(rule: DispatchRule) -> None:
    stream = random_stream(rate=40.0)
    free, wide = (
        replayed(with_patience(0.3, kv_tokens), stream, 4, rule).events()
        for kv_tokens in (None, 10**9)
    )
    for name in ("kind", "index", "gpu"):
        np.testing.assert_array_equal(free[name], wide[name])
    # Not bit by bit: credit is counted once more, after an abandonment.
    np.testing.assert_allclose(free["time"], wide["time"], rtol=1e-12)
    assert (free["kind"] == LEAVE_PREFILL).sum() > 5


@pytest.mark.parametrize("rule", RULES[::7], ids=str)
def test_requests_add_up_along_the_way(rule: DispatchRule) -> None:
    instance = on(presets.overload(), kv_tokens=6000, iteration_law="affine", chunking="ceil")
    fluid = plan(instance)
    occupancy = np.where(np.isfinite(fluid.occupancy), fluid.occupancy, 0.0)
    cluster = Simulation(
        instance,
        rule,
        fluid.controls(5),
        5,
        np.random.SeedSequence(4),
        occupancy,
        log_events=20_000,
        ranks=slot_ranks(fluid, 5),
        weights=fluid.decode_weights,
    )
    for until in np.arange(0.0, 60.0, 1.3):
        cluster.run(until)
        metrics, state = cluster.metrics(), cluster.state
        counts = metrics.counts
        gone = sum(counts[f"abandoned_{where}"] for where in ("prefill", "decode"))
        gone = gone + counts["completed"] + counts["rejected"] + metrics.inside
        np.testing.assert_array_equal(counts["initial"] + counts["arrived"], gone)
        assert (state.kv_reserved <= 6000 * (1 + 1e-12)).all()
        assert (state.kv_reserved >= 0.0).all()
        reserved = state.kv_reserved.copy()
        requests, slots = state.requests, instance.hardware.batch_slots
        for gpu, record in enumerate(state.gpus):
            held = requests[state.decode_requests[gpu * slots :][: record["decodes"]]]
            reserved[gpu] -= held["prompt_tokens"].sum() + held["output_tokens"].sum()
            if record["prefill_request"] >= 0:
                prefill = requests[record["prefill_request"]]
                reserved[gpu] -= prefill["prompt_tokens"]
                reserved[gpu] -= prefill["output_tokens"] if rule.router == "coupled" else 0.0
        np.testing.assert_allclose(reserved, 0.0, atol=1e-8)
    events = cluster.events()
    assert (events["kind"] == REJECT).sum() == counts["rejected"].sum() > 5


@pytest.mark.parametrize("rule", [COUPLED, SOLO_FIRST, DispatchRule("credit")], ids=str)
def test_a_tight_limit_costs_revenue(rule: DispatchRule) -> None:
    """Lengths of 1300 and 3400 tokens: room for 16, for 4 or for 1 of the longer ones."""
    overload = presets.overload()
    fixed = LengthDistribution("deterministic")
    classes = tuple(
        dataclasses.replace(c, prompt_lengths=fixed, output_lengths=fixed) for c in overload.classes
    )
    instance = dataclasses.replace(overload, classes=classes)
    earned = []
    for kv_tokens in (None, 16 * 3400, 4 * 3400, 3400):
        limited = on(instance, kv_tokens=kv_tokens)
        cluster = Simulation(
            limited, rule, plan(limited).controls(10), 10, np.random.SeedSequence(2)
        )
        cluster.run(500.0)
        earned.append(cluster.metrics().revenue_rate("bundled"))
    assert earned[0] == pytest.approx(earned[1], rel=1e-12)
    assert earned[1] > 1.3 * earned[2] > 1.3 * 1.3 * earned[3] > 0.0


# Limits that turn requests away by their length.


def short_ones_earn_most(lengths: LengthDistribution) -> Instance:
    """An overloaded GPU of two slots on which a third of the requests fits."""
    only = RequestClass("only", 300.0, 1000.0, 2.0, 0.1, lengths, lengths)
    hardware = dataclasses.replace(presets.QWEN_8B_A100, batch_slots=2, kv_tokens=1000)
    return Instance("short ones", (only,), hardware, Prices(0.1, 0.2))


def test_the_bound_holds_for_exponential_lengths_that_may_not_fit() -> None:
    instance = short_ones_earn_most(LengthDistribution())
    fluid = plan(instance)
    scores = []
    for rule in (COUPLED, SOLO_FIRST, DispatchRule("credit", "randomized", "static")):
        cluster = Simulation(instance, rule, fluid.controls(10), 10, np.random.SeedSequence(1))
        cluster.run(1000.0)
        scores.append(cluster.metrics().revenue_rate("bundled") / fluid.value)
    assert max(scores) < 1.02


def test_the_bound_holds_for_own_bills_of_requests_that_may_not_fit() -> None:
    """One request in ten has a long output and is rejected: the rest is nearly all prompt."""
    outputs = LengthDistribution("empirical", values=(10.0,) * 9 + (9910.0,))
    only = RequestClass(
        "only", 300.0, 1000.0, 2.0, 0.1, LengthDistribution("deterministic"), outputs
    )
    instance = dataclasses.replace(short_ones_earn_most(LengthDistribution()), classes=(only,))
    fluid = plan(instance)
    cluster = Simulation(instance, SOLO_FIRST, fluid.controls(10), 10, np.random.SeedSequence(1))
    cluster.run(1000.0)
    assert cluster.metrics().revenue_rate("bundled") / fluid.value < 1.02


# Messages.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iteration_law": "flat"}, "hardware iteration_law: got 'flat', expected two-speed or"),
        ({"iteration_law": None}, "hardware iteration_law: got None, expected two-speed or"),
        ({"chunking": "floor"}, "hardware chunking: got 'floor', expected exact or ceil"),
        ({"kv_tokens": 0}, "hardware kv_tokens: got 0, expected an integer >= 1"),
        ({"kv_tokens": 1e4}, "hardware kv_tokens: got 10000.0, expected an integer >= 1"),
        ({"kv_tokens": True}, "hardware kv_tokens: got True, expected an integer >= 1"),
        ({"kv_tokens": 10**10}, "hardware kv_tokens: got 10000000000, expected an integer"),
        (
            {"iteration_law": "affine", "alpha": 0.03},
            "hardware alpha and beta: got (0.03, 6.2e-05), expected beta > 0 and alpha <= 1/g",
        ),
        (
            {"iteration_law": "affine", "beta": 0.0},
            "hardware alpha and beta: got (0.0174, 0.0), expected beta > 0 and alpha <= 1/gamma",
        ),
    ],
)
def test_a_bad_option_is_one_clear_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        dataclasses.replace(presets.QWEN_8B_A100, **fields)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_options_survive_a_file(tmp_path: Any, suffix: str) -> None:
    instance = on(
        presets.base(), iteration_law="affine", chunking="ceil", kv_tokens=np.int32(40_000)
    )
    instance.save(tmp_path / f"saved{suffix}")
    assert Instance.load(tmp_path / f"saved{suffix}") == instance
    # A file without options is as it always was.
    presets.base().save(tmp_path / f"plain{suffix}")
    text = (tmp_path / f"plain{suffix}").read_text()
    assert not any(name in text for name in ("iteration_law", "chunking", "kv_tokens"))
