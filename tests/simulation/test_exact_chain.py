"""The engine against Markov chains that are solved exactly: no sampling error on their side."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from exact_chain import IDLE, OCCUPANCIES, Chain, Lots, Policy, Solution, State
from lightly import lightly
from scipy.sparse.linalg import spsolve
from scipy.stats import f, t

from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.planning import plan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

REPLICATIONS = 100
HORIZON, WARMUP = 20_000.0, 200.0  # seconds; the clusters forget their state within some 10 s
# Means counted as events, and how the metrics of a run name them.
COUNTED = ("prefilled", "completed", "abandoned_prefill", "abandoned_decode")


def instance(slots: int, rates: tuple[float, float], patience: tuple[float, float]) -> Instance:
    """Short prompts with long answers and the reverse; patience that keeps queues short."""
    return Instance(
        "two classes",
        (
            RequestClass("chat", 2500, 130, rates[0], patience[0]),
            RequestClass("document", 8000, 60, rates[1], patience[1]),
        ),
        Hardware(alpha=0.0174, beta=6.2e-5, gamma=45.45, chunk_tokens=256, batch_slots=slots),
        Prices(0.1, 0.2),
    )


class Case(NamedTuple):
    """One cluster, for the engine and for the chain."""

    rule: DispatchRule
    policy: Policy
    n_gpus: int
    pool_size: int
    instance: Instance
    admission: tuple[float, float]
    most_requests: int
    solo_probability: tuple[float, float] = (0.7, 0.4)
    weights: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 4.0), (3.0, 1.0))


TWO_SLOTS = instance(2, (0.35, 0.25), (3.0, 5.0))
THREE_SLOTS = instance(3, (0.5, 0.4), (3.0, 5.0))
LIGHT = instance(2, (0.3, 0.2), (5.0, 8.0))
WAITING = instance(2, (0.4, 0.3), (1.5, 1.5))
BUFFERED = instance(2, (0.3, 0.4), (0.4, 0.4))
SOME, ALL = (0.8, 0.6), (1.0, 1.0)
CASES = {
    "gate-and-route": Case(
        DispatchRule("occupancy", "solo-first", "static"),
        Policy("occupancy"), 2, 1, TWO_SLOTS, SOME, 10,
    ),
    "gate-and-route, three slots": Case(
        DispatchRule("occupancy", "solo-first", "static"),
        Policy("occupancy"), 2, 1, THREE_SLOTS, SOME, 12,
    ),
    "gate-and-route, no solo GPU": Case(
        DispatchRule("occupancy", "solo-first", "static"),
        Policy("occupancy"), 2, 2, LIGHT, SOME, 9,
    ),
    "gate-and-route, decodes wait": Case(
        DispatchRule("occupancy", "solo-first", "static"),
        Policy("occupancy"), 1, 1, WAITING, SOME, 9,
    ),
    "strict gate": Case(
        DispatchRule("strict-occupancy", "solo-first", "static"),
        Policy("strict-occupancy"), 2, 2, LIGHT, SOME, 9,
    ),
    "fcfs-and-route": Case(
        DispatchRule("fcfs", "solo-first", "static"),
        Policy("oldest"), 2, 1, TWO_SLOTS, SOME, 10,
    ),
    "fcfs-immediate": Case(
        DispatchRule("fcfs", "coupled", "dynamic"),
        Policy("oldest", "coupled", static_pools=False), 2, 0, TWO_SLOTS, SOME, 10,
    ),
    "fcfs-immediate, one GPU": Case(
        DispatchRule("fcfs", "coupled", "dynamic"),
        Policy("oldest", "coupled", static_pools=False), 1, 0, THREE_SLOTS, SOME, 9,
    ),
    "gate-immediate": Case(
        DispatchRule("occupancy", "coupled", "dynamic"),
        Policy("occupancy", "coupled", static_pools=False), 3, 0, TWO_SLOTS, SOME, 12,
    ),
    "gate-prefill-first": Case(
        DispatchRule("occupancy", "solo-first", "dynamic", prefill_first=True),
        Policy("occupancy", static_pools=False, prefill_first=True), 2, 0, TWO_SLOTS, SOME, 10,
    ),
    # With f = 1 credit is always full: what is left of the credit gates is the longest wait.
    "credit gate, all admitted": Case(
        DispatchRule("largest-credit", "solo-first", "dynamic"),
        Policy("oldest", static_pools=False), 2, 0, TWO_SLOTS, ALL, 10,
    ),
    "credit gate, static pools, all admitted": Case(
        DispatchRule("credit", "solo-first", "static"),
        Policy("oldest"), 2, 2, LIGHT, ALL, 9,
    ),
    "randomized router": Case(
        DispatchRule("occupancy", "randomized", "static"),
        Policy("occupancy", "randomized"), 2, 1, LIGHT, SOME, 8,
    ),
    "weighted router": Case(
        DispatchRule("occupancy", "weighted-randomized", "static"),
        Policy("occupancy", "weighted-randomized"), 1, 1, BUFFERED, SOME, 13, (0.0, 0.0),
    ),
}  # fmt: skip


def chain_of(case: Case, kind: type[Chain] = Chain, **changes: Any) -> Chain:
    case = case._replace(**changes)
    return kind(
        case.instance,
        case.policy,
        case.n_gpus,
        case.admission,
        case.solo_probability,
        case.pool_size,
        case.most_requests,
        case.weights,
    )


@cache
def solution_of(case: Case) -> Solution:
    return chain_of(case).solve()


@cache
def simulated(case: Case) -> dict[str, np.ndarray]:
    """Each mean of each replication, named as in the chain's solution."""
    controls = np.array([*case.admission, *case.solo_probability, case.pool_size])
    runs: dict[str, list[float]] = {}
    entropy = [2602, list(CASES.values()).index(case)]  # every case has requests of its own
    for seed in np.random.SeedSequence(entropy).spawn(REPLICATIONS):
        cluster = Simulation(
            case.instance,
            case.rule,
            controls,
            case.n_gpus,
            seed,
            weights=np.array(case.weights),
        )
        cluster.run(WARMUP)
        cluster.reset_metrics()
        cluster.run(HORIZON)
        metrics = cluster.metrics()
        means = {name: metrics.occupancy[name] for name in OCCUPANCIES}
        means |= {name: metrics.counts[name] / metrics.gpu_seconds for name in COUNTED}
        found = {f"{name} {i}": value[i] for name, value in means.items() for i in range(2)}
        for pricing in ("bundled", "separate"):
            found[f"{pricing} revenue"] = metrics.revenue_rate(pricing)
        for name, value in found.items():
            runs.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in runs.items()}


class Agreement(NamedTuple):
    """z: differences in standard errors; p_value: of Hotelling's test that all means agree."""

    z: dict[str, float]
    p_value: float


def agreement(runs: dict[str, np.ndarray], means: dict[str, float]) -> Agreement:
    """Compare the means over replications with exact ones.

    Hotelling's T^2 = R d' S^-1 d, (R - p) T^2 / (p (R - 1)) ~ F(p, R - p) (Anderson, An
    Introduction to Multivariate Statistical Analysis, section 5.2), takes the correlation of the
    quantities into account. Revenue is a linear function of the counts and left out there.
    """
    z, columns, differences = {}, [], []
    for name, values in runs.items():
        difference, error = values.mean() - means[name], values.std(ddof=1) / math.sqrt(len(values))
        if error == 0.0:
            assert difference == 0.0, name  # places where nobody ever is
            continue
        z[name] = difference / error
        if "revenue" not in name:
            columns.append(values)
            differences.append(difference)
    size, d = len(differences), np.array(differences)
    scale = np.std(columns, axis=1)
    covariance = np.cov(np.array(columns) / scale[:, None])
    t_squared = REPLICATIONS * (d / scale) @ np.linalg.solve(covariance, d / scale)
    statistic = (REPLICATIONS - size) * t_squared / (size * (REPLICATIONS - 1))
    return Agreement(z, float(f.sf(statistic, size, REPLICATIONS - size)))


# 20 differences for each case: Bonferroni's limit for a false alarm with probability 1% among all.
LARGEST_Z = float(t.isf(0.01 / (2 * 20 * len(CASES)), REPLICATIONS - 1))
LEAST_P_VALUE = 0.01 / len(CASES)


KEPT = ("gate-and-route", "fcfs-immediate")


@pytest.mark.parametrize("case", lightly(CASES, *KEPT))
def test_engine_agrees_with_the_exact_chain(case: Case) -> None:
    found = agreement(simulated(case), solution_of(case).means)
    worst = max(found.z, key=lambda name: abs(found.z[name]))
    assert abs(found.z[worst]) < LARGEST_Z, worst
    assert found.p_value > LEAST_P_VALUE


# The chains themselves.


@pytest.mark.extended
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_chain_loses_nobody_and_balances(case: Case) -> None:
    """The balances of the fluid programs hold for stationary means, and so does their bound."""
    solution = solution_of(case)
    assert solution.lost < 1e-6
    assert solution.residual < 1e-11
    means = solution.means
    for i, request_class in enumerate(case.instance.classes):
        admitted = request_class.arrival_rate * (1.0 - solution.lost)
        prefilled, completed = means[f"prefilled {i}"], means[f"completed {i}"]
        assert prefilled + means[f"abandoned_prefill {i}"] == pytest.approx(admitted, rel=1e-9)
        assert completed + means[f"abandoned_decode {i}"] == pytest.approx(prefilled, rel=1e-9)
    for pricing in ("bundled", "separate"):
        assert means[f"{pricing} revenue"] <= plan(case.instance, pricing).value


def test_chain_of_one_request_by_hand() -> None:
    """A cluster for one request: idle, prefill and decode last 1/lambda, 1/mu_p and 1/mu_s."""
    case = CASES["fcfs-immediate, one GPU"]
    classes = (dataclasses.replace(case.instance.classes[0], arrival_rate=0.5),)
    alone = dataclasses.replace(case.instance, classes=classes)
    chain = Chain(alone, case.policy, 1, (1.0,), (1.0,), 0, most_requests=1)
    prefill = 2500 / 256 * (0.0174 + 6.2e-5 * 256)
    decode = 130 / 45.45
    cycle = 1 / 0.5 + prefill + decode
    solution = chain.solve()
    assert solution.n_states == 3
    assert solution.means["x 0"] == pytest.approx(prefill / cycle, rel=1e-10)
    assert solution.means["y_solo 0"] == pytest.approx(decode / cycle, rel=1e-10)
    assert solution.lost == pytest.approx((prefill + decode) / cycle, rel=1e-10)


def test_chain_of_two_requests_by_hand() -> None:
    """Two slots, at most two requests: the five global balances of one GPU, solved by hand.

    States: 0 empty, p prefill, s decode, m prefill beside a decode, w prefill and one waiting,
    d two decodes. From p the second arrival waits (the GPU has a prefill): rates p -> w lambda,
    w -> m mu_p (the first decodes, the second prefills), w -> p theta, m -> d mu_p, m -> p mu_m,
    s -> m lambda, d -> s 2 mu_s, s -> 0 mu_s.
    """
    case = CASES["fcfs-immediate, one GPU"]
    arrival, theta = 0.5, 3.0
    classes = (dataclasses.replace(case.instance.classes[0], arrival_rate=arrival),)
    alone = dataclasses.replace(case.instance, classes=classes)
    chain = Chain(alone, case.policy, 1, (1.0,), (1.0,), 0, most_requests=2)
    mixed = 0.0174 + 6.2e-5 * 256
    mu_p, mu_m, mu_s = 256 / (2500 * mixed), 1 / (130 * mixed), 45.45 / 130
    # In units of pi_p: w from its own balance; d and s from the cuts {d} and {0}, and the cut
    # around m, fed by s and w.
    w = arrival / (mu_p + theta)
    # m (mu_p + mu_m) = s lambda + w mu_p;  2 mu_s d = mu_p m;  s (lambda + mu_s) = mu_p + 2 mu_s d
    m = (arrival * mu_p / (arrival + mu_s) + w * mu_p) / (
        mu_p + mu_m - arrival * mu_p / (arrival + mu_s)
    )
    d = mu_p * m / (2 * mu_s)
    s = (mu_p + mu_p * m) / (arrival + mu_s)
    empty = mu_s * s / arrival
    total = empty + 1 + w + m + d + s
    means = chain.solve().means
    assert means["q_prefill 0"] == pytest.approx(w / total, rel=1e-9)
    assert means["x 0"] == pytest.approx((1 + w + m) / total, rel=1e-9)
    assert means["y_mixed 0"] == pytest.approx(m / total, rel=1e-9)
    assert means["y_solo 0"] == pytest.approx((s + 2 * d) / total, rel=1e-9)


def test_power_iteration_agrees_with_a_direct_solution() -> None:
    chain = chain_of(CASES["gate-immediate"], n_gpus=1, most_requests=5)
    _, q = chain.generator
    # Replace one balance, which follows from the others, by the normalization.
    system = q.T.tolil()
    system[0] = np.ones(q.shape[0])
    direct = spsolve(system.tocsc(), np.eye(q.shape[0])[0])
    np.testing.assert_allclose(chain.stationary, direct, atol=1e-12)


# Power: chains of a slightly different model must be told from the engine.


class TiesByClass(Chain):
    """The printed gate without its rule for ties."""

    def rank(self, state: State, i: int, running: int) -> tuple[float, float]:
        return super().rank(state, i, running)[0], float(i)


class TiesByQueue(Chain):
    """Ties by the largest Q_p instead of Q_p - n q_p*; of equal ones the first."""

    def rank(self, state: State, i: int, running: int) -> tuple[float, float]:
        return super().rank(state, i, running)[0], -float(state.queue.count(i))


class LineByClass(Chain):
    """The decode line serves one class first."""

    def placements(self, state: State) -> Lots:
        return super().placements(state._replace(lines=(tuple(sorted(state.lines[0])),)))


class NoReservedSlot(Chain):
    """A mixed GPU takes B decodes."""

    def takes_decode(self, state: State, g: int, pool: str) -> bool:
        return super().takes_decode(state, g, pool) or (
            g < self.pool_size
            and pool == "mixed"
            and state.gpus[g].prefill == IDLE
            and sum(state.gpus[g].decodes) < self.slots
        )


class MixedByPool(Chain):
    """A GPU of the mixed pool is slow also without a prefill."""

    def decode_rate(self, i: int, g: int, gpu) -> float:
        return self.mixed_decode[i] if g < self.pool_size else self.solo_decode[i]


class MixedFirst(Chain):
    """The router prefers the mixed pool."""

    def takes_decode(self, state: State, g: int, pool: str) -> bool:
        return super().takes_decode(state, g, "mixed" if pool == "solo" else "solo")


class FixedGpu(Chain):
    """A prefill takes the GPU with the fewest decodes instead of a random one."""

    def admissions(self, state: State) -> Lots:
        return super().admissions(state)[:1]


def slower(case: Case) -> dict[str, Any]:
    """Mixed iterations are 2% longer."""
    hardware = case.instance.hardware
    changed = dataclasses.replace(hardware, alpha=hardware.alpha + 0.02 * hardware.tau_mixed)
    return {"instance": dataclasses.replace(case.instance, hardware=changed)}


ROUTE, CREDIT = CASES["gate-and-route"], CASES["credit gate, all admitted"]
MUTANTS = {
    "2% slower": (ROUTE, Chain, slower(ROUTE)),
    "ties by class": (ROUTE, TiesByClass, {}),
    "ties without queue targets": (ROUTE, TiesByQueue, {}),
    "decode line by class": (CASES["gate-and-route, decodes wait"], LineByClass, {}),
    "no reserved slot": (ROUTE, NoReservedSlot, {}),
    "mixed by pool": (ROUTE, MixedByPool, {}),
    "mixed first": (ROUTE, MixedFirst, {}),
    "oldest for occupancy": (ROUTE, Chain, {"policy": Policy("oldest")}),
    "occupancy for credit": (CREDIT, Chain, {"policy": Policy("occupancy", static_pools=False)}),
    "idle GPU first": (CREDIT, FixedGpu, {}),
    "printed for strict": (CASES["strict gate"], Chain, {"policy": Policy("occupancy")}),
    "decode first for prefill first": (
        CASES["gate-prefill-first"], Chain, {"policy": Policy("occupancy", static_pools=False)},
    ),
    "wrong solo probability": (
        CASES["randomized router"], Chain, {"solo_probability": (0.67, 0.4)},
    ),
    "wrong weights": (
        CASES["weighted router"], Chain, {"weights": ((1.0, 4.0), (3.0, 1.5))},
    ),
    "one line for all classes of a pool": (
        CASES["weighted router"], Chain,
        {"policy": Policy("occupancy", "randomized"), "most_requests": 9},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("case", "kind", "changes"), MUTANTS.values(), ids=MUTANTS)
def test_a_different_model_is_rejected(
    case: Case, kind: type[Chain], changes: dict[str, Any]
) -> None:
    # Less exact, and faster: what is lost is still far below what is found.
    changes = {"most_requests": case.most_requests - 2, **changes}
    found = agreement(simulated(case), chain_of(case, kind, **changes).solve().means)
    assert found.p_value < 1e-6
