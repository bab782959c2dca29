"""Tiny clusters of two groups: the engine's time averages are those of the exact Markov chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import spsolve
from scipy.stats import t as student

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.simulation.simulation import Simulation

FAST = replace(presets.QWEN_8B_A100, batch_slots=2)
SLOW = replace(FAST, alpha=0.06, gamma=20.0)
OWN = lse.RequestClass("a", 2000.0, 150.0, 0.25, 0.15)
MOST_WAITING = 45

# (probability, state) of where a transition may lead, with its rate.
State = tuple[int, ...]
Moves = Iterator[tuple[float, State]]


def stationary(start: State, moves: Callable[[State], Moves]) -> dict[State, float]:
    """The stationary distribution of the states that can be reached."""
    number, frontier, entries = {start: 0}, [start], []
    while frontier:
        state = frontier.pop()
        for rate, new in moves(state):
            if new not in number:
                number[new] = len(number)
                frontier.append(new)
            entries.append((number[new], number[state], rate))
            entries.append((number[state], number[state], -rate))
    rows, columns, rates = zip(*entries, strict=True)
    n = len(number)
    generator = coo_matrix((rates, (rows, columns)), shape=(n, n)).tolil()
    generator[0, :] = 1.0
    right = np.zeros(n)
    right[0] = 1.0
    found = spsolve(generator.tocsr(), right)
    return {state: float(found[k]) for state, k in number.items()}


def interval(values: list[float]) -> tuple[float, float]:
    mean, n = np.mean(values), len(values)
    half = student.ppf(0.995, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return mean - half, mean + half


def simulated(instance: lse.Instance, rule: lse.DispatchRule) -> tuple[np.ndarray, list[float]]:
    """By-group occupancies x, y per GPU, (runs, 2, 2), and completions a second."""
    occupancy, rates = [], []
    for k in range(8):
        plan = lse.plan(instance)
        simulation = Simulation(
            instance, rule, plan.controls(2), 2, np.random.SeedSequence([77, k])
        )
        simulation.run(200.0)
        simulation.reset_metrics()
        simulation.run(8200.0)
        metrics = simulation.metrics()
        own = metrics.by_group
        decodes = own["y_mixed"][0] + own["y_solo"][0]
        occupancy.append([own["x"][0], decodes])
        rates.append(float(metrics.counts["completed"][0]) / 8000.0)
    return np.array(occupancy), rates


def two_groups(*groups: lse.GpuGroup) -> lse.Instance:
    return lse.Instance("tiny", (OWN,), lse.Fleet(groups), presets.PAPER_PRICES)


def test_unequal_gpus_with_coupled_decodes():  # noqa: C901 - a chain and its engine
    """State: waiting, then prefill (0, 1) and decodes of the fast GPU and of the slow one."""
    kinds = (FAST, SLOW)
    arrivals, patience = 2 * OWN.arrival_rate, OWN.patience_rate

    def admitted(weight: float, state: State) -> Moves:
        waiting, *gpus = state
        free = [k for k in (0, 1) if gpus[2 * k] == 0 and gpus[2 * k + 1] < 2]
        if waiting == 0 or not free:
            yield weight, state
            return
        for k in free:
            changed = list(gpus)
            changed[2 * k] = 1
            yield from admitted(weight / len(free), (waiting - 1, *changed))

    def moves(state: State) -> Moves:
        waiting, *gpus = state
        if waiting < MOST_WAITING:
            yield from admitted(arrivals, (waiting + 1, *gpus))
        if waiting:
            yield waiting * patience, (waiting - 1, *gpus)
        for k, kind in enumerate(kinds):
            prefill, decodes = gpus[2 * k], gpus[2 * k + 1]
            seconds = kind.tau_mixed if prefill else kind.tau_solo
            if prefill:
                changed = list(gpus)
                changed[2 * k], changed[2 * k + 1] = 0, decodes + 1
                rate = kind.chunk_tokens / (OWN.prompt_tokens * seconds)
                yield from admitted(rate, (waiting, *changed))
            if decodes:
                changed = list(gpus)
                changed[2 * k + 1] = decodes - 1
                rate = decodes / (OWN.output_tokens * seconds)
                yield from admitted(rate, (waiting, *changed))

    law = stationary((0, 0, 0, 0, 0), moves)
    exact = np.array(
        [
            [sum(p * s[1 + 2 * k + part] for s, p in law.items()) / 2 for k in (0, 1)]
            for part in (0, 1)
        ]
    )
    instance = two_groups(lse.GpuGroup("fast", FAST, 0.5), lse.GpuGroup("slow", SLOW, 0.5))
    rule = lse.DispatchRule(gate="fcfs", router="coupled", pools="dynamic")
    found, _ = simulated(instance, rule)
    for part in (0, 1):
        for k in (0, 1):
            low, high = interval(found[:, part, k].tolist())
            assert low <= exact[part, k] <= high, (part, k, low, exact[part, k], high)


def test_a_prefill_gpu_beside_a_decode_gpu():
    """State: waiting for a prefill, in prefill, waiting for a decode, decoding."""
    arrivals, patience = 2 * OWN.arrival_rate, OWN.patience_rate
    prefill_rate = FAST.chunk_tokens / (OWN.prompt_tokens * FAST.tau_mixed)
    decode_rate = SLOW.gamma / OWN.output_tokens

    def settled(state: State) -> State:
        waiting, x, prefilled, y = state
        started = min(prefilled, 2 - y)
        if waiting and not x:
            waiting, x = waiting - 1, 1
        return waiting, x, prefilled - started, y + started

    def moves(state: State) -> Moves:
        waiting, x, prefilled, y = state
        if waiting < MOST_WAITING:
            yield arrivals, settled((waiting + 1, x, prefilled, y))
        if waiting:
            yield waiting * patience, (waiting - 1, x, prefilled, y)
        if x and prefilled < MOST_WAITING:
            yield prefill_rate, settled((waiting, 0, prefilled + 1, y))
        if prefilled:
            yield prefilled * patience, (waiting, x, prefilled - 1, y)
        if y:
            yield y * decode_rate, settled((waiting, x, prefilled, y - 1))

    law = stationary((0, 0, 0, 0), moves)
    x, y = (sum(p * s[k] for s, p in law.items()) for k in (1, 3))
    instance = two_groups(
        lse.GpuGroup("p", FAST, 0.5, "prefill"), lse.GpuGroup("d", SLOW, 0.5, "decode")
    )
    rule = lse.DispatchRule(gate="fcfs", router="solo-first", pools="dynamic")
    found, rates = simulated(instance, rule)
    for exact, values in (
        (x / 2, found[:, 0, 0]),
        (y / 2, found[:, 1, 1]),
        (y * decode_rate, np.array(rates)),
    ):
        low, high = interval(values.tolist())
        assert low <= exact <= high, (low, exact, high)
    # Sent on arrival there is one GPU to choose, so nothing changes.
    other = lse.DispatchRule(gate="fcfs", router="least-loaded", pools="dynamic")
    again, _ = simulated(instance, other)
    assert again == pytest.approx(found)
