"""Good requests are counted, told from late ones, and paid for under goodput."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import llm_sched_env as lse
from llm_sched_env.cli import app
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.comparison import (
    ComparedWorkload,
    Competitor,
    compare,
    rows,
    settings_notes,
)
from llm_sched_env.evaluation.deadline_attainment import REASONS, DeadlineAttainment
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.model.instance import Instance, Prices, RequestClass
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import RequestStream
from llm_sched_env.workloads.trace import Trace

FAST = {"horizon": 120.0, "warmup": 30.0, "replications": 2}
PRESET = "chat-deadlines"
COMPILED = [n for n, p in registered_policies().items() if isinstance(p.make(), lse.DispatchRule)]


# By hand. Times are sums of powers of two: a mixed iteration takes 1/32 s, a solo one 1/64 s, a
# prefill of 512 tokens two iterations.
def tiny_instance() -> Instance:
    hardware = Hardware(2.0**-6, 2.0**-14, 64.0, 256, 4, kv_tokens=2500)
    deadlines = lse.Deadlines(ttft_seconds=0.0625, tpot_seconds=0.016)
    classes = (
        RequestClass("strict", 512.0, 32.0, 1.0, 0.0, deadlines=deadlines),
        RequestClass("free", 512.0, 32.0, 1.0, 0.0),
    )
    return Instance("tiny", classes, hardware, Prices(0.1, 0.2))


def tiny_stream() -> RequestStream:
    """Two strict requests at once, one alone, three at once; four of the free class."""
    arrivals = np.array([0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 4.0, 5.0, 5.0, 6.0])
    classes = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1], np.int32)
    outputs = np.full(10, 32.0)
    outputs[-1] = 8192.0  # fits on no GPU
    patience = np.full(10, 100.0)
    patience[8] = 0.01
    return RequestStream(arrivals, classes, np.full(10, 512.0), outputs, patience)


def tiny_run() -> Simulation:
    rule = lse.DispatchRule("fcfs", "coupled", "dynamic")
    controls = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    seed = np.random.SeedSequence(0)
    simulation = Simulation(tiny_instance(), rule, controls, 1, seed, stream=tiny_stream())
    simulation.run(math.inf)
    return simulation


def test_a_tiny_stream_counted_by_hand() -> None:
    """Who is alone is good: first token after 1/16 s, which is in time, 1/64 s a token.

    The second and third of a group have their first token after 2/16 s and 3/16 s. Each prefill
    beside a decode makes two of its 32 tokens take 1/32 s: with one, 0.0166 s a token.
    """
    metrics = tiny_run().metrics()
    strict, free = (DeadlineAttainment.measured([metrics], i) for i in (0, 1))
    # The first of two and of three are slow, the last of both late, the middle one of three both.
    assert strict == DeadlineAttainment(1, 2, 2, 1, abandoned=0, rejected=0)
    assert free == DeadlineAttainment(2, 0, 0, 0, abandoned=1, rejected=1)
    assert metrics.deadline_counts["late_ttft"].tolist() == [3, 0]
    assert metrics.deadline_counts["late_tpot"].tolist() == [3, 0]
    assert strict.attainment == pytest.approx(1 / 6)
    assert free.attainment == pytest.approx(2 / 4)
    # .1 x 512 + .2 x 32 a request
    assert metrics.good_revenue == pytest.approx([57.6, 2 * 57.6])
    assert metrics.bundled_revenue == pytest.approx([6 * 57.6, 2 * 57.6])
    assert metrics.revenue("separate", "goodput").tolist() == metrics.good_revenue.tolist()


def test_counts_start_anew_after_the_warmup() -> None:
    simulation = tiny_run()
    simulation.reset_metrics()
    metrics = simulation.metrics()
    assert DeadlineAttainment.measured([metrics], 0).decided == 0
    assert metrics.good_revenue.tolist() == [0.0, 0.0]


def test_requests_that_are_not_paid_for_earn_no_goodput() -> None:
    rule = lse.DispatchRule("fcfs", "coupled", "dynamic")
    controls, seed = np.ones(5), np.random.SeedSequence(0)
    simulation = Simulation(tiny_instance(), rule, controls, 1, seed, stream=tiny_stream())
    simulation.run(4.1)  # the request that arrived at 4 is decoding
    simulation.reset_metrics(pay_earlier_arrivals=False)
    simulation.run(math.inf)
    metrics = simulation.metrics()
    assert metrics.deadline_counts["good"].tolist() == [0, 2]
    assert metrics.good_revenue == pytest.approx([0.0, 57.6])


# Properties.


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("policy", COMPILED)
def test_shares_add_up_and_goodput_is_a_part_of_revenue(policy: str, pricing: str) -> None:
    arguments = {"n_gpus": 3, "pricing": pricing, **FAST}
    paid = lse.evaluate(policy, PRESET, revenue="goodput", **arguments)
    every = lse.evaluate(policy, PRESET, **arguments)
    assert paid.goodput_rate == every.goodput_rate == paid.revenue_rate
    assert paid.revenue_rate.mean <= paid.bundled_revenue_rate.mean
    assert paid.bundled_revenue_rate == every.bundled_revenue_rate
    assert paid.bound == every.bound
    assert paid.score.mean == pytest.approx(paid.revenue_rate.mean / paid.bound)
    for of, result in [(c.deadlines, c) for c in paid.classes]:
        assert of is not None
        assert of.decided == (
            result.completed + result.abandoned_prefill + result.abandoned_decode + result.rejected
        )
        assert sum(of.share(name) for name in ("good", *REASONS)) == pytest.approx(1.0)
    assert paid.deadlines is not None
    assert paid.deadlines.decided == sum(c.deadlines.decided for c in paid.classes if c.deadlines)


def test_a_policy_in_python_is_paid_likewise() -> None:
    from llm_sched_env.baselines.event_rules import EventRule

    rule = registered_policies()["earliest-deadline-first"].make()
    assert isinstance(rule, lse.DispatchRule)
    with pytest.raises(ConfigurationError, match="no action drops a request"):
        EventRule(rule)
    rule = dataclasses.replace(rule, drop_late=False)
    arguments = {"n_gpus": 3, "revenue": "goodput", **FAST}
    ours, theirs = (lse.evaluate(p, PRESET, **arguments) for p in (EventRule(rule), rule))
    assert ours.scores == theirs.scores
    assert ours.deadlines == theirs.deadlines


def test_without_deadlines_every_completed_request_is_good() -> None:
    arguments = {"n_gpus": 3, **FAST}
    paid = lse.evaluate("fcfs-immediate", "overload", revenue="goodput", **arguments)
    every = lse.evaluate("fcfs-immediate", "overload", **arguments)
    assert paid.revenue_rate == every.bundled_revenue_rate
    assert paid.deadlines is None
    assert {"revenue", "goodput_rate", "deadlines"}.isdisjoint(every.to_dict())
    assert paid.to_dict()["revenue"] == "goodput"


def test_nobody_decided_has_no_share() -> None:
    nothing = DeadlineAttainment(0, 0, 0, 0, 0, 0)
    assert math.isnan(nothing.attainment)
    assert nothing.to_dict()["shares"] == dict.fromkeys(("good", *REASONS))


# Environments.


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
@pytest.mark.parametrize("name", ["LLMSched-v0", "LLMSchedEvent-v0"])
def test_rewards_and_terms_add_up_to_the_goodput(name: str, pricing: str) -> None:
    import gymnasium as gym

    arguments = {"n_gpus": 3, "horizon": 40.0, "pricing": pricing, "revenue": "goodput"}
    if name == "LLMSchedEvent-v0":
        arguments |= {"router": "coupled", "pools": "dynamic"}
    env: Any = gym.make(name, instance=PRESET, **arguments)
    _, info = env.reset(seed=1)
    rewards, revenue, done = 0.0, 0.0, False
    outcomes = {key: np.zeros(2, int) for key in ("good", "late_ttft", "late_tpot")}
    while not done:
        if name == "LLMSched-v0":
            action = env.unwrapped.plan_action
        else:
            action = int(info["action_mask"].nonzero()[0][-1])
        _, reward, _, done, info = env.step(action)
        rewards += reward
        revenue += sum(info["revenue"].values())
        for key in outcomes:
            outcomes[key] += info["deadlines"][key]
    control = env.unwrapped.control
    metrics = control.batch.metrics(0)
    assert revenue == pytest.approx(metrics.good_revenue.sum())
    scale = 3 * control.plan.value
    assert rewards == pytest.approx(metrics.good_revenue.sum() / scale)
    for key, counts in outcomes.items():
        assert counts.tolist() == metrics.deadline_counts[key].tolist()
    assert outcomes["good"].sum() > 0
    assert outcomes["late_ttft"].sum() > 0


@pytest.mark.parametrize("name", ["LLMSched-v0", "LLMSchedEvent-v0"])
def test_the_vector_form_shows_the_same_outcomes(name: str) -> None:
    import gymnasium as gym

    arguments = {"instance": PRESET, "n_gpus": 2, "horizon": 30.0, "revenue": "goodput"}
    single: Any = gym.make(name, **arguments)
    several: Any = gym.make_vec(name, num_envs=2, **arguments)
    info = single.reset(seed=6)[1]
    infos = several.reset(seed=5)[1]
    good = 0
    for _ in range(25):
        if name == "LLMSched-v0":
            action, actions = single.unwrapped.plan_action, np.stack([several.plan_action] * 2)
        else:
            masks = infos["action_mask"]
            actions = np.array([int(mask.nonzero()[0][-1]) for mask in masks])
            action = actions[1]
        _, reward, _, _, info = single.step(action)
        _, rewards, _, _, infos = several.step(actions)
        assert rewards[1] == reward
        for key, counts in info["deadlines"].items():
            assert infos["deadlines"][key][1].tolist() == counts.tolist()
            good += counts.sum()
    assert good > 0 or name == "LLMSchedEvent-v0"


def test_an_environment_without_deadlines_has_no_outcomes() -> None:
    import gymnasium as gym

    env: Any = gym.make("LLMSched-v0", n_gpus=2)
    assert "deadlines" not in env.reset(seed=0)[1]


@pytest.mark.parametrize("name", ["LLMSched-v0", "LLMSchedEvent-v0"])
def test_other_revenues_are_refused_in_a_line(name: str) -> None:
    import gymnasium as gym

    with pytest.raises(ConfigurationError, match="revenue: got 'good', expected all or goodput"):
        gym.make(name, revenue="good")
    with pytest.raises(ConfigurationError, match="revenue: got 'good', expected all or goodput"):
        lse.evaluate("token-bucket", revenue="good")


# Comparisons, traces, the command line.


def test_a_comparison_says_that_goodput_is_paid_for() -> None:
    competitors = [Competitor(n, n) for n in ("fcfs-and-route", "fcfs-immediate")]
    settings = {"horizon": 60.0, "warmup": 10.0, "replications": 1}
    workloads = [ComparedWorkload(PRESET, 3)]
    paid = compare(workloads, competitors, revenue="goodput", **settings)
    every = compare(workloads, competitors, **settings)
    for (_, own), (_, other) in zip(paid, every, strict=True):
        assert own.score.mean < other.score.mean
    assert "goodput, R* bundled pricing" in settings_notes(paid)[0]
    assert rows(paid)[0]["pricing"] == "goodput, R* bundled"
    assert rows(every)[0]["pricing"] == "bundled"


def test_a_trace_has_the_deadlines_of_the_instance() -> None:
    trace = lse.requests_of_run(PRESET, 3, 60.0, seed=1)
    assert isinstance(trace, Trace)
    result = lse.evaluate("EDF", PRESET, 3, trace=trace, revenue="goodput")
    assert result.deadlines is not None
    assert result.deadlines.late_first_token > 0


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


TIMES = ("--gpus", "2", "--horizon", "60", "--warmup", "10", "--replications", "1")


def test_the_command_prints_deadlines_where_there_are_any() -> None:
    shown = run("evaluate", "--instance", PRESET, "--policy", "EDF", *TIMES)
    assert shown.exit_code == 0, shown.output
    assert "deadlines, shares of the requests" in shown.stdout
    other = run("evaluate", "--instance", "base", "--policy", "EDF", *TIMES)
    assert "deadlines" not in other.stdout


def test_the_command_pays_for_goodput() -> None:
    command = ("evaluate", "--instance", PRESET, "--policies", "EDF,fcfs-immediate", *TIMES)
    shown = run(*command, "--revenue", "goodput", "--json")
    results = json.loads(shown.stdout)["results"]
    for result in results:
        assert result["revenue"] == "goodput"
        assert result["revenue_rate"]["mean"] == result["goodput_rate"]["mean"]
        assert sum(result["deadlines"]["shares"].values()) == pytest.approx(1.0)
        assert set(result["classes"][0]["deadlines"]) == {"decided", "good", *REASONS, "shares"}
    assert "good" in run(*command).stdout


@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_another_revenue_on_the_command_line_is_one_line(command: str, tmp_path: Any) -> None:
    more = ("--policy", "EDF") if command == "evaluate" else ("--out", str(tmp_path / "out"))
    failed = run(command, *more, "--revenue", "most")
    assert failed.exit_code != 0
    assert "all or goodput" in str(failed.exception or failed.output)
    assert not (tmp_path / "out").exists()
