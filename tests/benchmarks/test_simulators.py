"""The benchmarked simulators simulate what they say: they agree with the engine."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from lightly import lightly
from scipy.stats import t

import llm_sched_env as lse
from llm_sched_env.benchmarks.engine_cluster import EngineCluster
from llm_sched_env.benchmarks.heapq_loop import HeapqCluster
from llm_sched_env.model.instance import Hardware, Instance, Prices, RequestClass

PLACES = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
# The intervals of all quantities of a comparison hold together with this probability (Bonferroni).
LEVEL = 0.999
REPLICATIONS = 40
WARMUP, HORIZON = 20, 80
# A place that is nearly always empty has few visits in all runs: its mean is not normal.
RARE = 0.01

BASE = lse.presets.base()
INSTANCES = {
    "overloaded prefill": (BASE, 6),
    "prefill slots often idle": (BASE.scaled(0.5), 6),
    "decode slots short": (
        Instance(
            "decode slots short",
            (
                RequestClass("short", 200, 300, 0.8, 0.15),
                RequestClass("long", 1800, 500, 0.3, 0.08),
            ),
            Hardware(0.0174, 6.2e-5, 45.45, chunk_tokens=512, batch_slots=4),
            Prices(0.1, 0.25),
        ),
        4,
    ),
}


def simpy_cluster(*arguments):
    pytest.importorskip("simpy", reason="the extra bench is not installed: no SimPy")
    from llm_sched_env.benchmarks.simpy_model import SimpyCluster

    return SimpyCluster(*arguments)


def ciw_cluster(*arguments):
    pytest.importorskip("ciw", reason="the extra bench is not installed: no Ciw")
    from llm_sched_env.benchmarks.ciw_model import CiwCluster

    return CiwCluster(*arguments)


def engine_run(instance, plan, n_gpus, seed):
    """Revenue, occupancies (5, I) and events of one run, per GPU and (or) second."""
    cluster = EngineCluster(instance, plan, n_gpus, seed)
    cluster.advance(WARMUP)
    cluster.simulation.reset_metrics()
    events = cluster.advance(HORIZON - WARMUP)
    metrics = cluster.simulation.metrics()
    occupancy = [metrics.occupancy[place] for place in PLACES]
    return metrics.revenue_rate("bundled"), np.array(occupancy), events


def simulator_run(build, instance, plan, n_gpus, seed):
    """The same of a simulator, its occupancies seen in the middle of every second."""
    cluster = build(instance, plan, n_gpus, seed)
    cluster.advance(WARMUP)
    before = np.array(cluster.completed)
    events = 0
    samples = []
    for _ in range(HORIZON - WARMUP):
        events += cluster.advance(0.5)
        samples.append(cluster.occupancy())
        events += cluster.advance(0.5)
    revenue = instance.bundled_revenues @ (np.array(cluster.completed) - before)
    occupancy = np.mean(samples, axis=0) / n_gpus
    return revenue / (n_gpus * (HORIZON - WARMUP)), occupancy, events


def means_and_errors(runs, merge):
    """Mean and standard error of every quantity over replications."""
    rows = [
        np.array([revenue, *merge(occupancy).ravel(), events])
        for revenue, occupancy, events in runs
    ]
    return np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / math.sqrt(len(rows))


def assert_agree(build, instance, n_gpus, merge=lambda occupancy: occupancy):
    plan = lse.plan(instance)
    engine = [engine_run(instance, plan, n_gpus, seed) for seed in range(100, 100 + REPLICATIONS)]
    other = [simulator_run(build, instance, plan, n_gpus, seed) for seed in range(REPLICATIONS)]
    mean, error = means_and_errors(other, merge)
    engine_mean, engine_error = means_and_errors(engine, merge)
    seen = np.maximum(mean, engine_mean) >= RARE
    z = (mean - engine_mean)[seen] / np.hypot(error, engine_error)[seen]
    limit = t.ppf(1 - (1 - LEVEL) / (2 * len(z)), 2 * REPLICATIONS - 2)
    assert np.abs(z).max() < limit, z
    # Revenue, events, and at least a prefill and a decode occupancy of every class.
    assert len(z) >= 2 + 2 * instance.n_classes


@pytest.mark.parametrize(("instance", "n_gpus"), lightly(INSTANCES, "overloaded prefill"))
@pytest.mark.parametrize("build", [HeapqCluster, simpy_cluster])
def test_the_same_model_has_the_means_of_the_engine(build, instance, n_gpus):
    assert_agree(build, instance, n_gpus)


def places_without_modes(occupancy):
    """Decodes of both modes together: Ciw's slots know their pool, not what runs beside them."""
    return np.vstack([occupancy[:3], occupancy[3:].sum(axis=0)])


@pytest.mark.parametrize(("instance", "n_gpus"), lightly(INSTANCES, "prefill slots often idle"))
def test_ciw_has_the_means_of_the_engine_where_both_modes_are_equally_fast(instance, n_gpus):
    """What its model leaves out, changes of speed, does not exist there."""
    hardware = dataclasses.replace(instance.hardware, alpha=1 / instance.hardware.gamma, beta=0.0)
    equal = dataclasses.replace(instance, hardware=hardware)
    assert_agree(ciw_cluster, equal, n_gpus, places_without_modes)


def test_ciw_completes_what_the_queue_with_abandonment_lets_through():
    """One class, decode slots in plenty: throughput is that of the M/M/c+M queue of prefills."""
    hardware = Hardware(0.0174, 6.2e-5, 45.45, chunk_tokens=256, batch_slots=16)
    chat = RequestClass("chat", 3000, 60, 1.2, 0.2)
    instance = Instance("one class", (chat,), hardware, Prices(0.1, 0.2))
    n_gpus = 4
    plan = lse.plan(instance)
    servers = plan.pool_size(n_gpus)
    arrival, service = n_gpus * chat.arrival_rate, float(instance.prefill_rates[0])
    weights = [1.0]
    for k in range(1, 400):
        leaving = min(k, servers) * service + max(0, k - servers) * chat.patience_rate
        weights.append(weights[-1] * arrival / leaving)
    busy = np.minimum(np.arange(400), servers) @ weights / np.sum(weights)
    runs = []
    for seed in range(REPLICATIONS):
        cluster = ciw_cluster(instance, plan, n_gpus, seed)
        cluster.advance(WARMUP)
        before = cluster.completed[0]
        cluster.advance(HORIZON)
        runs.append((cluster.completed[0] - before) / HORIZON)
    error = np.std(runs, ddof=1) / math.sqrt(REPLICATIONS)
    limit = t.ppf((1 + LEVEL) / 2, REPLICATIONS - 1)
    assert busy * service < 0.95 * arrival
    assert abs(np.mean(runs) - busy * service) < limit * error


@pytest.mark.parametrize("build", [HeapqCluster, simpy_cluster, ciw_cluster])
def test_a_seed_fixes_a_run_and_events_add_up(build):
    plan = lse.plan(BASE)

    def run(seed):
        cluster = build(BASE, plan, 3, seed)
        events = [cluster.advance(seconds) for seconds in (5.0, 7.5, 12.5)]
        return cluster, events

    cluster, events = run(1)
    again, _ = run(1)
    assert cluster.events == sum(events) == again.events
    assert cluster.completed == again.completed
    assert cluster.occupancy() == again.occupancy()
    assert events != run(2)[1]
