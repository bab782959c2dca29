"""Service levels as measured: in results, and as terms of an environment's reward."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import llm_sched_env as lse
from llm_sched_env.cli import main
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare, rows
from llm_sched_env.evaluation.slo_attainment import decode_tpot
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import Indicator, ServiceLevel, plan
from llm_sched_env.presets import QWEN_8B_A100
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.simulation.state.layout import DECODE_END, DECODE_START, RequestStream

FAST: dict[str, Any] = {"horizon": 200.0, "warmup": 50.0, "replications": 3}
LEVELS = [
    "prefill-fairness@limit=0.15,price=20",
    {"name": "decode-fairness", "limit": 4.0},
    "tpot@price=3000",
]
NAMES = ["prefill-fairness", "decode-fairness", "tpot"]
PAGE = (Path(__file__).parents[2] / "docs" / "service_levels.md").read_text(encoding="utf-8")


class QueueOfFirst(ServiceLevel):
    """What waits, or grows, of the first class."""

    name = "queue-of-first"

    def indicator(self, instance: Instance) -> Indicator:
        weights = np.zeros((1, 4, instance.n_classes))
        weights[0, 3, 0] = 1.0
        return Indicator(weights, np.zeros(1))


def by_hand(result: lse.Evaluation) -> dict[str, float]:
    """The three indicators at the mean occupancies."""
    hardware, x = lse.presets.base().hardware, result.occupancy["x"]
    slots, mixed = hardware.batch_slots, x.sum()
    seconds = hardware.tau_mixed * (slots - 1) * mixed + slots * (1 - mixed) / hardware.gamma
    return {
        "prefill-fairness": float(np.ptp(x)),
        "decode-fairness": float(np.ptp(result.occupancy["y_solo"])),
        "tpot": float(seconds / ((slots - 1) * mixed + slots * (1 - mixed))),
    }


def test_results_have_what_is_measured_and_what_it_costs() -> None:
    result = lse.evaluate("sli-aware", "base", 20, slos=LEVELS, seed=1, **FAST)
    fluid = plan("base", slos=LEVELS)
    expected = by_hand(result)
    assert list(result.slos) == NAMES
    for name, level in result.slos.items():
        # In all three replications the same classes have more: the mean of the gaps is the gap.
        assert level.measured.mean == pytest.approx(expected[name], rel=1e-5)
        assert level.planned == fluid.slos[name].value
        low, high = level.measured.ci95
        assert low < level.measured.mean < high
        assert level.penalty.mean == pytest.approx((level.price or 0.0) * level.measured.mean)
    assert result.slos["tpot"].met is None
    assert result.slos["decode-fairness"].met == (expected["decode-fairness"] <= 4.0)
    penalties = 20 * expected["prefill-fairness"] + 3000 * expected["tpot"]
    assert result.objective.mean == pytest.approx(result.revenue_rate.mean - penalties, rel=1e-5)
    assert result.bound == pytest.approx(297.7032, abs=1e-4)
    assert result.score.mean == pytest.approx(result.revenue_rate.mean / result.bound)
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["slos"]["prefill-fairness"]["limit"] == 0.15
    assert plain["slos"]["tpot"]["measured"]["mean"] == result.slos["tpot"].measured.mean
    assert plain["objective"]["mean"] == result.objective.mean


def test_a_limit_is_kept_or_not() -> None:
    measured = lse.evaluate("sli-aware", "base", 20, slos=["decode-fairness@limit=4"], **FAST)
    mean = measured.slos["decode-fairness"].measured.mean
    for limit, kept in ((mean + 1e-6, True), (mean - 1e-6, False)):
        # A limit that does not bind leaves the plan, and so the run, as it is.
        rule = lse.DispatchRule("fcfs", "solo-first", "dynamic")
        free = lse.evaluate(
            rule, "base", 20, slos=[{"name": "decode-fairness", "limit": 20}], **FAST
        )
        value = free.slos["decode-fairness"].measured.mean
        level = lse.DecodeFairness(limit=value + limit - mean)
        found = lse.evaluate(rule, "base", 20, slos=[level], **FAST).slos["decode-fairness"]
        assert found.measured.mean == value
        assert found.met is kept


def test_without_service_levels_nothing_is_measured_or_subtracted() -> None:
    result = lse.evaluate("token-bucket", "base", 5, **FAST)
    assert result.slos == {}
    assert result.objective == result.revenue_rate


@pytest.mark.parametrize("law", ["two-speed", "affine"])
def test_time_per_token_is_slot_time_over_tokens(law: str) -> None:
    """When all who came have gone, every second in a slot belongs to a token that was made."""
    base = lse.presets.base()
    hardware = dataclasses.replace(base.hardware, iteration_law=law)
    instance = dataclasses.replace(patient_overload(), hardware=hardware)
    rng = np.random.default_rng(0)
    stream = RequestStream(
        np.sort(rng.uniform(0, 20, 300)),
        rng.integers(0, 2, 300).astype(np.int32),
        rng.exponential(1000.0, 300),
        rng.exponential(300.0, 300),
    )
    fluid = plan("base")
    rule = lse.DispatchRule("fcfs", "solo-first", "static")
    seed = np.random.SeedSequence(0)
    cluster = Simulation(instance, rule, fluid.controls(4), 4, seed, stream=stream, log_events=4000)
    cluster.run(np.inf)
    events = cluster.events()
    seconds = sum(
        sign * events["time"][events["kind"] == kind].sum()
        for kind, sign in ((DECODE_END, 1), (DECODE_START, -1))
    )
    found = decode_tpot(instance, cluster.metrics())
    assert found == pytest.approx(seconds / stream.output_tokens.sum(), rel=1e-9)


def test_time_per_token_with_full_slots() -> None:
    """The formula is the mean over slots, tokens see the harmonic mean: fast slots make more."""
    full = lse.evaluate("gate-and-route", "overload", 50, slos=["tpot@price=0"], **FAST)
    mixed = 15 * full.occupancy["x"].sum()
    solo = 16 * (1 - full.occupancy["x"].sum())
    taus = QWEN_8B_A100.tau_mixed, QWEN_8B_A100.tau_solo
    mean = np.average(taus, weights=[mixed, solo])
    harmonic = 1 / np.average(1 / np.array(taus), weights=[mixed, solo])
    assert full.slos["tpot"].measured.mean == pytest.approx(mean, rel=1e-3)
    assert full.decode_tpot.mean == pytest.approx(harmonic, rel=0.01)
    assert harmonic < 0.97 * mean
    light = lse.evaluate("gate-and-route", lse.presets.base().scaled(0.5), 50, **FAST)
    assert light.decode_tpot.mean == pytest.approx(taus[1])  # nobody needs a mixed slot
    assert full.tpot.mean > full.decode_tpot.mean  # the wait for a slot


def patient_overload() -> Instance:
    """Nobody gives up, and twice what fits arrives."""
    plain = lse.presets.overload().to_dict()
    classes = [{**c, "patience_rate": 0.0, "arrival_rate": 2.0} for c in plain["classes"]]
    return Instance.from_dict({**plain, "classes": classes})


def test_an_indicator_of_ones_own_is_measured_too() -> None:
    level = QueueOfFirst(price=1.0)
    waiting = lse.evaluate("sli-aware", "overload", 10, slos=[level], **FAST)
    queue = waiting.slos["queue-of-first"].measured.mean
    assert queue == pytest.approx(waiting.occupancy["q_prefill"][0])
    assert queue > 0
    named = lse.evaluate(
        "sli-aware", "overload", 10, slos=["test_slo_attainment:QueueOfFirst@price=1"], **FAST
    )
    assert named.slos == waiting.slos


def test_of_a_queue_without_abandonment_the_growth_is_measured() -> None:
    instance = patient_overload()
    level = QueueOfFirst(limit=5.0)
    result = lse.evaluate("token-bucket", instance, 10, slos=[level], **FAST)
    found, planned = (getattr(result.slos["queue-of-first"], n) for n in ("measured", "planned"))
    first, gpu_seconds = result.classes[0], 3 * 150 * 10
    assert found.mean == pytest.approx((first.arrived - first.admitted) / gpu_seconds)
    assert found.mean == pytest.approx(planned, rel=0.1)
    control = control_of(instance=instance, n_gpus=10, slos=[level], interval=10.0)
    control.start(0, replication_seed(3, 0))
    growth = []
    for _ in range(20):
        report = control.empty_report()
        control.step(control.plan.action[None], report)
        growth.append(report.levels.measured[0, 0])
    queue = control.batch.state(0).classes["q_prefill"][0]
    assert sum(growth) * 10.0 * 10 == pytest.approx(queue)


def test_a_comparison_takes_service_levels() -> None:
    results = compare(
        [ComparedWorkload("base", 5)],
        [Competitor(name, name) for name in ("gate-and-route", "sli-aware")],
        slos=LEVELS, horizon=100.0, warmup=20.0, replications=2,
    )  # fmt: skip
    for row, (name, result) in zip(rows(results), results, strict=True):
        alone = lse.evaluate(
            name, "base", 5, slos=LEVELS, horizon=100.0, warmup=20.0, replications=2
        )
        assert result.slos == alone.slos
        assert row["objective"] == alone.objective.mean < row["revenue_rate"]
        assert row["slos"].split()[1] == f"{NAMES[1]}={alone.slos[NAMES[1]].measured.mean}"


# The environment.


class PlayThePlan:
    """The plan as a Python policy."""

    def __init__(self, router: str) -> None:
        self.environment = {"gate": "occupancy", "router": router, "pools": "static"}
        self.seen: list[dict[str, float]] = []

    def reset(self, instance, plan, n_gpus, rng) -> None:
        self.action = plan.action

    def act(self, observation, info) -> np.ndarray:
        self.seen.append(info["slos"])
        return self.action


@pytest.mark.parametrize(
    ("policy", "router", "pricing"),
    [
        ("sli-aware", "randomized", "bundled"),
        ("general-sli-aware", "weighted-randomized", "bundled"),
        ("general-sli-aware", "weighted-randomized", "separate"),
    ],
)
def test_who_plays_the_plan_gets_the_numbers_of_the_rule(
    policy: str, router: str, pricing: str
) -> None:
    given = {"slos": LEVELS, "seed": 4, "pricing": pricing, **FAST}
    rule = lse.evaluate(policy, "base", 12, **given)
    player = PlayThePlan(router)
    python = lse.evaluate(player, "base", 12, **given)
    assert python.events == rule.events
    assert python.scores == pytest.approx(rule.scores, rel=1e-9)
    assert python.objective.mean == pytest.approx(rule.objective.mean, rel=1e-9)
    for name in NAMES:
        assert python.slos[name].measured.mean == pytest.approx(rule.slos[name].measured.mean)
    assert set(player.seen[0]) == set(NAMES)


def control_of(**arguments: Any) -> IntervalControl:
    given = {"gate": "occupancy", "router": "randomized", **arguments}
    return IntervalControl(IntervalConfiguration.validated(**given))


def test_one_interval_as_long_as_a_run_is_the_run() -> None:
    result = lse.evaluate(
        "sli-aware", "base", 12, slos=LEVELS, horizon=150.0, warmup=0.0, replications=1, seed=7
    )
    control = control_of(n_gpus=12, slos=LEVELS, interval=150.0)
    control.start(0, replication_seed(7, 0))
    report = control.empty_report()
    control.step(control.plan.action[None], report)
    assert report.rewards[0] == pytest.approx(result.objective.mean / result.bound, rel=1e-9)
    expected = [result.slos[name].measured.mean for name in NAMES]
    np.testing.assert_allclose(report.levels.measured[0], expected, rtol=1e-9)
    currency = [result.slos[name].penalty.mean * 12 * 150 for name in NAMES]
    np.testing.assert_allclose(report.levels.penalties[0], currency, rtol=1e-9)


def test_over_short_intervals_a_gap_costs_at_least_as_much() -> None:
    """Fairness and, if prefills slow iterations, the time per token are convex (Jensen)."""
    spent = {}
    for interval in (1.0, 120.0):
        control = control_of(n_gpus=6, slos=LEVELS, interval=interval)
        control.start(0, replication_seed(2, 0))
        penalties = []
        for _ in range(int(120 / interval)):
            report = control.empty_report()
            control.step(control.plan.action[None], report)
            penalties.append(report.levels.penalties[0].copy())
        spent[interval] = np.sum(penalties, axis=0)
    prefill, decode, token = zip(spent[1.0], spent[120.0], strict=True)
    assert prefill[0] > prefill[1]
    assert decode == (0.0, 0.0)
    assert token[0] > token[1]


def test_reward_terms_add_up() -> None:
    env = gym.make("LLMSched-v0", n_gpus=5, interval=2.0, slos=LEVELS)
    _, info = env.reset(seed=0)
    assert info["penalties"] == {"prefill-fairness": 0.0, "tpot": 0.0}
    assert info["slos"]["prefill-fairness"] == 0.0
    for _ in range(30):
        _, reward, _, _, info = env.step(env.unwrapped.plan_action)
        total = sum(info["revenue"].values()) - sum(info["penalties"].values())
        assert reward == pytest.approx(total / (5 * 2.0 * 297.7032), rel=1e-6)
        assert type(reward) is float
        assert list(info["slos"]) == NAMES
        price = info["slos"]["tpot"] * 3000 * 5 * 2.0
        assert info["penalties"]["tpot"] == pytest.approx(price)


def test_the_first_info_of_an_episode_is_about_its_start() -> None:
    env = gym.make("LLMSched-v0", n_gpus=40, start="plan", slos=LEVELS)
    _, info = env.reset(seed=0)
    state = env.unwrapped.control.batch.state(0)
    assert info["slos"]["decode-fairness"] == np.ptp(state.classes["y_solo"]) / 40
    assert info["penalties"]["tpot"] == 0.0


def test_a_limit_alone_is_reported_and_not_punished() -> None:
    plain, limited = (
        gym.make("LLMSched-v0", n_gpus=5, **more) for more in ({}, {"slos": [LEVELS[1]]})
    )
    rng = np.random.default_rng(1)
    plain.reset(seed=3), limited.reset(seed=3)
    for _ in range(50):
        action = rng.random(5, dtype=np.float32)
        one, other = plain.step(action), limited.step(action)
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1] == other[1]
        assert other[4].pop("slos")["decode-fairness"] >= 0
        assert other[4].pop("penalties") == {}
        np.testing.assert_equal(one[4], other[4])


def test_specification_is_plain_data() -> None:
    env = gym.make("LLMSched-v0", slos=LEVELS)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for e in (env, again):
        e.reset(seed=0)
    for _ in range(10):
        one, other = (e.step(e.unwrapped.plan_action) for e in (env, again))
        assert one[1] == other[1]
        np.testing.assert_equal(one[4], other[4])


def test_gymnasium_checker_has_nothing_to_say(recwarn: pytest.WarningsRecorder) -> None:
    check_env(gym.make("LLMSched-v0", slos=LEVELS).unwrapped)
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_every_form_of_the_environment_has_the_same_numbers(mode: str) -> None:
    kwargs = {"n_gpus": 5, "horizon": 12, "start": "plan", "slos": LEVELS}
    mode = gym.vector.AutoresetMode[mode]
    native = gym.make_vec("LLMSched-v0", num_envs=3, autoreset_mode=mode, **kwargs)
    plain = gym.make_vec(
        "LLMSched-v0", num_envs=3, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode}, **kwargs,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    infos = [env.reset(seed=9)[1] for env in (native, plain)]
    for step in range(40):
        for group, names in (("slos", NAMES), ("penalties", [NAMES[0], NAMES[2]])):
            for name in names:
                ours, theirs = (info[group][name] for info in infos)
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{step} {name}")
        actions = rng.random((3, 5), dtype=np.float32)
        a, b = native.step(actions), plain.step(actions)
        for mine, other in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, other, err_msg=str(step))
        infos = [a[4], b[4]]
        if "final_info" in a[4]:
            ours, theirs = (info["final_info"]["slos"]["tpot"] for info in infos)
            np.testing.assert_array_equal(ours, theirs)


def test_stable_baselines3_form() -> None:
    pytest.importorskip("stable_baselines3")
    from llm_sched_env.envs.sb3 import LLMSchedSB3VecEnv

    env = LLMSchedSB3VecEnv(2, n_gpus=5, horizon=3, slos=LEVELS)
    env.seed(0)
    env.reset()
    for _ in range(4):
        _, rewards, _, infos = env.step(np.full((2, 5), 0.5, np.float32))
        for reward, info in zip(rewards, infos, strict=True):
            assert set(info["slos"]) == set(NAMES)
            total = sum(info["revenue"].values()) - sum(info["penalties"].values())
            assert reward == pytest.approx(total / (5 * 297.7032), rel=1e-5)


@pytest.mark.parametrize(
    ("slos", "message"),
    [
        ("tpot@limit=1", "a list of service levels"),
        (["goodput@limit=1"], "service level: got 'goodput'"),
        (["tpot@limit=1", "tpot@price=1"], "each once"),
        ([{"name": "tpot", "limit": "low"}], "tpot limit: got 'low'"),
        ([{"name": "tpot"}], "tpot: got None, expected a limit, a price or both"),
        ([3], "service levels: got 3"),
        (["tpot@limit=0.02"], "the least attainable"),
    ],
)
def test_bad_service_levels_are_one_clear_line(slos: Any, message: str) -> None:
    for run in (
        lambda: lse.evaluate("sli-aware", "base", 5, slos=slos, **FAST),
        lambda: gym.make("LLMSched-v0", slos=slos),
        lambda: gym.make_vec("LLMSched-v0", num_envs=2, slos=slos),
    ):
        with pytest.raises(LLMSchedError, match=message) as caught:
            run()
        assert "\n" not in str(caught.value)


def test_weighted_routing_can_be_controlled() -> None:
    env = gym.make("LLMSched-v0", router="weighted-randomized", controls=["routing"])
    assert env.action_space.shape == (2,)
    with pytest.raises(ConfigurationError, match="router"):
        gym.make("LLMSched-v0", router="weighted")


# The command line and the page.


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed.err
    return printed.out


def test_evaluate_prints_service_levels(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--policy", "sli-aware", "--gpus", "5", "--horizon", "60"]
    arguments += ["--slo", "prefill-fairness@limit=0.1,price=5", "--slo", "tpot@price=3000"]
    arguments += ["--slo", "test_slo_attainment:QueueOfFirst@limit=9"]
    plain = json.loads(run(capsys, *arguments, "--json"))
    assert list(plain["slos"]) == ["prefill-fairness", "tpot", "queue-of-first"]
    penalties = sum(level["penalty"]["mean"] for level in plain["slos"].values())
    assert plain["objective"]["mean"] == pytest.approx(plain["revenue_rate"]["mean"] - penalties)
    text = run(capsys, *arguments)
    assert "less penalties" in text
    assert f"{plain['slos']['tpot']['measured']['mean']:.5g}" in text


def test_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    exec(compile(blocks[0], "docs/service_levels.md", "exec"), names)
    assert names["env"].spec.kwargs["slos"] == names["levels"][1:]
    capsys.readouterr()
    exec(compile(blocks[1], "docs/service_levels.md", "exec"), {})
    share, dual, measured, queue = map(float, capsys.readouterr().out.split())
    assert 0.5 < share < 1
    assert dual > 1e4
    assert measured == pytest.approx(queue)
    commands = re.findall(r"^llmsched (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        run(capsys, *command.split())
