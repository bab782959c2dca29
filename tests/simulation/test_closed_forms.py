"""The engine in corners where queueing theory has formulas or exact recursions.

With prompts of almost no tokens a prefill takes no time and the cluster is one queue in front of
c = n B decode slots; with outputs of almost no tokens it is one queue in front of n prefill slots.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import t

from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import plan
from llm_sched_env.presets import overload
from llm_sched_env.simulation.events.metrics import LATENCIES, Metrics, summarize_latency
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import (
    ARRIVE,
    DECODE_END,
    DECODE_START,
    LEAVE_DECODE,
    LEAVE_PREFILL,
    PREFILL_END,
    PREFILL_START,
    RequestStream,
)

FCFS = DispatchRule("fcfs", "coupled", "dynamic")
NOTHING = 1e-9  # tokens: some 1e-13 s
TTFT = list(LATENCIES).index("ttft")
BIN_WIDTH = 1 / 64  # of a latency histogram, relative
REPLICATIONS = 30
# About 100 means are compared: a false alarm somewhere has a probability of 1% (Bonferroni).
LARGEST_Z = float(t.isf(0.01 / (2 * 100), REPLICATIONS - 1))


def assert_mean(values: list[float], exact: float, tolerance: float = 0.0) -> None:
    """The mean over replications is ``exact`` up to its own error and a documented one."""
    assert len(values) == REPLICATIONS
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert abs(np.mean(values) - exact) <= LARGEST_Z * error + tolerance * exact, (
        f"{np.mean(values)} is not {exact}, standard error {error}"
    )


# Formulas.


def erlang_b(servers: int, load: float) -> float:
    """Blocked fraction of M/G/c/c, by the usual recursion."""
    blocked = 1.0
    for k in range(1, servers + 1):
        blocked = load * blocked / (k + load * blocked)
    return blocked


def erlang_c(servers: int, load: float) -> float:
    """P(W > 0) of M/M/c, load = lambda / mu < c."""
    blocked = erlang_b(servers, load)
    return servers * blocked / (servers - load * (1.0 - blocked))


class ErlangA(NamedTuple):
    """M/M/c+M: Garnett, Mandelbaum and Reiman (2002), M&SOM 4(3), appendix."""

    delayed: float  # P(W > 0)
    abandoned: float  # P(Ab)
    queue: float
    utilization: float


def erlang_a(servers: int, arrival: float, service: float, patience: float) -> ErlangA:
    """With A(x, y) = sum over j of y^j / ((x+1)...(x+j)), x = c mu/theta and y = lambda/theta:

    P(W > 0) = A E / (1 + (A - 1) E), E of Erlang-B; P(Ab | W > 0) = 1/(rho A) + 1 - 1/rho;
    E W = P(Ab) / theta.
    """
    x, y = servers * service / patience, arrival / patience
    term = a = 1.0
    j = 0
    while term > 1e-17 * a:
        j += 1
        term *= y / (x + j)
        a += term
    rho = arrival / (servers * service)
    blocked = erlang_b(servers, arrival / service)
    delayed = a * blocked / (1.0 + (a - 1.0) * blocked)
    abandoned = delayed * (1.0 / (rho * a) + 1.0 - 1.0 / rho)
    return ErlangA(delayed, abandoned, arrival * abandoned / patience, rho * (1.0 - abandoned))


def birth_death_law(arrival: float, death: Callable[[int], float], size: int) -> np.ndarray:
    """Stationary law on 0..size-1."""
    weights = np.cumprod([1.0] + [arrival / death(k) for k in range(1, size)])
    return weights / weights.sum()


def test_formulas_in_their_limits() -> None:
    """M/M/1, M/M/infinity, no patience, endless patience, and the birth-death law itself."""
    assert erlang_b(1, 0.7) == pytest.approx(0.7 / 1.7)
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(50, 1.0) < 1e-30
    # theta = mu: the number in system is Poisson.
    poisson = birth_death_law(8.0, float, 60)
    assert erlang_a(10, 8.0, 1.0, 1.0).delayed == pytest.approx(poisson[10:].sum())
    assert erlang_a(10, 8.0, 1.0, 1.0).utilization == pytest.approx(
        np.minimum(np.arange(60), 10) @ poisson / 10
    )
    patient = erlang_a(10, 8.0, 1.0, 1e-6)
    assert patient.delayed == pytest.approx(erlang_c(10, 8.0), rel=1e-4)
    assert patient.queue == pytest.approx(erlang_c(10, 8.0) * 8.0 / 2.0, rel=1e-4)
    assert erlang_a(10, 8.0, 1.0, 1e9).abandoned == pytest.approx(erlang_b(10, 8.0), rel=1e-6)
    law = birth_death_law(13.0, lambda k: min(k, 10) * 1.0 + max(k - 10, 0) * 0.4, 200)
    overloaded = erlang_a(10, 13.0, 1.0, 0.4)
    assert overloaded.delayed == pytest.approx(law[10:].sum())
    assert overloaded.queue == pytest.approx(np.maximum(np.arange(200) - 10, 0) @ law)


# One queue in front of many slots.


def one_class(slots: int, prompt: float, output: float, rate: float, patience: float) -> Instance:
    """Iterations last 1/50 s alone and 1/30 s beside a prefill."""
    hardware = Hardware(alpha=1 / 60, beta=1 / 60 / 256, gamma=50.0, chunk_tokens=256,
                        batch_slots=slots)  # fmt: skip
    classes = (RequestClass("all", prompt, output, rate, patience),)
    return Instance("one class", classes, hardware, Prices(0.1, 0.2))


def controls_of(instance: Instance) -> np.ndarray:
    """All admitted; a coupled rule reads nothing else."""
    return np.array([1.0] * (2 * instance.n_classes) + [0.0])


def runs(
    instance: Instance, n_gpus: int, horizon: float, warmup: float, seed: int
) -> Iterator[Metrics]:
    for child in np.random.SeedSequence(seed).spawn(REPLICATIONS):
        cluster = Simulation(instance, FCFS, controls_of(instance), n_gpus, child)
        cluster.run(warmup)
        cluster.reset_metrics()
        cluster.run(horizon)
        yield cluster.metrics()


def delayed_fraction(metrics: Metrics) -> float:
    """Of all arrivals; a prefill that takes no time and does not wait is in the first bin."""
    return 1.0 - metrics.latency_counts[TTFT, 0, 0] / metrics.counts["arrived"][0]


@pytest.mark.parametrize(
    ("n_gpus", "slots", "load", "patience"),
    [(1, 2, 0.8, 0.5), (2, 4, 1.0, 2.0), (5, 4, 1.2, 0.3), (10, 10, 0.97, 0.1)],
)
def test_erlang_a(n_gpus: int, slots: int, load: float, patience: float) -> None:
    """n B slots, D = 50 tokens at 50 tokens/s: mu = 1/s."""
    servers = n_gpus * slots
    exact = erlang_a(servers, load * servers, 1.0, patience)
    instance = one_class(slots, NOTHING, 50.0, load * slots, patience)
    found = list(runs(instance, n_gpus, 120_000.0 / servers + 100.0, 100.0, servers))
    assert_mean([delayed_fraction(m) for m in found], exact.delayed)
    assert_mean(
        [m.counts["abandoned_prefill"][0] / m.counts["arrived"][0] for m in found], exact.abandoned
    )
    assert_mean([n_gpus * m.occupancy["q_prefill"][0] for m in found], exact.queue)
    assert_mean([m.occupancy["y_solo"][0] / slots for m in found], exact.utilization)
    # Power: 3% more requests would be noticed.
    other = erlang_a(servers, 1.03 * load * servers, 1.0, patience)
    with pytest.raises(AssertionError, match="standard error"):
        assert_mean([n_gpus * m.occupancy["q_prefill"][0] for m in found], other.queue)


@pytest.mark.parametrize(("n_gpus", "slots", "load"), [(1, 2, 0.6), (2, 4, 0.8), (5, 4, 0.9)])
def test_erlang_c(n_gpus: int, slots: int, load: float) -> None:
    """P(W > t) = C exp(-(c mu - lambda) t), so also every percentile of the wait."""
    servers = n_gpus * slots
    delayed = erlang_c(servers, load * servers)
    rate = servers * (1.0 - load)
    instance = one_class(slots, NOTHING, 50.0, load * slots, 0.0)
    found = list(runs(instance, n_gpus, 200_000.0 / servers + 200.0, 200.0, 10 * servers))
    assert_mean([delayed_fraction(m) for m in found], delayed)
    waits = [summarize_latency(m.latency_counts[TTFT, 0], m.latency_sums[TTFT, 0]) for m in found]
    assert_mean([w.mean for w in waits], delayed / rate)
    assert_mean(
        [n_gpus * m.occupancy["q_prefill"][0] for m in found], load * servers * delayed / rate
    )
    for name, beyond in (("p50", 0.5), ("p90", 0.1), ("p95", 0.05), ("p99", 0.01)):
        if delayed > 1.2 * beyond:
            exact = math.log(delayed / beyond) / rate
            assert_mean([getattr(w, name) for w in waits], exact, BIN_WIDTH)


@pytest.mark.parametrize(("n_gpus", "load"), [(1, 0.7), (3, 0.8)])
def test_prefill_stage_is_mmn(n_gpus: int, load: float) -> None:
    """P = 7680 tokens are 30 chunks of 1/30 s: mu = 1/s, one prefill on each GPU."""
    delayed = erlang_c(n_gpus, load * n_gpus)
    rate = n_gpus * (1.0 - load)
    instance = one_class(4, 7680.0, NOTHING, load, 0.0)
    found = list(runs(instance, n_gpus, 120_000.0 / n_gpus, 400.0, 3 + n_gpus))
    assert_mean([m.occupancy["x"][0] for m in found], load)
    assert_mean([m.occupancy["q_prefill"][0] for m in found], load * delayed / rate)
    times = [summarize_latency(m.latency_counts[TTFT, 0], m.latency_sums[TTFT, 0]) for m in found]
    assert_mean([ttft.mean for ttft in times], delayed / rate + 1.0)
    if n_gpus == 1:  # then the sojourn is exponential
        for name, beyond in (("p50", 0.5), ("p90", 0.1), ("p95", 0.05), ("p99", 0.01)):
            exact = -math.log(beyond) / rate
            assert_mean([getattr(ttft, name) for ttft in times], exact, BIN_WIDTH)


# General lengths, from recorded streams.

MEAN_ONE = {  # draws of mean 1, and their second moment
    "deterministic": (lambda _, size: np.ones(size), 1.0),
    "gamma": (lambda rng, size: rng.gamma(0.5, 2.0, size), 3.0),
    "log-normal": (lambda rng, size: rng.lognormal(-0.32, 0.8, size), math.exp(0.64)),
}
every_length = pytest.mark.parametrize("lengths", MEAN_ONE)


def recorded(
    rng: np.random.Generator, size: int, rate: float, prompt: np.ndarray, output: np.ndarray
) -> RequestStream:
    """Poisson arrivals."""
    arrivals = np.cumsum(rng.exponential(1.0 / rate, size))
    return RequestStream(arrivals, np.zeros(size, np.int32), prompt, output)


def times_of(events: np.ndarray, kind: int, size: int) -> np.ndarray:
    """When this happened to each request; NaN if it did not."""
    times = np.full(size, np.nan)
    chosen = events[events["kind"] == kind]
    times[chosen["index"]] = chosen["time"]
    return times


def replay(instance: Instance, stream: RequestStream, n_gpus: int, seed: int) -> Simulation:
    cluster = Simulation(
        instance,
        FCFS,
        controls_of(instance),
        n_gpus,
        np.random.SeedSequence(seed),
        stream=stream,
        log_events=5 * len(stream.arrival_time),
    )
    cluster.run(np.inf)
    return cluster


def waits_fcfs(arrivals: np.ndarray, services: np.ndarray, servers: int) -> np.ndarray:
    """Kiefer and Wolfowitz (1955): each request takes the server that is free first."""
    free, waits = [0.0] * servers, np.empty(len(arrivals))
    for k, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        start = max(arrival, heapq.heappop(free))
        waits[k] = start - arrival
        heapq.heappush(free, start + service)
    return waits


@pytest.mark.parametrize("n_gpus", [1, 3])
@every_length
def test_waits_follow_the_recursion_of_kiefer_and_wolfowitz(lengths: str, n_gpus: int) -> None:
    """Exactly, request by request; with one GPU it is Lindley's recursion."""
    draw, _ = MEAN_ONE[lengths]
    rng, size = np.random.default_rng(5), 20_000
    services = draw(rng, size)
    stream = recorded(rng, size, 0.8 * n_gpus, 7680.0 * services, np.zeros(size))
    cluster = replay(one_class(2, 7680.0, 1.0, 1.0, 0.0), stream, n_gpus, 0)
    events = cluster.events()
    waited = times_of(events, PREFILL_START, size) - times_of(events, ARRIVE, size)
    exact = waits_fcfs(stream.arrival_time, services, n_gpus)
    assert exact.mean() > 0.5
    np.testing.assert_allclose(waited, exact, atol=1e-7)
    # The same path holds the percentiles of the histogram to their bins.
    metrics = cluster.metrics()
    ttft = summarize_latency(metrics.latency_counts[TTFT, 0], metrics.latency_sums[TTFT, 0])
    assert ttft.mean == pytest.approx((exact + services).mean(), rel=1e-9)
    for name, level in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        truth = np.percentile(exact + services, level)
        assert getattr(ttft, name) == pytest.approx(truth, rel=BIN_WIDTH)


@every_length
def test_pollaczek_khinchine(lengths: str) -> None:
    """M/G/1: E W = lambda E S^2 / (2 (1 - rho))."""
    draw, second_moment = MEAN_ONE[lengths]
    rng, size, rate = np.random.default_rng(7), 40_000, 0.6
    instance = one_class(2, 7680.0, 1.0, rate, 0.0)
    found = []
    for seed in range(REPLICATIONS):
        stream = recorded(rng, size, rate, 7680.0 * draw(rng, size), np.zeros(size))
        cluster = replay(instance, stream, 1, seed)
        events = cluster.events()
        waited = times_of(events, PREFILL_START, size) - times_of(events, ARRIVE, size)
        found.append(waited[size // 10 :].mean())
    exact = rate * second_moment / (2.0 * (1.0 - rate))
    assert_mean(found, exact)
    with pytest.raises(AssertionError, match="standard error"):
        assert_mean(found, 1.1 * exact)


@every_length
def test_erlang_b_is_insensitive_to_the_law_of_lengths(lengths: str) -> None:
    """Without any patience the slots are M/G/c/c: Erlang's loss formula for every service law."""
    draw, _ = MEAN_ONE[lengths]
    rng, size, servers, load = np.random.default_rng(11), 40_000, 8, 6.0
    instance = one_class(4, NOTHING, 50.0, load / 2, 1e9)
    found = []
    for seed in range(REPLICATIONS):
        stream = recorded(rng, size, load, np.zeros(size), 50.0 * draw(rng, size))
        events = replay(instance, stream, 2, seed).events()
        lost = events["index"][events["kind"] == LEAVE_PREFILL]
        found.append((lost >= size // 10).sum() / (size - size // 10))
    assert_mean(found, erlang_b(servers, load))
    with pytest.raises(AssertionError, match="standard error"):
        assert_mean(found, erlang_b(servers, 1.03 * load))


# Little's law.

STATIONS = {  # entered at, left at
    "prefill queue": (ARRIVE, (PREFILL_START, LEAVE_PREFILL)),
    "prefill": (PREFILL_START, (PREFILL_END,)),
    "decode line": (PREFILL_END, (DECODE_START, LEAVE_DECODE)),
    "decode": (DECODE_START, (DECODE_END,)),
}


def stays(events: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """How long each request was at each station; NaN where it was not or still is."""
    times = {kind: times_of(events, kind, size) for kind in range(7)}
    found = {}
    for name, (entry, exits) in STATIONS.items():
        left = times[exits[0]]
        for other in exits[1:]:
            left = np.where(np.isnan(left), times[other], left)
        found[name] = left - times[entry]
    return found


def station_occupancy(metrics: Metrics) -> dict[str, np.ndarray]:
    """Per GPU and class."""
    occupancy = metrics.occupancy
    decodes = occupancy["y_mixed"] + occupancy["y_solo"]
    places = (occupancy["q_prefill"], occupancy["x"], occupancy["q_decode"], decodes)
    return dict(zip(STATIONS, places, strict=True))


RULES = {
    "gate-and-route": DispatchRule(),
    "fcfs-immediate": FCFS,
    "gate-prefill-first": DispatchRule("occupancy", "solo-first", "dynamic", prefill_first=True),
    "randomized credit": DispatchRule("credit", "randomized", "static"),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@every_rule
def test_littles_law_is_an_identity_when_all_have_left(rule: DispatchRule) -> None:
    """The area under L is the sum of the stays, by class and station: Little (1961)."""
    instance, size, n_gpus = overload(), 6000, 4
    rng = np.random.default_rng(2)
    classes = rng.integers(0, 2, size).astype(np.int32)
    stream = RequestStream(
        np.cumsum(rng.exponential(1 / 8.0, size)),
        classes,
        rng.exponential(instance.prompt_tokens[classes]),
        rng.exponential(instance.output_tokens[classes]),
    )
    controls = plan(instance).controls(n_gpus)
    seed = np.random.SeedSequence(4)
    cluster = Simulation(instance, rule, controls, n_gpus, seed, stream=stream, log_events=6 * size)
    cluster.run(np.inf)
    metrics = cluster.metrics()
    assert metrics.inside.sum() == 0
    by_station = stays(cluster.events(), size)
    for name, occupancy in station_occupancy(metrics).items():
        for i in range(2):
            total = np.nansum(by_station[name][classes == i])
            # Only decodes that wait nowhere else may be missing: a coupled rule has no line.
            assert total > 0.0 or (name == "decode line" and rule == FCFS)
            area = occupancy[i] * metrics.gpu_seconds
            assert area == pytest.approx(total, rel=1e-9, abs=1e-6)


def test_littles_law_with_the_nominal_rate() -> None:
    """L of a station is n lambda times the mean stay of an arrival, 0 where it never comes."""
    n_gpus, horizon, warmup = 4, 1500.0, 200.0
    instance = Instance(
        "one class, all stations",
        (RequestClass("all", 900.0, 500.0, 2.0, 0.2),),
        overload().hardware,
        Prices(0.1, 0.2),
    )
    differences: dict[str, list[float]] = {name: [] for name in STATIONS}
    controls = np.array([1.0, 1.0, 1.0])
    for seed in np.random.SeedSequence(9).spawn(REPLICATIONS):
        cluster = Simulation(instance, DispatchRule(), controls, n_gpus, seed, log_events=120_000)
        cluster.run(warmup)
        cluster.reset_metrics()
        cluster.run(horizon)
        occupancy = station_occupancy(cluster.metrics())
        cluster.run(horizon + 500.0)  # so that the stays of those who came by then are known
        events = cluster.events()
        size = int(events["index"].max()) + 1
        arrived = times_of(events, ARRIVE, size)
        counted = (arrived > warmup) & (arrived <= horizon)
        for name, stay in stays(events, size).items():
            mean_stay = np.nansum(stay[counted]) / counted.sum()
            rate = n_gpus * instance.arrival_rates[0]
            differences[name].append(n_gpus * occupancy[name][0] - rate * mean_stay)
            assert occupancy[name][0] > 0.05
    for values in differences.values():
        assert_mean(values, 0.0)


# Poisson arrivals see time averages (Wolff 1982).


def seen_and_average(events: np.ndarray, size: int, warmup: float) -> tuple[np.ndarray, np.ndarray]:
    """Laws of the number in system: seen by arrivals, and over time; the last is "or more"."""
    change = np.zeros(len(events), np.int64)
    change[events["kind"] == ARRIVE] = 1
    change[np.isin(events["kind"], (DECODE_END, LEAVE_PREFILL, LEAVE_DECODE))] = -1
    after = np.cumsum(change)
    before = np.minimum(after - change, size - 1)
    counted = events["time"] > warmup
    seen = np.bincount(before[counted & (change == 1)], minlength=size)
    gaps = np.diff(events["time"], prepend=0.0)
    time = np.bincount(before[counted], gaps[counted], minlength=size)
    return seen / seen.sum(), time / time.sum()


def laws_seen(instance: Instance, streams: list[RequestStream | None]) -> np.ndarray:
    """Shape (replications, 2, states)."""
    laws = []
    for stream, seed in zip(streams, np.random.SeedSequence(21).spawn(len(streams)), strict=True):
        cluster = Simulation(
            instance, FCFS, controls_of(instance), 2, seed, stream=stream, log_events=250_000
        )
        cluster.run(5100.0)
        laws.append(seen_and_average(cluster.events(), 16, 100.0))
    return np.array(laws)


def test_arrivals_see_the_law_of_erlang_a() -> None:
    """M/M/8+M in overload; each state's probability as seen and over time, and their difference."""
    instance = one_class(4, NOTHING, 50.0, 4.4, 0.5)
    laws = laws_seen(instance, [None] * REPLICATIONS)
    exact = birth_death_law(8.8, lambda k: min(k, 8) + 0.5 * max(k - 8, 0), 100)
    exact = np.append(exact[:15], exact[15:].sum())
    for state in range(2, 16):
        assert_mean(laws[:, 0, state].tolist(), exact[state])
        assert_mean(laws[:, 1, state].tolist(), exact[state])
        assert_mean((laws[:, 0, state] - laws[:, 1, state]).tolist(), 0.0)


def test_other_arrivals_do_not_see_time_averages() -> None:
    """Power: arrivals more regular than Poisson (Erlang-4) find fewer requests on average."""
    rng = np.random.default_rng(3)
    size = 34_000
    nothing, classes = np.full(size, NOTHING), np.zeros(size, np.int32)
    streams: list[RequestStream | None] = [
        RequestStream(
            np.cumsum(rng.gamma(4.0, 1 / (4.0 * 6.4), size)),
            classes,
            nothing,
            rng.exponential(50.0, size),
        )
        for _ in range(REPLICATIONS)
    ]
    laws = laws_seen(one_class(4, NOTHING, 50.0, 3.2, 0.5), streams)
    difference = (laws[:, 0] - laws[:, 1]) @ np.arange(16)
    error = np.std(difference, ddof=1) / math.sqrt(REPLICATIONS)
    assert difference.mean() < -5.0 * LARGEST_Z * error
