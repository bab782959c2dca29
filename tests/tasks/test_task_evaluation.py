"""Policies on tasks: shares, headroom, the same requests for all, what a form hides from whom."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.tasks import HeldOut, Task, evaluate_task, suite, task
from llm_sched_env.tasks.bounds import task_bounds
from llm_sched_env.tasks.delayed_observations import DelayedPolicy
from llm_sched_env.tasks.evaluation import TaskRuns, ratio, run_task
from llm_sched_env.tasks.hidden_hardware import HiddenCluster, HiddenHardware
from llm_sched_env.tasks.reference_policies import NOTHING, RANDOM

SHORT = HeldOut(horizon=40.0, warmup=8.0, replications=3, seed=5)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, small_traces: None) -> None:
    """Every task at a few GPUs for some seconds; traces are small ones."""
    small = {}
    for name, one in suite.TASKS.items():
        size = 8 if "Routing" in name else 5
        held_out = dataclasses.replace(SHORT, horizon=None if "Replay" in name else SHORT.horizon)
        if name == "MooncakeRouting":
            held_out = dataclasses.replace(SHORT, horizon=None)
        if held_out.horizon is None:
            held_out = dataclasses.replace(held_out, warmup=0.0)
        settings = {**one.settings, "n_gpus": size}
        small[name] = dataclasses.replace(one, settings=settings, held_out=held_out)
    monkeypatch.setattr(suite, "TASKS", small)


class Constant:
    """The middle of every range, or the first possible action; notes what it was shown."""

    def __init__(self) -> None:
        self.instances: list[Any] = []
        self.seen: list[np.ndarray] = []

    def reset(self, instance: Any, plan: Any, n_gpus: int, rng: Any) -> None:
        self.instances.append(instance)
        self.size = 2 * instance.n_classes
        self.plan = plan

    def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        self.seen.append(observation)
        if "action_mask" in info:
            return int(np.flatnonzero(info["action_mask"])[0])
        return np.full(self.size, 0.5, np.float32)


@pytest.mark.parametrize("name", ["Overload5", "SessionRouting", "AzureReplay", "MooncakeRouting"])
def test_policies_of_every_kind_meet_the_same_requests(short: None, name: str) -> None:
    rule = "earliest-finish" if "Routing" in name else "trunk-reservation"
    found = [run_task(task(name), policy) for policy in (rule, RANDOM, NOTHING, Constant())]
    assert len({runs.bound for runs in found}) == 1
    assert found[0] == run_task(task(name), rule)
    assert min(min(runs.bound) for runs in found) > 0.0
    assert max(found[0].share.mean, 0.2) > found[2].share.mean - 0.2
    closed = found[1].closed(found[0])
    assert closed.mean == pytest.approx(
        np.mean(np.subtract(found[1].revenue, found[0].revenue))
        / np.mean(np.subtract(found[0].bound, found[0].revenue))
    )


def test_the_result_is_that_of_evaluate_on_the_same_runs(short: None) -> None:
    result = evaluate_task("Overload5", "token-bucket", against="trunk-reservation")
    settings = {"horizon": 40.0, "warmup": 8.0, "replications": 3, "seed": 5}
    own = lse.evaluate("token-bucket", "overload", 5, **settings)
    its = lse.evaluate("trunk-reservation", "overload", 5, **settings)
    assert result.share.mean == pytest.approx(own.score.mean)
    assert result.best_rule_share.mean == pytest.approx(its.score.mean)
    gain = own.score.mean - its.score.mean
    assert result.gain.mean == pytest.approx(gain)
    assert result.closed.mean == pytest.approx(gain / (1.0 - its.score.mean))
    assert result.to_dict()["best_rule"] == "trunk-reservation"


def test_the_ratio_of_means_has_the_interval_of_its_deviations() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        whole = rng.normal(10.0, 1.0, 12)
        part = 0.3 * whole + rng.normal(0.0, 0.5, 12)
        low, high = ratio(part, whole).ci95
        covered += low < 0.3 < high
    assert 0.92 < covered / 400 < 0.98
    bound = (2.0, 2.0)
    runs = TaskRuns("t", "p", (1.0, 1.6), bound)
    assert runs.closed(TaskRuns("t", "rule", (0.8, 1.2), bound)).mean == pytest.approx(0.3)


def test_a_hindsight_bound_is_of_the_requests_of_each_run(short: None) -> None:
    found = task_bounds(task("Bursts"), 3, 5)
    assert len(set(found.tolist())) == 3
    runs = run_task(task("Bursts"), "trunk-reservation")
    assert np.mean(runs.revenue) < np.mean(found) * 1.05


def test_hidden_hardware_is_that_of_the_run_and_nobody_is_told(short: None) -> None:
    hidden = task("HiddenHardware")
    form = hidden.form
    assert isinstance(form, HiddenHardware)
    policy = Constant()
    run_task(hidden, policy)
    named = lse.presets.dolly15k()
    assert {i.only_hardware for i in policy.instances} == {named.only_hardware}
    assert policy.plan.value == pytest.approx(lse.plan(named).value)
    drawn = [form.drawn(named, replication_seed(5, k)).only_hardware for k in range(3)]
    assert len({h.tau_mixed for h in drawn}) == 3
    for hardware in drawn:
        assert 0.5 <= hardware.tau_mixed / named.only_hardware.tau_mixed <= 2.0
        assert 0.5 <= hardware.tau_solo / named.only_hardware.tau_solo <= 2.0
    bounds = task_bounds(hidden, 3, 5)
    wanted = [lse.plan(form.drawn(named, replication_seed(5, k))).value for k in range(3)]
    assert bounds.tolist() == pytest.approx(wanted)


def test_an_episode_on_drawn_hardware_is_one_on_that_hardware() -> None:
    """The engine runs at the speeds that were drawn, under the plan of those that are named."""
    narrow = HiddenHardware((2.0, 2.0), (1.5, 1.5))
    own = dataclasses.replace(task("HiddenHardware"), name="Narrow", form=narrow)
    configuration = IntervalConfiguration.validated(
        **own.arguments(n_gpus=3, horizon=20.0, start="empty")
    )
    seed = np.random.SeedSequence(3)
    hidden = narrow.interval_control(configuration, 1, 1)
    instance = narrow.drawn(configuration.cluster.instance, seed)
    named = configuration.cluster
    slow = HiddenCluster(instance, named.n_gpus, named.pricing, known=named)
    told = IntervalControl(dataclasses.replace(configuration, cluster=slow))
    shown = []
    for control in (hidden, told):
        control.start(0, seed)
        rows = []
        for _ in range(20):
            report = control.empty_report()
            control.step(np.full((1, 16), 0.5), report)
            rows.append(report.terms.tolist())
        shown.append(rows)
    assert np.sum(shown[0]) > 0.0
    assert shown[0] == shown[1]
    usual = IntervalControl(configuration)
    usual.start(0, seed)
    assert hidden.batch.states.groups["mixed_seconds"] == pytest.approx(
        2.0 * usual.batch.states.groups["mixed_seconds"]
    )


def test_a_saved_state_goes_on_with_its_hardware() -> None:
    env = gym.make("LLMSched/HiddenHardware-v0", n_gpus=3, horizon=5.0).unwrapped
    env.reset(seed=0)
    first = env.control.batch.states.groups["solo_seconds"].copy()
    saved = env.save_state()
    env.reset(seed=1)
    assert env.control.batch.states.groups["solo_seconds"] != first
    env.reset(seed=2, options={"state": saved})
    assert env.control.batch.states.groups["solo_seconds"] == first


def test_observations_come_late_in_environment_and_evaluation_alike(short: None) -> None:
    late = gym.make("LLMSched/DelayedObservations-v0", n_gpus=5, horizon=30.0).unwrapped
    settings = dict(task("DelayedObservations").settings)
    now = gym.make("LLMSched-v0", **{**settings, "n_gpus": 5, "horizon": 30.0}).unwrapped
    action = np.full(late.action_space.shape, 0.5, np.float32)
    shown, true, counts, true_counts = [], [], [], []
    for env, rows, numbers in ((late, shown, counts), (now, true, true_counts)):
        observation, info = env.reset(seed=4)
        rows.append(observation)
        numbers.append(info["counts"])
        for _ in range(30):
            observation, _, _, _, info = env.step(action)
            rows.append(observation)
            numbers.append(info["counts"])
    assert all((a == true[0]).all() for a in shown[:11])
    assert all((a == b).all() for a, b in zip(shown[10:], true, strict=False))
    assert all((a == b).all() for a, b in zip(counts[10:], true_counts, strict=False))
    policy = DelayedPolicy(Constant(), 10)
    policy.policy.size, policy.policy.seen = 1, []
    for observation in true[:-1]:
        policy.act(observation, {})
    assert all((a == b).all() for a, b in zip(policy.policy.seen, shown, strict=False))


def test_compiled_rules_see_a_delayed_cluster_as_it_is(short: None) -> None:
    own = task("DelayedObservations")
    plain = dataclasses.replace(own, name="Plain", form=task("Overload5").form)
    arguments = plain.run_arguments()
    scores = lse.evaluate("trunk-reservation", **{**arguments, "replications": 3}).revenue_rate
    assert np.mean(run_task(own, "trunk-reservation").revenue) == pytest.approx(scores.mean)


def test_what_is_replayed_is_the_second_half_and_what_is_known_the_first(short: None) -> None:
    replay = task("AzureReplay")
    known, held_out = replay.form.halves
    arguments = replay.run_arguments()
    assert arguments["trace"] is held_out
    assert arguments["planned_on"] is known
    policy = Constant()
    run_task(replay, policy, replications=1)
    rates = policy.instances[0].arrival_rates
    counts = np.bincount(known.request_class, minlength=2)
    assert rates / rates.sum() == pytest.approx(counts / counts.sum(), rel=1e-9)


def test_an_episode_of_a_replay_is_a_stretch_of_the_first_half(short: None) -> None:
    form = task("AzureReplay").form
    part = form.part(5)
    known = form.halves[0].at_speed(form.speed_on(5))
    stretch = part.stretch(part.seconds - 3.0, 8.0)
    end = known.arrival_time >= part.seconds - 3.0
    assert stretch.arrival_time[: end.sum()] == pytest.approx(
        known.arrival_time[end] - part.seconds + 3.0
    )
    after = known.arrival_time < 5.0
    assert stretch.prompt_tokens[end.sum() :].tolist() == known.prompt_tokens[after].tolist()
    assert stretch.arrival_time[end.sum() :] == pytest.approx(known.arrival_time[after] + 3.0)
    assert (np.diff(stretch.arrival_time) >= 0.0).all()


def test_late_requests_are_dropped_where_the_task_says_so(short: None) -> None:
    """The plan's constant action is then slo-reserve, as without it trunk-reservation."""

    class PlanAction(Constant):
        def act(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
            return self.action

        def reset(self, instance: Any, plan: Any, n_gpus: int, rng: Any) -> None:
            env = gym.make("LLMSched/Deadlines-v0", n_gpus=n_gpus).unwrapped
            self.action = env.plan_action

    own = run_task(task("Deadlines"), PlanAction())
    rule = run_task(task("Deadlines"), "slo-reserve")
    assert own.share.mean == pytest.approx(rule.share.mean, abs=0.03)


def test_what_is_not_allowed_is_said_in_a_line() -> None:
    with pytest.raises(ConfigurationError, match="replications: got 0"):
        evaluate_task("Overload5", "token-bucket", replications=0)
    with pytest.raises(ConfigurationError, match="drop_late"):
        gym.make("LLMSched-v0", drop_late=1)


def test_every_task_says_what_it_is() -> None:
    for one in suite.TASKS.values():
        assert isinstance(one, Task)
        assert one.title
        assert one.purpose.endswith(".")
        assert one.held_out.replications >= 4
