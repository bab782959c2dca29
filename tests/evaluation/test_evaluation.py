"""Evaluation: intervals, common random numbers, one path for rules and Python policies."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.envs.actions import rank_shares
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import cluster
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.policies import runs as policy_runs
from llm_sched_env.policies.registry import RegisteredPolicy, registered_policies, resolve_policy
from llm_sched_env.policies.timing import Span, covered_seconds
from llm_sched_env.simulation.scheduling.rules import DispatchRule

FAST = {"horizon": 200.0, "warmup": 50.0, "replications": 3}
NAMES = {
    "gate-and-route": "GG-SP",
    "strict-gate-and-route": None,
    "token-bucket-static": None,
    "token-bucket": None,
    "fcfs-immediate": "FI-WSP",
    "gate-immediate": "GI-WSP",
    "gate-prefill-first": "GF-WSP",
    "fcfs-and-route": "FG-SP",
    "trunk-reservation": None,
    "sli-aware": None,
    "general-sli-aware": None,
}


class ConstantPlan:
    """The fluid plan as a Python policy."""

    environment = {"gate": "token-bucket", "router": "solo-first", "pools": "dynamic"}  # noqa: RUF012

    def reset(self, instance, plan, n_gpus, rng):
        self.action = plan.action
        self.draw = rng.random()

    def act(self, observation, info):
        assert observation.shape == (16,)
        assert set(info["revenue"]) == {"prompt", "output"}
        assert info["arrivals"].shape == (2,)
        return self.action


def test_every_policy_of_the_contract_is_registered_under_both_names():
    assert set(NAMES) <= set(registered_policies())
    for name, alias in NAMES.items():
        if alias:
            assert resolve_policy(alias) == resolve_policy(name)
            assert resolve_policy(alias.lower()) == resolve_policy(name)


class ConstantRanks:
    """The plan's bids and reserves as a Python policy; counts what it is told arrived."""

    def __init__(self, router="net-value"):
        self.environment = {"gate": "net-value", "router": router, "pools": "dynamic"}
        self.arrived = []

    def reset(self, instance, plan, n_gpus, rng):
        others = [*plan.solo_probability, plan.mixed_fraction]
        action = np.concatenate([others, rank_shares(np.stack(slot_ranks(plan, n_gpus)[:2]))])
        self.action = action.astype(np.float32)  # as the environment's own plan action
        self.arrived.append(np.zeros(instance.n_classes, int))

    def act(self, observation, info):
        self.arrived[-1] += info["arrivals"]
        return self.action


def unwanted():
    """The plan admits nobody of the second class: its reserve grows with the cluster."""
    overload = lse.presets.overload()
    dense = lse.RequestClass("dense", 1500.0, 800.0, 1.0, 0.1)
    return replace(overload, classes=(overload.classes[0], dense), name="unwanted")


@pytest.mark.parametrize("n_gpus", [4, 20])
@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("instance", ["overload", "dolly15k", unwanted()], ids=str)
def test_ranks_held_constant_are_trunk_reservation(instance, pricing, n_gpus):
    rule, python = (
        lse.evaluate(policy, instance, n_gpus, seed=3, pricing=pricing, **FAST)
        for policy in ("trunk-reservation", ConstantRanks())
    )
    assert python.scores == rule.scores
    assert python.events == rule.events


@pytest.mark.parametrize("router", ["solo-first", "prefill-aware", "coupled"])
def test_ranks_held_constant_are_the_rule_with_another_router(router):
    rule = lse.evaluate(DispatchRule("bid-price", router, "dynamic"), "overload", 4, **FAST)
    assert lse.evaluate(ConstantRanks(router), "overload", 4, **FAST).scores == rule.scores


def test_a_policy_is_told_what_arrived_and_its_decisions_are_timed():
    policy = ConstantRanks()
    times = {"horizon": 60.0, "replications": 2, "seed": 1}
    result = lse.evaluate(policy, "base", 3, warmup=0.0, **times)
    plain = lse.evaluate("trunk-reservation", "base", 3, warmup=0.0, **times)
    # All but the arrivals of the last interval, which nothing follows.
    told, counted = np.sum(policy.arrived), sum(c.arrived for c in plain.classes)
    assert 0 <= counted - told < 0.2 * counted
    warm = ConstantRanks()
    lse.evaluate(warm, "base", 3, warmup=20.0, **times)  # the end of the warm-up loses none
    np.testing.assert_array_equal(warm.arrived, policy.arrived)
    cost = result.decision_milliseconds
    assert 0 < cost.median <= cost.p99
    assert result.to_dict()["decision_milliseconds"] == {"median": cost.median, "p99": cost.p99}
    assert plain.to_dict()["decision_milliseconds"] is None


def test_a_python_policy_equals_the_rule_that_it_imitates():
    """Same requests, same dispatcher: the constant plan action is a credit gate."""
    rule = DispatchRule("largest-credit", "solo-first", "dynamic")
    rule = lse.evaluate(rule, "overload", 5, seed=3, **FAST)
    python = lse.evaluate(ConstantPlan(), "overload", 5, seed=3, **FAST)
    assert python.policy == "ConstantPlan"
    assert python.scores == pytest.approx(rule.scores, rel=1e-6)
    assert python.events == rule.events
    for name, occupancy in rule.occupancy.items():
        np.testing.assert_allclose(python.occupancy[name], occupancy, rtol=1e-6)


def test_same_seed_same_result_whatever_the_jobs():
    one = lse.evaluate("gate-and-route", "base", 10, seed=1, jobs=1, **FAST).to_dict()
    two = lse.evaluate("gate-and-route", "base", 10, seed=1, jobs=2, **FAST).to_dict()
    other = lse.evaluate("gate-and-route", "base", 10, seed=2, **FAST)
    for volatile in ("wall_seconds", "events_per_second"):
        one.pop(volatile), two.pop(volatile)
    assert json.dumps(one, allow_nan=False) == json.dumps(two, allow_nan=False)
    assert one["scores"] != list(other.scores)


def test_speed_counts_neither_loading_nor_compiling_nor_planning(monkeypatch):
    """However long everything else takes, the events take as long as they take."""

    def slowly(loads):
        def load(*arguments, **options):
            time.sleep(0.5)
            return loads(*arguments, **options)

        return load

    for name in ("load_engine", "load_control"):
        monkeypatch.setattr(policy_runs, name, slowly(getattr(policy_runs, name)))
    monkeypatch.setattr(cluster, "plan", slowly(cluster.plan))
    rule = lse.evaluate("gate-and-route", "base", 5, horizon=20.0, replications=2)
    python = lse.evaluate(ConstantPlan(), "base", 5, horizon=20.0, replications=2)
    for result in (rule, python):
        assert 0 < result.simulation_seconds < result.wall_seconds - 0.9
        assert result.events_per_second == result.events / result.simulation_seconds
        assert result.to_dict()["events_per_second"] == result.events_per_second


def test_a_first_run_in_a_new_process_is_as_fast_as_a_second():
    code = (
        "import llm_sched_env as lse\n"
        "for _ in range(2):\n"
        "    r = lse.evaluate('gate-and-route', 'base', 50, horizon=60.0, replications=1)\n"
        "    print(r.events_per_second)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = map(float, done.stdout.split())
    assert first > second / 4


def test_spans_that_overlap_count_once():
    spans = [Span(5.0, 6.0), Span(0.0, 2.0), Span(1.0, 3.0), Span(1.5, 1.75)]
    assert covered_seconds(spans) == pytest.approx(4.0)
    assert covered_seconds([]) == 0.0


def test_the_result_adds_up():
    result = lse.evaluate("gate-and-route", "overload", 20, **FAST)
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for key in ("policy", "instance", "n_gpus", "bound", "revenue_rate", "score", "occupancy"):
        assert key in data
    for key in ("classes", "ttft", "tpot", "abandoned", "events", "events_per_second"):
        assert key in data
    assert data["score"]["mean"] == pytest.approx(data["revenue_rate"]["mean"] / data["bound"])
    low, high = data["score"]["ci95"]
    assert low < data["score"]["mean"] < high
    for c in data["classes"]:
        left = c["completed"] + c["abandoned_prefill"] + c["abandoned_decode"]
        assert c["initial"] + c["arrived"] == left + c["inside"]
    rate = sum(c["revenue_rate"] for c in data["classes"])
    assert rate == pytest.approx(data["revenue_rate"]["mean"])
    account = data["requests"]
    assert account["initial"] + account["arrived"] == (
        account["completed"] + account["abandoned"] + account["inside"]
    )
    for latency in ("ttft", "tpot", "e2e"):
        values = [data[latency][p] for p in ("p50", "p90", "p95", "p99")]
        assert values == sorted(values)


def test_littles_law():
    """Requests before their first token = rate x TTFT, where nobody gives up."""
    light = lse.presets.base().scaled(0.6)
    patient = tuple(dataclasses.replace(c, patience_rate=0.0) for c in light.classes)
    instance = dataclasses.replace(light, classes=patient)
    result = lse.evaluate("fcfs-and-route", instance, 20, horizon=3000, warmup=300, seed=1)
    seconds = 4 * 2700 * 20
    for i, c in enumerate(result.classes):
        inside = result.occupancy["q_prefill"][i] + result.occupancy["x"][i]
        assert c.prefilled / seconds * c.ttft.mean == pytest.approx(inside, rel=0.02)


def test_bound_holds_and_prices_matter():
    for pricing in ("bundled", "separate"):
        result = lse.evaluate("token-bucket", "overload", 20, pricing=pricing, **FAST)
        assert result.score.mean < 1.03
        assert result.bound == pytest.approx(lse.plan("overload", pricing).value)
    assert result.bundled_revenue_rate.mean != result.separate_revenue_rate.mean


def test_scores_that_the_model_page_states():
    """Overload at n = 20; the gate's weakness and its cure."""
    settings = {"horizon": 900.0, "warmup": 300.0, "replications": 4, "seed": 0}
    gate = {n: lse.evaluate("gate-and-route", "overload", n, **settings) for n in (20, 200)}
    assert gate[20].score.mean == pytest.approx(0.61, abs=0.02)
    assert gate[200].score.mean == pytest.approx(0.85, abs=0.03)
    static = lse.evaluate("token-bucket-static", "overload", 20, **settings)
    assert static.score.mean == pytest.approx(0.955, abs=0.015)
    assert lse.evaluate("token-bucket", "overload", 20, **settings).score.mean > 0.965
    assert lse.evaluate("token-bucket", "overload", 5, **settings).score.mean > 0.94


def test_estimate_is_a_student_interval():
    estimate = Estimate.of(np.array([1.0, 2.0, 3.0]))
    assert estimate.mean == 2.0
    assert estimate.ci95[1] - 2.0 == pytest.approx(4.302653 / math.sqrt(3))
    assert Estimate.of(np.array([1.0])).to_dict() == {"mean": 1.0, "ci95": [None, None]}


def test_percentiles_of_a_known_distribution():
    """M/G/inf prefill without waiting: TTFT is exponential with mean P/C tau_mix."""
    instance = lse.Instance(
        "sparse",
        (lse.RequestClass("only", 2560.0, 1.0, 0.02, 0.0),),
        lse.presets.QWEN_8B_A100,
        lse.presets.PAPER_PRICES,
    )
    result = lse.evaluate("token-bucket", instance, 200, horizon=4000, warmup=100, seed=2)
    mean = 10 * instance.hardware.tau_mixed
    assert result.ttft.mean == pytest.approx(mean, rel=0.03)
    assert result.ttft.p50 == pytest.approx(mean * math.log(2), rel=0.04)
    assert result.ttft.p99 == pytest.approx(mean * math.log(100), rel=0.05)


def test_policies_by_import_path_rule_and_class():
    rule = lse.DispatchRule("fcfs", "coupled", "dynamic")
    named = lse.evaluate("fcfs-immediate", "base", 4, **FAST)
    assert lse.evaluate(rule, "base", 4, **FAST).scores == named.scores
    by_path = lse.evaluate("test_evaluation:ConstantPlan", "overload", 5, seed=3, **FAST)
    assert by_path.scores == lse.evaluate(ConstantPlan(), "overload", 5, seed=3, **FAST).scores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "nobody"}, "policy: got 'nobody'"),
        ({"policy": "no_such_module:X"}, "policy: got"),
        ({"policy": object()}, "reset"),
        ({"policy": "missing.zip"}, "no such file"),
        ({"n_gpus": 0}, "n_gpus"),
        ({"replications": 0}, "replications"),
        ({"seed": -1}, "seed"),
        ({"horizon": -5.0}, "horizon"),
        ({"horizon": float("inf")}, "horizon"),
        ({"warmup": 200.0, "horizon": 200.0}, "warmup"),
        ({"pricing": "free"}, "pricing"),
        ({"speed": 2.0}, "speed"),
        ({"policy": ConstantPlan(), "horizon": 100.5}, "interval"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments, message):
    if arguments.get("policy") == "missing.zip":
        pytest.importorskip("stable_baselines3")
    given = {"policy": "token-bucket", "instance": "base", **FAST, **arguments}
    with pytest.raises(LLMSchedError, match=message) as caught:
        lse.evaluate(**given)
    assert "\n" not in str(caught.value)


def test_a_policy_whose_action_is_wrong_is_told_so():
    class Wrong(ConstantPlan):
        def act(self, observation, info):
            return np.full(5, np.nan)

    with pytest.raises(ConfigurationError, match="action"):
        lse.evaluate(Wrong(), "overload", 5, **FAST)


@pytest.mark.parametrize(
    "environment", [{"gait": "credit"}, {"interval": 0.0}, {"router": "none"}, {"n_gpus": 3}]
)
def test_a_policy_that_asks_for_an_impossible_environment_is_told_so(environment):
    policy = ConstantPlan()
    policy.environment = environment
    with pytest.raises(ConfigurationError, match="got") as caught:
        lse.evaluate(policy, "overload", 5, **FAST)
    assert "\n" not in str(caught.value)


def test_registry_takes_entries_of_other_packages():
    entry = RegisteredPolicy("d", lse.DispatchRule)
    assert isinstance(entry.make(), lse.DispatchRule)
    assert all(e.description for e in registered_policies().values())
