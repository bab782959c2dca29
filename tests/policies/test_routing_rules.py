"""Compiled routers on arrival as policies of ``LLMSchedRouting-v0``: the same event log."""

from __future__ import annotations

import numpy as np
import pytest
from block_streams import block_stream
from reference_simulator import Draws
from routing_cases import fleet_instance, talking_instance

import llm_sched_env as lse
from llm_sched_env.baselines.routing_rules import ROUTING_RULES, RoutingRule
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning import plan
from llm_sched_env.simulation.simulation import Simulation

N_GPUS, SEED, LOG_ENTRIES = 5, 4, 20_000
SAME = ("join-shortest-queue", "least-loaded")


def controlled(policy, instance, scheduler="fcfs", horizon=60.0, **control):
    """A cluster whose arrivals the policy has routed up to the horizon."""
    given = {name: v for name, v in policy.environment.items() if name != "control"}
    configuration = RoutingConfiguration.validated(
        instance, N_GPUS, horizon=horizon, scheduler=scheduler, **given
    )
    routing = RoutingControl(configuration, log_events=LOG_ENTRIES, **control)
    routing.start(0, np.random.SeedSequence(SEED))
    policy.reset(routing.cluster.instance, routing.plan, N_GPUS, np.random.default_rng(0))
    report = routing.report()
    while not routing.truncated()[0]:
        action = policy.act(report.observations[0], routing.info(0, report))
        report = routing.empty_report()
        routing.step([action], report)
    return routing


def compiled(rule, instance, horizon=60.0, **batch):
    fluid = plan(instance)
    simulation = Simulation(
        instance,
        rule,
        fluid.controls(N_GPUS),
        N_GPUS,
        np.random.SeedSequence(SEED),
        log_events=LOG_ENTRIES,
        **batch,
    )
    simulation.run(horizon)
    return simulation


def assert_same(routing, simulation):
    log = simulation.events()
    assert len(log) > 300
    assert routing.batch.events(0).tobytes() == log.tobytes()
    ours, theirs = routing.batch.metrics(0), simulation.metrics()
    assert ours.revenue_rate("bundled") == theirs.revenue_rate("bundled")


@pytest.mark.parametrize("scheduler", ["fcfs", "static-priority", "shortest-prompt"])
@pytest.mark.parametrize("fleet", ["no caches", "caches", "little memory", "disaggregated"])
@pytest.mark.parametrize("name", SAME)
def test_the_same_log_on_recorded_requests(name, fleet, scheduler):
    instance = fleet_instance(fleet, patience_rate=0.2)
    stream = block_stream(3, 150, 55.0)
    rule = lse.DispatchRule(gate=scheduler, router=name, pools="dynamic")
    assert_same(
        controlled(RoutingRule(name), instance, scheduler, stream=stream),
        compiled(rule, instance, stream=stream),
    )


@pytest.mark.parametrize("instance", ["base", "deadlines-bursts"])
@pytest.mark.parametrize("name", SAME)
def test_the_same_log_on_drawn_requests(name, instance):
    instance = lse.presets.resolve_instance(instance)
    rule = lse.DispatchRule(gate="fcfs", router=name, pools="dynamic")
    assert_same(controlled(RoutingRule(name), instance), compiled(rule, instance))


class EarliestFinish(RoutingRule):
    """Among all GPUs, with the draws by which the compiled router chooses among equal ones."""

    def __init__(self, refresh_seconds):
        super().__init__("earliest-finish", N_GPUS, refresh_seconds)
        self.streams, self.draws = Draws(np.random.SeedSequence(SEED)), 0

    def act(self, observation, info):
        del observation
        if info["request_class"] < 0:
            return int(np.argmax(info["action_mask"]))
        costs, possible = self.costs(info), info["action_mask"] > 0
        actions = {int(info["gpus"][a]): int(a) for a in np.flatnonzero(possible)}
        assert sorted(actions) == list(range(N_GPUS))  # each GPU once
        best = min(costs[a] for a in actions.values())
        equal = [g for g in sorted(actions) if costs[actions[g]] <= best + 1e-9 * max(1.0, best)]
        place = 0
        if len(equal) > 1:
            place = self.streams.below("routing", self.draws, len(equal))
            self.draws += 1
        return actions[equal[place]]


@pytest.mark.parametrize("refresh_seconds", [0.0, 0.75])
@pytest.mark.parametrize("fleet", ["no caches", "caches"])
def test_earliest_finish_among_all_is_the_compiled_router(fleet, refresh_seconds):
    instance, stream = fleet_instance(fleet), block_stream(5, 150, 55.0)
    rule = lse.DispatchRule(
        gate="fcfs", router="earliest-finish", pools="dynamic", refresh_seconds=refresh_seconds
    )
    routing = controlled(EarliestFinish(refresh_seconds), instance, stream=stream)
    simulation = compiled(rule, instance, stream=stream)
    assert_same(routing, simulation)
    if fleet == "caches":
        ours, theirs = routing.batch.metrics(0).reuse, simulation.metrics().reuse
        assert ours.cached_tokens.sum() == theirs.cached_tokens.sum() > 0


@pytest.mark.parametrize("name", SAME)
def test_evaluation_is_that_of_the_compiled_router(name):
    """Conversations are drawn for each replication, the same for both."""
    times = {"horizon": 60.0, "warmup": 20.0, "replications": 2}
    rule = lse.DispatchRule(gate="fcfs", router=name, pools="dynamic")
    ours, theirs = (
        lse.evaluate(p, talking_instance(), 4, **times) for p in (RoutingRule(name), rule)
    )
    assert ours.scores == theirs.scores
    assert ours.caches == theirs.caches
    assert ours.classes == theirs.classes


def test_the_longest_match_finds_more_than_the_shortest_queue():
    times = {"horizon": 100.0, "warmup": 20.0, "replications": 1}
    by_match, by_queue = (
        lse.evaluate(RoutingRule(name), talking_instance(200), 4, **times)
        for name in ("longest-match", "join-shortest-queue")
    )
    assert by_match.caches.cached_token_share > 1.2 * by_queue.caches.cached_token_share


def test_names_are_checked_in_one_line():
    with pytest.raises(ConfigurationError, match=", ".join(ROUTING_RULES)):
        RoutingRule("nearest")
