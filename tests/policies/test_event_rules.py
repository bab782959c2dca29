"""Every rule of the paper is a policy of event control, with the compiled rule's event log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_cases import RULES, each_rule, general_instance, tie_instance, tie_stream

import llm_sched_env as lse
from llm_sched_env.baselines.event_rules import ROUTERS, EventRule
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

LOG_ENTRIES = 20_000
# Under the other routers and gates an event brings all that a rule can do.
EXACT = [rule for rule in RULES if "credit" not in rule.gate and rule.router in ROUTERS]
N_GPUS = 7
FAST = {"horizon": 150.0, "warmup": 40.0, "replications": 2}


def event_log(
    rule: DispatchRule, instance: Instance, horizon: float, start: str = "empty", **control: Any
) -> np.ndarray:
    policy = EventRule(rule)
    arguments = {k: v for k, v in policy.environment.items() if k != "control"}
    configuration = EventConfiguration.validated(
        instance, N_GPUS, horizon=horizon, start=start, **arguments
    )
    events = EventControl(configuration, log_events=LOG_ENTRIES, **control)
    events.start(0, np.random.SeedSequence(4))
    policy.reset(instance, events.plan, N_GPUS, np.random.default_rng(0))
    report = events.empty_report()
    events.observe(report)
    while not events.truncated()[0]:
        action = policy.act(report.observations[0], events.info(0, report))
        report = events.empty_report()
        events.step([action], report)
    return events.batch.events(0)


def compiled_log(
    rule: DispatchRule, instance: Instance, horizon: float, start: str = "empty", **batch: Any
) -> np.ndarray:
    fluid = plan(instance)
    controls = fluid.controls(N_GPUS)
    simulation = Simulation(
        instance,
        rule,
        controls,
        N_GPUS,
        np.random.SeedSequence(4),
        fluid.occupancy if start == "plan" else None,
        log_events=LOG_ENTRIES,
        ranks=slot_ranks(fluid, N_GPUS),
        **batch,
    )
    # Setting the controls once more dispatches at the start, as an agent may.
    simulation.run(horizon, controls)
    return simulation.events()


def assert_same_log(rule: DispatchRule, instance: Instance, horizon: float, **more: Any) -> None:
    ours = event_log(rule, instance, horizon, **more)
    theirs = compiled_log(rule, instance, horizon, **more)
    assert len(theirs) > 300
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("name", ["base", "overload", "dolly15k"])
@each_rule(EXACT)
def test_same_log(rule: DispatchRule, name: str) -> None:
    assert_same_log(rule, lse.presets.PRESETS[name](), 30.0)


@each_rule(EXACT)
def test_same_log_from_the_plan_beyond_the_markov_model(rule: DispatchRule) -> None:
    assert_same_log(rule, general_instance("affine"), 30.0, start="plan")


@each_rule(EXACT)
def test_same_log_with_ties(rule: DispatchRule) -> None:
    """Recorded requests of equal lengths on ticks: completions and arrivals coincide."""
    assert_same_log(rule, tie_instance(0.5), 20.0, stream=tie_stream())


# A randomized router that places first tries a head without room twice an event: other draws.
@each_rule([rule for rule in EXACT if rule.router != "randomized" or rule.prefill_first])
def test_same_log_with_little_room_for_tokens(rule: DispatchRule) -> None:
    assert_same_log(rule, general_instance("kv"), 30.0)


REGISTERED = {name: entry.make() for name, entry in registered_policies().items()}


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, p in REGISTERED.items()
        if isinstance(p, DispatchRule)
        and p.router in ROUTERS
        and p.correction is None
        and not p.drop_late
    ],
)
def test_evaluation_of_every_registered_rule(name: str) -> None:
    """The same numbers; credit gates, woken every 20 ms, almost."""
    rule = REGISTERED[name]
    credit = "credit" in rule.gate
    ours = lse.evaluate(EventRule(rule, 0.02 if credit else None), "overload", 4, **FAST)
    theirs = lse.evaluate(name, "overload", 4, **FAST)
    if credit:
        assert ours.score.mean == pytest.approx(theirs.score.mean, abs=0.02)
        return
    assert_same_result(ours, theirs)


def assert_same_result(ours: Evaluation, theirs: Evaluation) -> None:
    ours_plain, theirs_plain = ours.to_dict(), theirs.to_dict()
    for own in ("policy", "wall_seconds", "events_per_second", "decision_milliseconds"):
        ours_plain.pop(own), theirs_plain.pop(own)
    assert ours_plain == theirs_plain


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("trunk-reservation", {"pricing": "separate"}),  # some prefills precede decodes
        ("trunk-reservation", {"pricing": "separate", "instance": "dolly15k"}),
        ("sli-aware", {"slos": ["prefill-fairness@limit=0.05", "tpot@price=3000"]}),
    ],
)
def test_evaluation_with_other_plans(name: str, more: dict[str, Any]) -> None:
    """Pool, probabilities and ranks are those of the plan that steers the compiled rule."""
    arguments = {"instance": "overload", "n_gpus": 4, **FAST, **more}
    rule = REGISTERED[name]
    assert_same_result(lse.evaluate(EventRule(rule), **arguments), lse.evaluate(name, **arguments))


def test_weighted_routing_is_no_event_policy() -> None:
    with pytest.raises(ConfigurationError, match="weighted-randomized") as caught:
        EventRule(DispatchRule("occupancy", "weighted-randomized", "static"))
    assert "\n" not in str(caught.value)


def test_sli_aware_routing_is_expressed() -> None:
    """Section 5.1: the printed gate, a random pool for every finished prefill."""
    rule = DispatchRule("occupancy", "randomized", "static")
    ours, theirs = (lse.evaluate(p, "dolly15k", 5, **FAST) for p in (EventRule(rule), rule))
    assert ours.scores == theirs.scores
    assert ours.tpot == theirs.tpot


def test_a_trace_is_replayed_under_event_control() -> None:
    trace = lse.requests_of_run("overload", 4, 60.0, seed=1)
    rule = REGISTERED["gate-and-route"]
    ours, theirs = (lse.evaluate(p, "overload", 4, trace=trace) for p in (EventRule(rule), rule))
    assert ours.scores == theirs.scores


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"control": "events"}, "interval, event or routing"),
        ({"control": "event", "gate": "token-bucket"}, "router, pools, wake_interval"),
        ({"control": "event", "interval": 1.0}, "router, pools, wake_interval"),
        ({"control": "event", "router": "coupled"}, "static pools"),
        ({"control": "event", "wake_interval": 0.0}, "wake_interval"),
    ],
)
def test_a_policy_that_asks_for_an_impossible_environment_is_told_so(
    environment: dict[str, Any], message: str
) -> None:
    policy = EventRule(DispatchRule())
    policy.environment = environment
    with pytest.raises(ConfigurationError, match=message) as caught:
        lse.evaluate(policy, "overload", 4, **FAST)
    assert "\n" not in str(caught.value)


def test_an_event_policy_may_have_any_horizon_and_warmup() -> None:
    """No interval: times need not be multiples of anything."""
    rule = DispatchRule("fcfs", "coupled", "dynamic")
    times = {"horizon": 60.7, "warmup": 13.31, "replications": 1}
    ours, theirs = (lse.evaluate(p, "base", 4, **times) for p in (EventRule(rule), rule))
    assert ours.scores == theirs.scores


def test_a_trained_rule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"rule\.correction\) cannot act at events"):
        EventRule(REGISTERED["learned"])


def test_a_rule_that_changes_plans_is_refused() -> None:
    rule = DispatchRule("bid-price", "bid-price", "dynamic", foresight=5.0)
    with pytest.raises(ConfigurationError, match=r"rule\.foresight\) cannot act at events"):
        EventRule(rule)
