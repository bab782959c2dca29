"""KV caches that move over links: the engine and its twin do the same, event by event."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fleet_cases import AT_GPUS, CENTRAL
from fleet_twin import FleetTwin
from link_twin import LinkTwin
from reference_cases import assert_same_log
from test_fleet_twin import FLEETS, check_books, instance_of, named

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.simulation import Simulation

LINKS = {"fast": lse.Link(20_000.0, 0.01), "slow": lse.Link(900.0, 0.05)}
# The requests of the cases have 180 to 960 tokens on average; longer ones are rejected.
KV_TOKENS = 2500


MOVING = [rule for rule in CENTRAL if rule.router != "coupled"]
COUPLED = [rule for rule in CENTRAL if rule.router == "coupled"]
# Where every GPU may do both, a coupled decode has its own to stay on.
CASES = [(fleet, rule) for fleet in FLEETS for rule in MOVING + AT_GPUS[::2]]
CASES += [("two kinds", rule) for rule in COUPLED]


def linked(fleet: str, link: lse.Link | None, kv_tokens: int | None = None) -> lse.Instance:
    instance = instance_of(fleet)
    groups = tuple(
        replace(group, link=link, hardware=replace(group.hardware, kv_tokens=kv_tokens))
        for group in instance.groups
    )
    return replace(instance, hardware=lse.Fleet(groups))


def run_both(instance: lse.Instance, rule: lse.DispatchRule, n_gpus: int, seed: int) -> Simulation:
    plan = lse.plan(instance)
    ranks, controls = slot_ranks(plan, n_gpus), plan.controls(n_gpus)
    key = np.random.SeedSequence(seed)
    simulation = Simulation(instance, rule, controls, n_gpus, key, log_events=20_000, ranks=ranks)
    twin = LinkTwin(instance, rule, controls, n_gpus, key, ranks=ranks)
    simulation.run(40.0)
    twin.run(40.0)
    assert_same_log(simulation, twin, at_least=400)
    check_books(simulation)
    check_links(simulation)
    return simulation


def check_links(simulation: Simulation) -> None:
    """What moves has a slot, what is held waits or moves, and links are never busier than time."""
    state, metrics = simulation.state, simulation.metrics()
    moves = int(state.clock["moves"][0])
    assert state.gpus["incoming"].sum() == moves == state.classes["moving"].sum()
    assert state.links["held"].sum() == moves + int(state.clock["waiting_decodes"][0])
    assert ((metrics.link_busy >= 0) & (metrics.link_busy <= 1 + 1e-12)).all()
    if simulation.batch.instance.hardware.kv_tokens is not None:
        assert (state.kv_reserved <= simulation.batch.instance.hardware.kv_tokens + 1e-6).all()


@pytest.mark.parametrize(("fleet", "rule"), CASES, ids=lambda c: c if c in FLEETS else named(c))
def test_engine_and_twin_do_the_same(fleet, rule):
    n_gpus = 5 if fleet != "two kinds" else 6
    link = LINKS["slow" if rule in MOVING[::2] else "fast"]
    simulation = run_both(linked(fleet, link), rule, n_gpus, 7)
    moved = simulation.metrics().by_group["moved"].sum()
    stays = fleet == "two kinds" and rule in AT_GPUS + COUPLED
    assert moved == 0 if stays else moved > 20


@pytest.mark.parametrize("rule", MOVING + AT_GPUS[::3], ids=named)
def test_kv_caches_are_held_until_they_have_moved(rule):
    """With a limit of KV tokens a prefill GPU is full until the link has taken its prompts."""
    run_both(linked("split", LINKS["slow"], KV_TOKENS), rule, 6, 3)


@pytest.mark.parametrize("fleet", ["roles", "two kinds"])
@pytest.mark.parametrize("rule", AT_GPUS[::3], ids=named)
def test_limits_of_kv_tokens_where_decodes_stay(fleet, rule):
    run_both(linked(fleet, LINKS["slow"], KV_TOKENS), rule, 6, 3)


@pytest.mark.parametrize("rule", MOVING, ids=named)
def test_what_could_stop_for_ever_is_refused(rule):
    with pytest.raises(ConfigurationError, match="role mixed have links and a limit"):
        run_both(linked("roles", LINKS["slow"], KV_TOKENS), rule, 5, 3)


@pytest.mark.parametrize("rule", MOVING, ids=named)
def test_a_limit_of_kv_tokens_without_links(rule):
    instance = linked("split", None, KV_TOKENS)
    plan = lse.plan(instance)
    ranks, controls = slot_ranks(plan, 6), plan.controls(6)
    key = np.random.SeedSequence(5)
    simulation = Simulation(instance, rule, controls, 6, key, log_events=20_000, ranks=ranks)
    twin = FleetTwin(instance, rule, controls, 6, key, ranks=ranks)
    simulation.run(40.0)
    twin.run(40.0)
    assert_same_log(simulation, twin, at_least=300)


def test_a_link_alone_is_an_m_d_1_queue():
    """Prefills end as a Poisson stream (Burke), a move takes the same seconds for all."""
    seconds, load = 0.5, 0.7
    prefill = lse.Hardware(alpha=0.01, beta=0.0, gamma=1000.0, chunk_tokens=100, batch_slots=64)
    classes = (lse.RequestClass("a", 100.0, 1.0, load / seconds / 2, 0.0),)
    groups = (
        lse.GpuGroup("p", prefill, 0.5, "prefill", lse.Link(1e12, seconds)),
        lse.GpuGroup("d", prefill, 0.5, "decode"),
    )
    instance = lse.Instance("link", classes, lse.Fleet(groups), lse.Prices(0.1, 0.2))
    rule = lse.DispatchRule(gate="fcfs", router="solo-first", pools="dynamic")
    controls = lse.plan(instance).controls(2)
    waits, shares = [], []
    for k in range(20):
        simulation = Simulation(instance, rule, controls, 2, np.random.SeedSequence(k))
        simulation.run(500.0)
        simulation.reset_metrics()
        simulation.run(5000.0)
        metrics = simulation.metrics()
        moved, total = metrics.by_group["moved"][0, 1], metrics.by_group["move_seconds"][0, 1]
        waits.append(total / moved - seconds)
        shares.append(metrics.link_busy[0])
    expected = load * seconds / (2 * (1 - load))
    for values, truth in ((waits, expected), (shares, load)):
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert abs(np.mean(values) - truth) < 3.5 * error
        assert error < 0.03 * truth
