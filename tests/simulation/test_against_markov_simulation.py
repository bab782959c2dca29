"""The engine and the independent Markov simulation agree on every mean."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from markov_simulation import OCCUPANCIES, POLICIES, simulate
from scipy.stats import t

import llm_sched_env as lse
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass

INSTANCES = {
    instance.name: instance
    for instance in (
        Instance(
            "underloaded, one class infinitely patient",
            (
                RequestClass("chat", 400, 600, 0.66, 0.05),
                RequestClass("document", 2500, 150, 0.264, 0.0),
                RequestClass("code", 900, 350, 0.33, 0.2),
            ),
            Hardware(0.0152, 3.6e-5, 52.63, chunk_tokens=256, batch_slots=16),
            Prices(0.1, 0.2),
        ),
        Instance(
            "critically loaded, few slots",
            (
                RequestClass("short", 200, 300, 0.356, 0.15),
                RequestClass("long", 1800, 500, 0.1424, 0.08),
            ),
            Hardware(0.0174, 6.2e-5, 45.45, chunk_tokens=512, batch_slots=4),
            Prices(0.1, 0.25),
        ),
        Instance(
            "overloaded, patience differs",
            (
                RequestClass("a", 150, 800, 0.9, 0.1),
                RequestClass("b", 1200, 300, 0.75, 0.25),
                RequestClass("c", 3500, 250, 0.38, 0.05),
                RequestClass("d", 600, 60, 0.75, 0.4),
            ),
            Hardware(0.016, 5.0e-5, 48.0, chunk_tokens=256, batch_slots=16),
            Prices(0.12, 0.15),
        ),
        Instance(
            "overloaded, few slots, prefill dear",
            (
                RequestClass("x", 2200, 80, 0.42, 0.12),
                RequestClass("y", 500, 250, 0.42, 0.06),
                RequestClass("z", 300, 500, 0.28, 0.3),
            ),
            Hardware(0.0174, 6.2e-5, 45.45, chunk_tokens=256, batch_slots=4),
            Prices(0.2, 0.1),
        ),
    )
}

# Both simulations start with an empty cluster, so their expectations agree over any window: the
# warm-up only skips the part in which nothing waits yet. Many short runs rather than few long
# ones make the means of replications normal and their standard errors precise.
# The credit gate that ships has a larger cap and another router.
OF_THE_MODEL_PAGE = {"token-bucket": lse.DispatchRule("largest-credit", "solo-first", "dynamic")}
# GPUs: policies, replications, horizon and warm-up in seconds.
SETTINGS = {
    20: (tuple(POLICIES), 32, 100.0, 20.0),
    200: (("gate-and-route", "token-bucket"), 20, 40.0, 10.0),
}

# About 580 differences are tested. Under agreement each is Student t with about 62 (20 GPUs) or
# 38 (200 GPUs) degrees of freedom, beyond 4.5 with probability 3e-5 or 6e-5: a false alarm
# somewhere has a probability of 2%, and with fixed seeds it comes with a change or never.
LARGEST_Z = 4.5
# The root mean square is 1 under agreement and sees small differences that many quantities
# share. The 110 to 200 differences of an instance are correlated within a policy: in 32 trials
# (8 sets of seeds, 4 instances) it lay between 0.85 and 1.13, with a standard deviation of 0.07.
# The limit is more than three of those above 1.
LARGEST_ROOT_MEAN_SQUARE = 1.25
# A place that is nearly always empty has few visits in all runs: its mean is not normal.
RARE = 1e-3


def z_scores(
    instance: Instance,
    n_gpus: int,
    policy: str,
    replications: int,
    horizon: float,
    warmup: float,
    seed: int,
) -> Iterator[tuple[str, float]]:
    """Each compared quantity with its difference in standard errors."""
    engine = lse.evaluate(
        OF_THE_MODEL_PAGE.get(policy, policy),
        instance,
        n_gpus,
        horizon=horizon,
        warmup=warmup,
        replications=replications,
        seed=seed,
        jobs=1,
    )
    seeds = range(1000 * seed, 1000 * seed + replications)
    runs = simulate(instance, policy, n_gpus, horizon, warmup, seeds)
    for place, name in enumerate(OCCUPANCIES):
        for i, request_class in enumerate(instance.classes):
            mean, error = mean_and_error([run.occupancy[place, i] for run in runs])
            engine_mean = engine.occupancy[name][i]
            if max(mean, engine_mean) >= RARE:
                error = math.hypot(error, engine.occupancy_standard_error[name][i])
                quantity = f"{policy}, {n_gpus} GPUs, {name} of {request_class.name}"
                yield quantity, (engine_mean - mean) / error
    for name in ("bundled_revenue_rate", "separate_revenue_rate"):
        mean, error = mean_and_error([getattr(run, name) for run in runs])
        estimate = getattr(engine, name)
        error = math.hypot(error, standard_error(estimate, replications))
        yield f"{policy}, {n_gpus} GPUs, {name}", (estimate.mean - mean) / error


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean over replications and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))


def standard_error(estimate: Estimate, replications: int) -> float:
    """The standard error behind a 95% interval."""
    half_width = (estimate.ci95[1] - estimate.ci95[0]) / 2
    return half_width / float(t.ppf(0.975, replications - 1))


CORE = {"critically loaded, few slots"}
"""What ``make test`` compares; the others differ in patience and load."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in CORE else pytest.mark.extended) for n in INSTANCES]
)
def test_engine_agrees_with_the_markov_simulation(name):
    instance = INSTANCES[name]
    found = {}
    seeds = itertools.count(1)  # every comparison its own: their differences are independent
    for n_gpus, (policies, *lengths) in SETTINGS.items():
        for policy in policies:
            found.update(z_scores(instance, n_gpus, policy, *lengths, next(seeds)))
    worst = max(found, key=lambda quantity: abs(found[quantity]))
    assert abs(found[worst]) < LARGEST_Z, worst
    root_mean_square = math.sqrt(np.mean(np.square(list(found.values()))))
    assert root_mean_square < LARGEST_ROOT_MEAN_SQUARE
