"""``LLMSchedRouting-v0``: candidates, masks, what is shown, and its vector form."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from block_streams import block_stream
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_cases import FLEETS, fleet_instance, talking_instance

import llm_sched_env as lse
from llm_sched_env.baselines.routing_rules import RoutingRule
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.envs.routing_env import LLMSchedRoutingEnv
from llm_sched_env.envs.routing_space import CANDIDATE_NUMBERS, routing_feature_names
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.model.drawn_conversations import draw_requests
from llm_sched_env.simulation.caches.block_cache import PRESENT
from llm_sched_env.simulation.state.layout import RequestStream

SMALL = {"instance": talking_instance(), "n_gpus": 3, "candidates": 2, "horizon": 20.0}
PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")


def make(**kwargs):
    return LLMSchedRoutingEnv(**{**SMALL, **kwargs})


def random_choice(seed):
    rng = np.random.default_rng(seed)
    return lambda info: int(rng.choice(np.flatnonzero(info["action_mask"])))


def least_load(info):
    """The least loaded GPU of the first group: always possible."""
    return len(info["action_mask"]) // 2


def go_on(env, info, steps=10**9, choose=least_load):
    seen, truncated = [], False
    while not truncated and len(seen) < steps:
        observation, reward, terminated, truncated, info = env.step(choose(info))
        assert terminated is False
        seen.append((observation, reward, info))
    return seen


def play(env, seed=0, steps=10**9, choose=least_load, **reset):
    """Observations, rewards and infos of an episode, or of its first steps."""
    observation, info = env.reset(seed=seed, **reset)
    seen = go_on(env, info, steps, choose)
    observations = np.array([observation, *(o for o, _, _ in seen)])
    return observations, np.array([r for _, r, _ in seen]), [info, *(i for _, _, i in seen)]


def control_of(fleet_or_instance, stream=None, n_gpus=5, seed=0, n_clusters=1, **arguments):
    instance = fleet_or_instance
    if isinstance(instance, str):
        instance = fleet_instance(instance)
    configuration = RoutingConfiguration.validated(instance, n_gpus, **arguments)
    control = RoutingControl(configuration, n_clusters, stream=stream)
    for k in range(n_clusters):
        control.start(k, np.random.SeedSequence([seed, k]))
    return control


def step(control, action):
    report = control.empty_report()
    control.step([action], report)
    return report


def test_spaces_are_those_of_the_contract():
    env = make()
    assert env.action_space == gym.spaces.Discrete(4)
    assert env.observation_space == gym.spaces.Box(0, 1, (2 + 7 * 4 + 3,), np.float32)
    assert len(routing_feature_names(SMALL["instance"], 2)) == 33
    assert env.action_names[2] == "number 1 by load"
    three = fleet_instance("three groups")
    env = LLMSchedRoutingEnv(n_gpus=5, instance=three, candidates=3)
    assert env.action_space.n == 2 * 2 * 3
    assert env.observation_space.shape == (2 + 7 * 12 + 3 * 3,)
    assert len(routing_feature_names(three, 3)) == 2 + 7 * 12 + 9
    assert env.action_names[6] == "number 1 by match in m"


def test_info_is_what_the_page_lists():
    _, info = make(instance="chat-deadlines").reset(seed=0)
    listed = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    assert sorted(info) == sorted(re.findall(r"\w+", " ".join(listed)))


def test_examples_of_the_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "routing.md", "exec"), {})
    assert "Estimate" in capsys.readouterr().out


def hand_stream(lists, times, prompts, outputs):
    starts = np.cumsum([0, *map(len, lists)])
    return RequestStream(
        np.array(times),
        np.zeros(len(times), np.int32),
        np.array(prompts),
        np.array(outputs),
        session=np.arange(len(times)),
        block_ids=np.concatenate(lists),
        block_starts=starts,
    )


def test_a_small_case_by_hand():
    """A chunk of 512 tokens takes a second; decodes of one token end at once with the iteration."""
    hardware = lse.Hardware(
        alpha=0.0, beta=1 / 512, gamma=10.0, chunk_tokens=512, batch_slots=4, cache_tokens=8 * 512
    )
    only = lse.RequestClass("only", 1024.0, 1.0, 1.0, 0.0)
    instance = lse.Instance("one", (only,), hardware, lse.presets.PAPER_PRICES)
    stream = hand_stream(
        [[1, 2], [1, 2, 3], [1, 9], [1, 2, 3, 4]],
        times=[1.0, 4.0, 4.5, 20.0],
        prompts=[1024.0, 1536.0, 1024.0, 2048.0],
        outputs=[1.0, 1.0, 1.0, 1.0],
    )
    control = control_of(instance, stream, n_gpus=2, candidates=1, horizon=30.0)
    match, load = range(2)
    report = control.report()
    assert report.times[0] == 1.0
    assert control.info(0, report)["elapsed_seconds"] == 0.0
    assert report.masks[0].tolist() == [0, 1]
    first = int(report.gpus[0, load])
    known = dict(zip(CANDIDATE_NUMBERS, report.known[0, :, load], strict=True))
    assert (known["prefill_seconds"], known["queue_seconds"]) == (2.0, 0.0)
    assert known["idle_seconds"] == np.inf
    report = step(control, load)  # its prefill lasts until 3, its decode is over soon after
    assert (report.times[0], report.elapsed[0]) == (4.0, 3.0 + 1.0)
    assert report.gpus[0, match] == first
    known = dict(zip(CANDIDATE_NUMBERS, report.known[0, :, match], strict=True))
    assert (known["matched_tokens"], known["prefill_seconds"]) == (1024.0, 1.0)
    assert (known["waiting"], known["running"]) == (0.0, 0.0)
    assert report.observations[0][1] == pytest.approx(2 / 3)  # 2 of 3 blocks
    assert report.observations[0][3] == 0.5  # a second of its own prefill
    least = int(report.gpus[0, load])
    assert report.masks[0, match] == (least != first)
    report = step(control, load if least == first else match)
    # Half a second later its prefill has half a second to go, and the other GPU is idle.
    assert report.times[0] == 4.5
    assert report.gpus[0].tolist() == [first, 1 - first]
    known = dict(zip(CANDIDATE_NUMBERS, report.known[0, :, match], strict=True))
    assert known["queue_seconds"] == pytest.approx(0.5)
    assert (known["matched_tokens"], known["prefill_seconds"]) == (512.0, 1.0)
    assert (known["waiting"], known["running"]) == (0.0, 1.0)
    assert known["kv_use"] == pytest.approx(1536 / (8 * 512))
    assert report.masks[0].tolist() == [1, 1]
    report = step(control, load)
    assert report.gpus[0, match] == first  # 3 of its 4 blocks, of which the other has one
    assert report.observations[0][1] == pytest.approx(0.75)
    report = step(control, int(np.flatnonzero(report.masks[0])[0]))
    assert control.truncated()[0]
    assert report.times[0] == 30.0
    assert report.classes[0] == -1
    assert report.masks[0].tolist() == [0, 1]
    assert control.batch.metrics(0).counts["completed"].tolist() == [4]


def matched(state, c, request):
    """Blocks of the longest prefix of a prompt in cache c, over the nodes of its buckets."""
    own, cache = state.reuse[request], state.caches[c]
    buckets = range(cache["first_bucket"], cache["first_bucket"] + cache["bucket_mask"] + 1)
    there = set()
    for first in state.cache_buckets[list(buckets)].tolist():
        node = first
        while node >= 0:
            if state.cache_nodes[node]["state"] & PRESENT:
                there.add(int(state.cache_nodes[node]["key"]))
            node = int(state.cache_nodes[node]["chain"])
    blocks = state.block_ids[own["first_block"] : own["first_block"] + own["prompt_blocks"]]
    missing = [int(b) not in there for b in blocks]
    return missing.index(True) if True in missing else len(missing)


def check_candidates(control, report, k):
    """Candidates against a count over all GPUs; signals are true."""
    state, n = control.batch.state(0), len(control.batch.state(0).gpus)
    request = int(state.clock["unsent"][0])
    mask, gpus = report.masks[0], report.gpus[0]
    assert mask.sum() >= 1
    assert control.observation_space.contains(report.observations[0])
    if request < 0:
        assert mask.sum() == 1
        return
    chosen = gpus[mask > 0]
    assert len(set(chosen.tolist())) == len(chosen)
    prefilling = [g for g in range(len(state.groups)) if state.groups[g]["prefills"]]
    assert len(gpus) == 2 * k * len(prefilling)
    both = [max(matched(state, gpu, request), matched(state, n + gpu, request)) for gpu in range(n)]
    loads = state.backlogs["seconds"]
    if control.configuration.load == "requests":
        inside = state.gpus["decodes"] + state.gpus["incoming"]
        inside = inside + (state.gpus["prefill_request"] >= 0) + state.backlogs["waiting"]
        loads = inside / state.groups["batch_slots"][state.gpus["group"]]
    for place, g in enumerate(prefilling):
        group = state.groups[g]
        own = range(int(group["first_gpu"]), int(group["first_gpu"] + group["n_gpus"]))
        by_match, by_load = gpus[2 * k * place :][: 2 * k].reshape(2, k)
        best = sorted((both[gpu] for gpu in own if both[gpu] > 0), reverse=True)[:k]
        assert [both[gpu] for gpu in by_match if gpu >= 0] == best
        assert (by_match[len(best) :] == -1).all()
        least = sorted(loads[own].tolist())[:k]
        assert loads[by_load[: len(least)]].tolist() == least
        assert set(gpus[2 * k * place :][: 2 * k].tolist()) <= {*own, -1}
        assert mask[2 * k * place + k] == 1


@settings(max_examples=15, deadline=None)
@given(
    fleet=st.sampled_from(sorted(FLEETS)),
    k=st.integers(1, 7),
    seed=st.integers(0, 2**20),
    load=st.sampled_from(["work", "requests"]),
    scheduler=st.sampled_from(["fcfs", "static-priority", "shortest-prompt"]),
)
def test_candidates_are_the_best_and_each_gpu_is_possible_once(fleet, k, seed, load, scheduler):
    instance = fleet_instance(fleet, patience_rate=0.1)
    control = control_of(
        instance,
        block_stream(seed, 60, 15.0),
        seed=seed,
        candidates=k,
        load=load,
        scheduler=scheduler,
        horizon=30.0,
    )
    rng, report = np.random.default_rng(seed), control.report()
    while not control.truncated()[0]:
        check_candidates(control, report, k)
        report = step(control, int(rng.choice(np.flatnonzero(report.masks[0]))))
    check_candidates(control, report, k)
    conserve(control)


def conserve(control):
    """Every request that came is somewhere, and once."""
    state, counts = control.batch.state(0), control.batch.metrics(0).counts
    left = sum(counts[name].sum() for name in ("completed", "abandoned_prefill", "rejected"))
    left += counts["abandoned_decode"].sum()
    inside = sum(int(state.classes[name].sum()) for name in ("q_prefill", "x", "q_decode"))
    inside += int(state.classes["y_mixed"].sum() + state.classes["y_solo"].sum())
    unsent = int(state.clock["unsent"][0] >= 0)
    assert counts["arrived"].sum() + counts["initial"].sum() == left + inside + unsent
    assert len(state.requests) - state.clock["free_size"][0] == inside + unsent
    if not inside:
        assert (state.backlogs["waiting"] == 0).all()
        assert (state.backlogs["seconds"] == 0.0).all()
        assert (state.caches["blocks"] <= state.caches["capacity"]).all()


def test_equal_gpus_come_in_a_circle_from_a_random_one():
    """Requests so rare that all GPUs are idle: each comes first about as often."""
    count, n = 400, 5
    stream = hand_stream(
        [[]] * count,
        times=10.0 * np.arange(count),
        prompts=np.full(count, 512.0),
        outputs=np.ones(count),
    )
    control = control_of("no caches", stream, n_gpus=n, candidates=n, horizon=1e5)
    report, firsts = control.report(), []
    while not control.truncated()[0]:
        order = report.gpus[0, n:].tolist()
        assert order == [(order[0] + place) % n for place in range(n)]
        firsts.append(order[0])
        report = step(control, n)
    shares = np.bincount(firsts, minlength=n) / count
    assert len(firsts) == count
    np.testing.assert_allclose(shares, 1 / n, atol=4 * np.sqrt(0.2 * 0.8 / count))


@pytest.mark.parametrize("fleet", sorted({*FLEETS} - {"little memory"}))
def test_output_lengths_and_patience_never_reach_the_agent(fleet):
    """Two streams that differ in them alone: what is shown is the same until an effect shows.

    With little memory one shows at once: who is admitted has room for all of its output.
    """
    first = block_stream(1, 40, 2.0)  # while the first answers are being written
    later = first._replace(
        output_tokens=first.output_tokens * 3.0 + 500.0, patience_seconds=np.full(40, 1e6)
    )
    earlier = later._replace(output_tokens=first.output_tokens + 500.0)
    arguments = {"candidates": 3, "horizon": 2.5, "n_gpus": 5}
    controls = [control_of(fleet, stream, **arguments) for stream in (earlier, later)]
    reports, decisions = [control.report() for control in controls], 0
    while not controls[0].truncated()[0]:
        a, b = (control.info(0, r) for control, r in zip(controls, reports, strict=True))
        assert str(a) == str(b)
        np.testing.assert_array_equal(*(report.observations for report in reports))
        action = int(np.flatnonzero(a["action_mask"])[decisions % a["action_mask"].sum()])
        reports = [step(control, action) for control in controls]
        decisions += 1
    assert decisions > 20


def test_hidden_numbers_of_the_state_are_not_shown():
    env = make(start="plan", horizon=100.0)
    play(env, steps=150, choose=random_choice(0))
    control = env.control
    before = control.report()
    info = str(control.info(0, before))
    state = control.batch.state(0)
    state.requests["output_tokens"] *= 2
    state.decode_marks[:] *= 2
    state.patience_keys[:] *= 2
    after = control.report()
    np.testing.assert_array_equal(after.observations, before.observations)
    assert str(control.info(0, after)) == info


def test_stale_signals_are_those_of_the_last_refresh_and_what_was_sent():
    """Against the same run with true signals, stopped at each refresh."""
    refresh, n, stream = 0.5, 3, block_stream(9, 120, 20.0)
    arguments = {"candidates": n, "horizon": 25.0, "n_gpus": n}
    stale = control_of("caches", stream, refresh_seconds=refresh, **arguments)
    true = control_of("caches", stream, **arguments)
    rng, reports = np.random.default_rng(0), [stale.report(), true.report()]
    sent, tick, differs = np.zeros(n), int(reports[0].times[0] // refresh), 0
    waiting, running = np.zeros(n), np.zeros(n)
    while not stale.truncated()[0]:
        places = [{int(g): a for a, g in enumerate(r.gpus[0]) if g >= 0} for r in reports]
        assert set(places[0]) == set(range(n))
        for gpu, place in places[0].items():
            known = dict(zip(CANDIDATE_NUMBERS, reports[0].known[0, :, place], strict=True))
            assert known["waiting"] == waiting[gpu] + sent[gpu]
            assert known["running"] == running[gpu]
            differs += known["running"] != reports[1].known[0, 4, places[1][gpu]]
        gpu = int(rng.integers(n))
        actions = [
            next(a for a in np.flatnonzero(r.masks[0]) if r.gpus[0, a] == gpu) for r in reports
        ]
        sent[gpu] += 1
        before = copy.deepcopy(true)
        reports = [step(c, a) for c, a in zip((stale, true), actions, strict=True)]
        assert reports[0].times[0] == reports[1].times[0]
        if int(reports[0].times[0] // refresh) > tick:
            tick = int(reports[0].times[0] // refresh)
            before.end_at(0, tick * refresh - 1e-9)
            step(before, actions[1])
            state = before.batch.state(0)
            waiting = state.backlogs["waiting"].astype(float)
            running = state.gpus["decodes"] + 1.0 * (state.gpus["prefill_request"] >= 0)
            sent[:] = 0
    assert differs > 50


def test_rewards_add_up_to_the_score():
    for pricing in ("bundled", "separate"):
        env = make(pricing=pricing, start="plan", horizon=40.0)
        _, rewards, infos = play(env, choose=random_choice(1))
        metrics = env.control.batch.metrics(0)
        bound = env.control.cluster.bound(env.control.cluster.instance)
        assert rewards.sum() / 40.0 == pytest.approx(metrics.revenue_rate(pricing) / bound)
        for reward, info in zip(rewards, infos[1:], strict=True):
            assert reward == pytest.approx(sum(info["revenue"].values()) / (3 * bound))
        elapsed = [info["elapsed_seconds"] for info in infos]
        assert sum(elapsed) == pytest.approx(40.0)
        assert infos[-1]["time"] == 40.0
        conserve(env.control)


def test_goodput_and_deadlines_are_those_of_the_metrics():
    env = make(instance="chat-deadlines", revenue="goodput", horizon=60.0)
    _, rewards, infos = play(env)
    metrics = env.control.batch.metrics(0)
    good = sum(info["deadlines"]["good"] for info in infos)
    assert good.tolist() == metrics.deadline_counts["good"].tolist()
    assert rewards.sum() > 0.0


def test_requests_of_an_episode_are_those_that_evaluate_draws():
    instance, seed = talking_instance(), np.random.SeedSequence([3, 0])
    control = control_of(instance, seed=3, n_gpus=4, horizon=50.0, candidates=2)
    drawn = draw_requests(instance, 4, 50.0, seed)
    report, times, prompts = control.report(), [], []
    while not control.truncated()[0]:
        times.append(report.times[0])
        prompts.append(report.prompts[0])
        report = step(control, 2)
    assert times == drawn.arrival_time.tolist()
    assert prompts == drawn.prompt_tokens.tolist()


def test_same_seed_same_bytes_and_others_differ():
    logs = []
    for seed in (3, 3, 4):
        env = make()
        observations, rewards, _ = play(env, seed, choose=random_choice(0))
        state = b"".join(a.tobytes() for a in env.control.batch.snapshot(0))
        logs.append((observations.tobytes(), rewards.tobytes(), state))
    assert logs[0] == logs[1]
    assert logs[0][0] != logs[2][0]


@pytest.mark.parametrize("instance", [talking_instance(), "overload"])
def test_saved_state_continues(instance):
    env = make(instance=instance, start="plan", horizon=30.0)
    observations, _, infos = play(env, steps=60)
    saved = env.save_state()
    futures = []
    for seed in (7, 7, 8):
        observation, info = env.reset(seed=seed, options={"state": saved})
        np.testing.assert_array_equal(observation, observations[-1])
        assert info["time"] == infos[-1]["time"]
        assert info["elapsed_seconds"] == 0.0
        futures.append([r for _, r, _ in go_on(env, info)])
        assert env.control.times()[0] == pytest.approx(infos[-1]["time"] + 30.0)
        conserve(env.control)
    assert futures[0] == futures[1] != futures[2]
    # Also in another environment, in any row of a vector environment.
    envs = gym.make_vec(
        "LLMSchedRouting-v0", num_envs=3, **{**SMALL, "instance": instance, "horizon": 30.0}
    )
    envs.reset(seed=0)
    seen, infos = envs.reset(seed=[7, 7, 8], options={"state": saved})
    for k in range(3):
        np.testing.assert_array_equal(seen[k], observations[-1])
    rewards = [envs.step(np.full(3, 2))[1] for _ in range(20)]
    for k in range(3):
        assert [r[k] for r in rewards] == futures[k][:20]


@pytest.mark.parametrize("fleet", FLEETS)
def test_what_is_there_at_the_start_is_served_and_counted(fleet):
    """At the fluid optimum; GPUs with a free place do not wait for an event to take a request."""
    control = control_of(fleet, n_gpus=20, candidates=2, start="plan", horizon=60.0)
    state = control.batch.state(0)
    assert state.classes["x"].sum() + state.classes["y_mixed"].sum() > 0
    idle = state.gpus["prefill_request"] < 0
    idle &= state.gpus["decodes"] + 1 < state.groups["batch_slots"][state.gpus["group"]]
    if fleet != "little memory":
        assert (state.backlogs["waiting"][idle] == 0).all()
    running = (state.gpus["prefill_request"] >= 0) + state.backlogs["waiting"]
    assert state.backlogs["prefills"].tolist() == running.tolist()
    choose, report = random_choice(0), control.report()
    while not control.truncated()[0]:
        report = step(control, choose(control.info(0, report)))
    conserve(control)


def test_a_saved_state_of_other_requests_is_refused():
    plain = make(instance="base")
    plain.reset(seed=0)
    with pytest.raises(ConfigurationError, match="state"):
        make().reset(options={"state": plain.save_state()})


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"instance": "overload", "start": "plan"},
        {"instance": fleet_instance("three groups", 0.1), "n_gpus": 5, "refresh_seconds": 0.05},
    ],
)
def test_vector_environment_equals_single_ones(mode, kwargs):
    kwargs = {**SMALL, "horizon": 6.0, **kwargs}
    native = gym.make_vec("LLMSchedRouting-v0", num_envs=3, autoreset_mode=mode, **kwargs)
    plain = gym.make_vec(
        "LLMSchedRouting-v0",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    a, b = native.reset(seed=11), plain.reset(seed=11)
    np.testing.assert_array_equal(a[0], b[0])
    rng, ends = np.random.default_rng(0), 0
    for _ in range(120):
        lots = np.where(a[-1]["action_mask"], rng.random(a[-1]["action_mask"].shape), -1.0)
        a, b = native.step(lots.argmax(axis=1)), plain.step(lots.argmax(axis=1))
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        for name in ("time", "gpus", "action_mask", *CANDIDATE_NUMBERS):
            np.testing.assert_array_equal(a[-1][name], b[-1][name])
        ends += int(a[3].sum())
    assert ends >= 3


def test_an_episode_survives_pickling_and_copying():
    env = make(horizon=60.0)
    info = play(env, steps=60)[2][-1]
    expected = [r for _, r, _ in go_on(pickle.loads(pickle.dumps(env)), info)]
    assert [r for _, r, _ in go_on(copy.deepcopy(env), info)] == expected
    assert [r for _, r, _ in go_on(env, info)] == expected
    assert sum(expected) > 0


def test_without_an_arrival_there_is_one_action_that_sends_nothing():
    env = make(horizon=1e-6)
    _, info = env.reset(seed=0)
    assert info["request_class"] == -1
    assert np.flatnonzero(info["action_mask"]).tolist() == [2]
    _, reward, _, truncated, info = env.step(2)
    assert (reward, truncated, info["events"]) == (0.0, True, 0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_gpus": 0},
        {"candidates": 0},
        {"candidates": 2.5},
        {"candidates": 10**6},
        {"load": "least"},
        {"scheduler": "sjf"},
        {"refresh_seconds": -1.0},
        {"refresh_seconds": float("nan")},
        {"horizon": 0.0},
        {"start": "warm"},
        {"revenue": "some"},
        {"pricing": "free"},
    ],
)
def test_bad_arguments_are_one_clear_line(kwargs):
    for build in (LLMSchedRoutingEnv, lambda **k: gym.make_vec("LLMSchedRouting-v0", **k)):
        with pytest.raises(LLMSchedError, match=r"got .*expected") as caught:
            build(**kwargs)
        assert "\n" not in str(caught.value)


def test_the_other_environments_say_where_conversations_are_drawn():
    for name in ("LLMSched-v0", "LLMSchedEvent-v0"):
        with pytest.raises(ConfigurationError, match="LLMSchedRouting-v0") as caught:
            gym.make(name, instance=talking_instance(), n_gpus=3).reset()
        assert "\n" not in str(caught.value)


def test_an_impossible_action_is_one_clear_line_and_changes_nothing():
    env = make()
    _, info = env.reset(seed=0)
    before = env.control.batch.snapshot(0)
    assert info["action_mask"][0] == 0  # no GPU has anything yet
    with pytest.raises(ConfigurationError, match=r"possible actions 2, 3.*action_mask"):
        env.step(0)
    after = env.control.batch.snapshot(0)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("match_trace", [True, False])
def test_a_policy_is_evaluated_on_a_trace_with_blocks(match_trace):
    """Beside the compiled router, on the same recorded requests."""
    stream = block_stream(3, 200, 60.0)
    blocks = BlockLists(stream.block_ids, stream.block_starts)
    trace = lse.Trace(("a", "b"), *stream[:4], session=stream.session, blocks=blocks)
    rule = lse.DispatchRule(gate="fcfs", router="least-loaded", pools="dynamic")
    ours, theirs = (
        lse.evaluate(policy, fleet_instance("caches"), 5, trace=trace, match_trace=match_trace)
        for policy in (RoutingRule("least-loaded"), rule)
    )
    assert ours.scores == theirs.scores
    assert ours.caches == theirs.caches
    assert ours.caches.cached_token_share > 0.0
