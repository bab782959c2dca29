"""Rules, instances and streams on which a simulation is compared with the plain twin."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from reference_simulator import ReferenceSimulator

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.simulation.scheduling.rules import GATES, POOLS, ROUTERS, DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import RequestStream

# Times of ties are sums of powers of two, so that they are exact.
TICK = 1.0 / 16.0


def rule_name(rule: DispatchRule) -> str:
    first = "prefill-first" if rule.prefill_first else "decode-first"
    return f"{rule.gate}-{rule.router}-{rule.pools}-{first}"


def rule_or_none(*parts: Any) -> DispatchRule | None:
    try:
        return DispatchRule(*parts)
    except ConfigurationError:
        return None


PARTS = product(GATES, ROUTERS, POOLS, (False, True))
RULES = [rule for parts in PARTS if (rule := rule_or_none(*parts)) is not None]


def _core() -> list[DispatchRule]:
    """Registered rules, and more: gates meet all pools, routers all pools and priorities."""
    made = (entry.make() for entry in registered_policies().values())
    registered = {rule_name(rule) for rule in made if isinstance(rule, DispatchRule)}
    seen: set[tuple[Any, ...]] = set()
    chosen = []
    # After the registered ones an order that mixes gates and routers, and is always the same.
    for rule in sorted(
        RULES, key=lambda rule: (rule_name(rule) not in registered, crc32(rule_name(rule).encode()))
    ):
        parts = {
            (rule.gate, rule.pools),
            (rule.gate, rule.prefill_first),
            (rule.router, rule.pools, rule.prefill_first),
        }
        if rule_name(rule) in registered or not parts <= seen:
            chosen.append(rule)
            seen |= parts
    return chosen


CORE_RULES = _core()


def each_rule(rules: list[DispatchRule] = RULES) -> pytest.MarkDecorator:
    """Parametrize a test by rules; those beyond the core run in ``make test-all``."""
    marks = {rule: () if rule in CORE_RULES else (pytest.mark.extended,) for rule in rules}
    return pytest.mark.parametrize(
        "rule", [pytest.param(rule, marks=marks[rule]) for rule in rules], ids=rule_name
    )


def assert_same_log(simulation: Simulation, twin: ReferenceSimulator, at_least: int) -> None:
    """Kinds, requests and GPUs are equal, times up to rounding."""
    events = simulation.events()
    columns = zip(*twin.log, strict=True)
    times, kinds, indices, gpus = (np.array(column) for column in columns)
    assert len(times) >= at_least
    for name, column in (("kind", kinds), ("index", indices), ("gpu", gpus)):
        shared = min(len(events), len(column))
        different = np.flatnonzero(events[name][:shared] != column[:shared])
        assert not len(different), (
            f"{name} of log entry {different[0]}: "
            f"engine {events[different[0]]}, twin {twin.log[different[0]]}"
        )
    assert len(events) == len(times)
    np.testing.assert_allclose(events["time"], times, rtol=1e-9, atol=0.0)


def general_instance(kind: str) -> Instance:
    """Everything beyond the Markov model, in combinations that meet each other."""
    laws = {
        "lengths": (LengthDistribution("gamma", 0.6), LengthDistribution("log-normal", 1.4)),
        "affine": (LengthDistribution("gamma", 1.7), LengthDistribution("log-normal", 0.8)),
    }
    prompts, outputs = laws.get(kind, (LengthDistribution(), LengthDistribution()))
    hardware = replace(
        presets.QWEN_8B_A100,
        alpha=0.0219 if kind == "affine" else 0.0174,  # b0 = 1.6 tokens: every decode counts
        beta=4e-4 if kind == "affine" else 6.2e-5,
        batch_slots=6,
        iteration_law="affine" if kind == "affine" else "two-speed",
        chunking="ceil" if kind in {"affine", "lengths"} else "exact",
        kv_tokens=4000 if kind == "kv" else None,
    )
    day = ArrivalProfile((0.0, 10.0, 10.0, 25.0), (0.2, 3.0, 0.0, 1.0))
    observed = LengthDistribution("empirical", values=(100.0, 200.0, 900.0))
    fixed = LengthDistribution("deterministic")
    slow, fast = Deadlines(ttft_seconds=6.0), Deadlines(ttft_seconds=1.0, tpot_seconds=0.05)
    profile = day if kind == "day" else None
    classes = (
        RequestClass("a", 400.0, 500.0, 0.6, 0.1, prompts, outputs, deadlines=slow),
        RequestClass("b", 1500.0, 200.0, 0.6, 0.0, outputs, prompts, profile, deadlines=fast),
        RequestClass("c", 400.0, 60.0, 0.4, 0.3, *((observed, fixed) if kind == "lengths" else ())),
    )
    bursts = ArrivalModulation(
        ((0.2, 1.0, 1.0), (2.0, 0.0, 1.0), (1.0, 5.0, 1.0)),
        ((0.0, 0.1, 0.3), (0.5, 0.0, 0.1), (0.0, 1.0, 0.0)),
    )
    modulation = bursts if kind == "day" else None
    return Instance(kind, classes, hardware, Prices(0.1, 0.2), modulation)


KINDS = ("lengths", "affine", "kv", "day")


def tie_instance(patience_rate: float) -> Instance:
    """A prefill takes one tick; a class that is admitted to 1/8 earns a credit in four ticks.

    A first token of the first class is due two ticks after one of the second, one of the third
    whenever it comes.
    """
    due = (Deadlines(4 * TICK), Deadlines(2 * TICK), Deadlines(tpot_seconds=TICK))
    classes = tuple(
        RequestClass(
            name, 512.0, 32.0, arrival_rate=8.0, patience_rate=patience_rate, deadlines=own
        )
        for name, own in zip(("limited", "limited-too", "unlimited"), due, strict=True)
    )
    hardware = Hardware(alpha=2.0**-6, beta=2.0**-14, gamma=64.0, chunk_tokens=256, batch_slots=4)
    return Instance("ties", classes, hardware, Prices(0.1, 0.2))


def tie_stream() -> RequestStream:
    """Requests of equal lengths that arrive several at a time, on ticks."""
    rng = np.random.default_rng(3)
    size = 600  # 5 in 2 ticks on average, more than the mixed pool prefills
    return RequestStream(
        np.sort(rng.integers(0, 2 * size // 5, size)) * TICK,
        rng.integers(0, 3, size).astype(np.int32),
        np.full(size, 512.0),
        np.full(size, 32.0),
    )
