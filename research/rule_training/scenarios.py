"""Training scenarios of the multi-scenario rule: random instances, clusters and traffic.

Half of the instances are ``base`` or ``dolly15k`` with everything changed, never these themselves.
Scenario ``number`` of a seed is the same whatever else is drawn. The random instances that others
are scored on (research/setups/random_instances.py) use another stream and other ranges.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from llm_sched_env.agents.learned_rule import FORESIGHT
from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.instance import Hardware, Instance, RequestClass
from llm_sched_env.planning.slot_prices import critical_scale
from llm_sched_env.presets import PAPER_PRICES, PATIENCE_RATE, base, dolly15k
from llm_sched_env.simulation.state.layout import RequestStream

# A stream of its own: no other part of the project draws instances from this key.
_STREAM = 7_417_231
SIZES = (3, 4, 5, 6, 8, 12, 20, 32)
LOADS = (0.7, 2.2)
"""Mean load over the critical one, log-uniform."""

STEADY, DIURNAL, BURSTS = "steady", "diurnal", "bursts"
TRAFFIC = {STEADY: 0.3, DIURNAL: 0.3, BURSTS: 0.4}
"""Kinds of traffic and their shares."""

WARMUP, HORIZON = 60.0, 360.0
"""Seconds of a scenario: not measured, and in all."""

AROUND_PRESETS = 0.5
"""Share of scenarios whose instance is a preset with everything changed by some ten per cent."""

WRITING = ((40.0, 3500.0), (100.0, 1500.0))
"""Tokens of prompts and of outputs, log-uniform, of other instances: decodes are what is scarce."""
READING = ((300.0, 4000.0), (10.0, 300.0))
"""... of as many: code and documents, where prefills are what is scarce, always or at times."""
READING_SHARE = 0.5


@dataclass(frozen=True)
class TrainingScenario:
    """One cluster under one traffic.

    Attributes:
        instance: classes, hardware, traffic.
        n_gpus: cluster size.
        warmup: seconds not measured; runs start at the fluid plan.
        horizon: seconds, warm-up included.
        stream: recorded requests that arrive; None: drawn from the instance.
        foresight: seconds over which rules know arrival profiles in advance.
        revenue: which requests are paid for, ``all`` or ``goodput``.
        drop_late: whether rules drop who cannot be in time.
        planned: what the plan knows in place of the instance; None: the instance.
    """

    instance: Instance
    n_gpus: int
    warmup: float = WARMUP
    horizon: float = HORIZON
    stream: RequestStream | None = None
    foresight: float = FORESIGHT
    revenue: str = "all"
    drop_late: bool = False
    planned: Instance | None = None


def random_scenario(number: int, seed: int = 0) -> TrainingScenario:
    """Scenario ``number`` (0, 1, ...) of a seed."""
    rng = np.random.default_rng(np.random.SeedSequence([_STREAM, seed, number]))
    traffic = str(rng.choice(list(TRAFFIC), p=list(TRAFFIC.values())))
    weights = np.array(SIZES) ** -0.5
    n_gpus = int(rng.choice(SIZES, p=weights / weights.sum()))
    mix = _around_a_preset if rng.random() < AROUND_PRESETS else _random_mix
    instance = mix(rng, f"training-{seed}-{number}-{traffic}")
    load = float(np.exp(rng.uniform(*np.log(LOADS))))
    instance = instance.scaled(load * critical_scale(instance), instance.name)
    if traffic == DIURNAL:
        instance = _with_diurnal_rates(instance, rng)
    elif traffic == BURSTS:
        instance = _with_bursts(instance, rng)
    return TrainingScenario(instance, n_gpus)


def _random_mix(rng: np.random.Generator, name: str) -> Instance:
    """Classes and a GPU; lengths log-uniform, so that short and long requests are as frequent."""
    n_classes = int(rng.choice([2, 2, 3, 4, 5, 6, 8, 10]))
    ranges = READING if rng.random() < READING_SHARE else WRITING
    prompts, outputs = (
        np.exp(rng.uniform(np.log(least), np.log(most), n_classes)) for least, most in ranges
    )
    # Work per class, not requests, is what is shared out at random.
    rates = rng.dirichlet(np.full(n_classes, 2.0)) / (outputs + 0.3 * prompts)
    patience = float(np.exp(rng.uniform(np.log(0.03), np.log(0.3))))
    hardware = Hardware(
        alpha=float(rng.uniform(0.015, 0.02)),
        beta=float(np.exp(rng.uniform(np.log(1e-5), np.log(3e-4)))),
        gamma=float(rng.uniform(20.0, 50.0)),
        chunk_tokens=256,
        batch_slots=int(rng.choice([8, 16, 16, 16, 32])),
    )
    classes = tuple(
        RequestClass(
            f"class-{i + 1}", float(prompts[i]), float(outputs[i]), float(rates[i]), patience
        )
        for i in range(n_classes)
    )
    return Instance(name, classes, hardware, PAPER_PRICES)


def _around_a_preset(rng: np.random.Generator, name: str) -> Instance:
    """``base`` or ``dolly15k`` with lengths, rates, patience and speeds of its own."""
    preset = base() if rng.random() < 0.5 else dolly15k()
    patience = PATIENCE_RATE * float(np.exp(rng.uniform(-0.7, 0.7)))
    classes = []
    for known in preset.classes:
        factors = np.exp(rng.normal(0.0, 0.3, 3))
        classes.append(
            RequestClass(
                known.name,
                known.prompt_tokens * float(factors[0]),
                known.output_tokens * float(factors[1]),
                known.arrival_rate * float(factors[2]),
                patience,
            )
        )
    hardware = dataclasses.replace(
        preset.only_hardware,
        beta=preset.hardware.beta * float(np.exp(rng.uniform(-0.5, 0.5))),
        gamma=preset.hardware.gamma * float(rng.uniform(0.8, 1.2)),
    )
    return Instance(name, tuple(classes), hardware, PAPER_PRICES)


def _with_diurnal_rates(instance: Instance, rng: np.random.Generator) -> Instance:
    """Each class rises and falls once a period of 2 to 10 minutes, in step or not."""
    period = float(rng.uniform(120.0, 600.0))
    together = bool(rng.random() < 0.5)
    shared = _tide(rng, period)
    profiles = [shared if together else _tide(rng, period) for _ in instance.classes]
    classes = tuple(
        dataclasses.replace(request_class, arrival_profile=profile)
        for request_class, profile in zip(instance.classes, profiles, strict=True)
    )
    return dataclasses.replace(instance, classes=classes)


def _tide(rng: np.random.Generator, period: float) -> ArrivalProfile:
    """A hat of random place, width and height on a quiet level."""
    width = float(rng.uniform(0.1, 0.5))
    start = float(rng.uniform(0.0, 1.0 - width))
    height = float(np.exp(rng.uniform(np.log(2.0), np.log(10.0))))
    times = np.array([0.0, start, start + width / 2.0, start + width, 1.0]) * period
    return ArrivalProfile(tuple(times.tolist()), (1.0, 1.0, height, 1.0, 1.0))


def _with_bursts(instance: Instance, rng: np.random.Generator) -> Instance:
    """A quiet state and a burst of all classes, or of a random half of them."""
    factor = float(rng.uniform(2.0, 5.0))
    touched = np.ones(instance.n_classes, bool)
    if rng.random() < 0.5:
        touched = rng.permutation(instance.n_classes) < (instance.n_classes + 1) // 2
    quiet, burst = rng.uniform(30.0, 120.0), rng.uniform(10.0, 60.0)
    multipliers = tuple(np.where(touched, factor, 1.0).tolist())
    modulation = ArrivalModulation(
        (tuple([1.0] * instance.n_classes), multipliers),
        ((0.0, float(1.0 / quiet)), (float(1.0 / burst), 0.0)),
    )
    return dataclasses.replace(instance, modulation=modulation)
