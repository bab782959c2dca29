"""``LLMSchedEvent-v0`` and its vector and stable-baselines3 forms."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llm_sched_env as lse
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.envs.event_env import LLMSchedEventEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.envs.observation import event_feature_names
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.simulation.state.layout import RequestStream

SMALL = {"instance": "overload", "n_gpus": 3, "horizon": 20.0}
PAGE = (Path(__file__).parents[2] / "docs" / "event_control.md").read_text(encoding="utf-8")


def make(**kwargs):
    return gym.make("LLMSchedEvent-v0", **{**SMALL, **kwargs})


def eager(info):
    """The last possible action: routes, admits, and waits only if it must."""
    return int(np.flatnonzero(info["action_mask"])[-1])


def play(env, seed=0, steps=10**9, choose=eager, **reset):
    """Observations, rewards and infos of an episode, or of its first steps."""
    observation, info = env.reset(seed=seed, **reset)
    return go_on(env, info, steps, choose, [observation])


def go_on(env, info, steps, choose=eager, observations=()):
    observations, rewards, infos = list(observations), [], [info]
    truncated = False
    while not truncated and len(rewards) < steps:
        observation, reward, terminated, truncated, info = env.step(choose(info))
        assert terminated is False
        observations.append(observation)
        rewards.append(reward)
        infos.append(info)
    return np.array(observations), np.array(rewards), infos


def random_choice(seed):
    rng = np.random.default_rng(seed)
    return lambda info: int(rng.choice(np.flatnonzero(info["action_mask"])))


def test_spaces_are_those_of_the_contract():
    env = make()
    assert env.action_space == gym.spaces.Discrete(7)
    assert env.observation_space == gym.spaces.Box(0, 1, (20,), np.float32)
    assert len(event_feature_names(lse.presets.overload())) == 20
    assert len(env.unwrapped.action_names) == 7
    assert env.unwrapped.action_names[5] == "route decode-heavy to mixed"


def test_examples_of_the_page_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "event_control.md", "exec"), {})
    assert "Estimate" in capsys.readouterr().out


def test_info_is_what_the_page_lists():
    _, info = make(instance="chat-deadlines").reset(seed=0)
    listed = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    assert sorted(info) == sorted(re.findall(r"\w+", " ".join(listed)))


def one_gpu(arrivals, outputs, **kwargs):
    """One GPU that may prefill, one class; prompts of one chunk: a prefill is an iteration."""
    instance = lse.Instance(
        "one",
        (lse.RequestClass("only", 256.0, 100.0, 1.0, 0.0),),
        lse.Hardware(alpha=0.0, beta=1 / 256, gamma=10.0, chunk_tokens=256, batch_slots=2),
        lse.presets.PAPER_PRICES,
    )
    size = len(arrivals)
    stream = RequestStream(
        np.array(arrivals), np.zeros(size, np.int32), np.full(size, 256.0), np.array(outputs)
    )
    configuration = EventConfiguration.validated(
        instance, 1, horizon=20.0, pools="dynamic", **kwargs
    )
    control = EventControl(configuration, stream=stream)
    control.start(0, np.random.SeedSequence(0))
    return control


def step(control, action):
    report = control.empty_report()
    control.step([action], report)
    return report


def test_a_small_case_by_hand():
    """Iterations last 1 s with a prefill and 0.1 s without."""
    wait, admit, solo, mixed = range(4)
    control = one_gpu(arrivals=[1.0, 2.5], outputs=[20.0, 5.0])
    assert control.action_masks()[0].tolist() == [True, False, False, False]
    report = step(control, wait)
    assert (report.times[0], report.elapsed[0]) == (1.0, 1.0)
    assert np.flatnonzero(report.masks[0]).tolist() == [wait, admit]
    report = step(control, admit)  # nothing else can be done until its prefill ends
    assert (report.times[0], report.elapsed[0]) == (2.0, 1.0)
    assert np.flatnonzero(report.masks[0]).tolist() == [wait, solo]
    assert report.counts[0].tolist() == [[0], [0], [1], [0], [0]]
    report = step(control, wait)  # until the second arrival
    assert report.times[0] == 2.5
    assert np.flatnonzero(report.masks[0]).tolist() == [wait, admit, solo]
    report = step(control, admit)
    assert (report.times[0], report.elapsed[0]) == (2.5, 0.0)
    assert np.flatnonzero(report.masks[0]).tolist() == [wait, mixed]
    report = step(control, mixed)  # at 3.5 one of 20 tokens is done and the second prefill, too
    assert report.times[0] == 3.5
    assert report.counts[0].tolist() == [[0], [0], [1], [0], [1]]
    assert np.flatnonzero(report.masks[0]).tolist() == [wait, solo]
    report = step(control, solo)  # 5 tokens at 4.0, the other 19 at 5.4, the end at 20
    assert control.truncated()[0]
    assert (report.times[0], report.elapsed[0]) == (20.0, 16.5)
    metrics = control.batch.metrics(0)
    assert metrics.counts["completed"].tolist() == [2]
    assert metrics.occupancy["y_solo"][0] * 20 == pytest.approx(0.5 + 1.9)
    billed = 2 * 256 * 0.1 + 25 * 0.2
    assert report.terms.sum() == pytest.approx(billed)
    assert report.rewards[0] == pytest.approx(billed / control.plan.value)


def test_a_wait_ends_after_the_wake_interval():
    wait = 0
    control = one_gpu(arrivals=[1.0, 2.5], outputs=[20.0, 5.0], wake_interval=0.4)
    # Nothing to do before the first arrival: no wake-up; then every 0.4 s and at the next event.
    times = [float(step(control, wait).times[0]) for _ in range(6)]
    assert times == pytest.approx([1.0, 1.4, 1.8, 2.2, 2.5, 2.9])
    eager_times = [info["time"] for info in play(make(wake_interval=0.05), choose=lambda _: 0)[2]]
    assert max(np.diff(eager_times[2:])) <= 0.05 + 1e-12


@pytest.mark.parametrize("pools", ["static", "dynamic"])
@pytest.mark.parametrize("router", ["agent", "randomized"])
def test_masks_say_what_slots_and_queues_allow(router, pools):
    """Against a count over GPUs and waiting requests, decision by decision."""
    env = make(router=router, pools=pools, n_gpus=4).unwrapped
    slots = 16
    _, info = env.reset(seed=1)
    choose, seen = random_choice(2), np.zeros(7, int)
    for _ in range(1500):
        state = env.control.batch.state(0)
        prefilling = state.gpus["prefill_request"] >= 0
        decodes = state.gpus["decodes"]
        free = decodes + prefilling < slots
        if pools == "dynamic":
            opens = [(free & ~prefilling).any()] * 2 + [(free & prefilling).any()]
        else:
            pool = np.arange(4) < state.groups["mixed_pool_size"][0]
            opens = [(pool & free & ~prefilling).any(), (~pool & free).any()]
            opens.append((pool & (decodes < slots - 1)).any())
        waiting = state.waiting[state.waiting["queue"] >= 0]
        lines = [[(waiting["queue"] == queue).any() for queue in range(6)][2 * k :][:2]
                 for k in range(3)]  # fmt: skip
        if router == "agent":
            lines[2] = lines[1]
        expected = [True] + [bool(opens[k] and lines[k][i]) for k in range(3) for i in range(2)]
        assert info["action_mask"].tolist() == expected
        assert env.action_masks().tolist() == expected
        assert sum(expected) > 1 or info["time"] == 0.0
        seen += expected
        *_, truncated, info = env.step(choose(info))
        if truncated:
            _, info = env.reset()
    assert (seen > 20).all()


def test_head_ranks_order_the_heads_of_the_classes():
    env = make(instance="dolly15k", n_gpus=3, pools="dynamic").unwrapped
    _, info = env.reset(seed=0)
    choose = random_choice(3)
    compared = 0
    for _ in range(800):
        state = env.control.batch.state(0)
        for row, queues, since in (
            (0, range(8), "arrival_time"),
            (1, range(8, 16), "first_token_time"),
            (2, range(8, 16), "first_token_time"),
        ):
            heads = [state.queues[q]["head"] for q in queues]
            ages = [
                state.requests[state.waiting[h]["request"]][since] if h >= 0 else np.inf
                for h in heads
            ]
            ranks = [sum(b < a for b in ages) if a < np.inf else 8 for a in ages]
            assert info["head_ranks"][row].tolist() == ranks
            compared += sum(a < np.inf for a in ages) > 2
        *_, truncated, info = env.step(choose(info))
        if truncated:
            _, info = env.reset()
    assert compared > 500


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_rewards_add_up_to_the_score(pricing):
    env = make(pricing=pricing, start="plan", horizon=40.0)
    _, rewards, infos = play(env, choose=random_choice(1))
    metrics = env.unwrapped.control.batch.metrics(0)
    plan = env.unwrapped.plan
    assert rewards.sum() / 40.0 == pytest.approx(metrics.revenue_rate(pricing) / plan.value)
    for reward, info in zip(rewards, infos[1:], strict=True):
        assert reward == pytest.approx(sum(info["revenue"].values()) / (3 * plan.value))
    elapsed = [info["elapsed_seconds"] for info in infos]
    assert sum(elapsed) == pytest.approx(40.0)
    assert min(elapsed) == 0.0
    times = [info["time"] for info in infos]
    np.testing.assert_allclose(np.cumsum(elapsed), times)
    assert times[-1] == 40.0


def test_types_and_freshness():
    env = make()
    observation, info = env.reset(seed=0)
    kept, mask = observation.copy(), info["action_mask"].copy()
    first, first_info = observation, info
    for _ in range(60):
        observation, reward, terminated, truncated, info = env.step(eager(info))
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert env.observation_space.contains(observation)
        assert info["action_mask"].dtype == np.int8
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(first_info["action_mask"], mask)


def test_samples_are_possible_actions():
    env = make(start="plan")
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    drawn = set()
    for _ in range(300):
        action = env.action_space.sample()
        assert info["action_mask"][action] == 1
        assert env.action_space.sample(info["action_mask"]) in np.flatnonzero(info["action_mask"])
        drawn.add(int(action))
        *_, truncated, info = env.step(action)
        if truncated:
            _, info = env.reset()
    assert drawn == set(range(7))


def test_same_seed_same_episode_and_others_differ():
    env = make()
    a, b, c = (play(make() if fresh else env, seed) for fresh, seed in ((1, 3), (0, 3), (0, 4)))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])
    assert a[0].shape != c[0].shape or not np.array_equal(a[0], c[0])
    unseeded = play(env, None)
    assert len(unseeded[1]) != len(c[1]) or not np.array_equal(unseeded[1], c[1])


def test_true_lengths_and_patience_never_reach_the_agent():
    """Doubling the hidden lengths, marks and deadlines of all requests changes nothing seen."""
    for router in ("agent", "randomized"):
        env = make(start="plan", router=router, horizon=200.0).unwrapped
        play(env, steps=400, choose=random_choice(0))
        control = env.control
        before = control.empty_report()
        control.observe(before)
        info = control.info(0, before)
        state = control.batch.state(0)
        state.requests["prompt_tokens"] *= 2
        state.requests["output_tokens"] *= 2
        state.decode_marks[:] *= 2
        state.gpus["prefill_mark"] *= 2
        state.completion_times[:] *= 2
        state.patience_keys[:] *= 2
        after = control.empty_report()
        control.observe(after)
        np.testing.assert_array_equal(after.observations, before.observations)
        assert str(control.info(0, after)) == str(info)
        assert before.masks.sum() > 1


def test_an_action_without_room_changes_nothing_but_its_own_mask():
    """With a KV limit slots are shown, tokens are not: the agent finds out."""
    instance = lse.presets.overload().to_dict()
    instance["hardware"]["kv_tokens"] = 4000
    env = make(instance=instance, pools="dynamic", n_gpus=2, horizon=60.0).unwrapped
    _, info = env.reset(seed=0)
    choose, failed = random_choice(1), 0
    truncated = False
    while not truncated:
        action = choose(info)
        before, now = info["counts"].copy(), info
        *_, truncated, info = env.step(action)
        if action and info["elapsed_seconds"] == 0.0 and (info["counts"] == before).all():
            failed += 1
            assert info["events"] == now["events"]
            assert np.flatnonzero(info["action_mask"] != now["action_mask"]).tolist() == [action]
    assert failed > 20


def test_saved_state_continues():
    env = make(start="plan", horizon=60.0).unwrapped
    observations, _, infos = play(env, steps=300)
    saved = env.save_state()
    futures = []
    for seed in (7, 7, 8):
        observation, info = env.reset(seed=seed, options={"state": saved})
        np.testing.assert_array_equal(observation, observations[-1])
        np.testing.assert_array_equal(info["action_mask"], infos[-1]["action_mask"])
        assert info["time"] == infos[-1]["time"]
        assert info["elapsed_seconds"] == 0.0
        futures.append(go_on(env, info, 200)[1].tolist())
    assert futures[0] == futures[1] != futures[2]
    ends = go_on(env, env.reset(options={"state": saved})[1], 10**9)[2]
    assert ends[-1]["time"] == pytest.approx(infos[-1]["time"] + 60.0)


def test_starts_and_bad_reset_options():
    env = make().unwrapped
    with pytest.raises(LLMSchedError, match="reset"):
        env.step(0)
    empty, info = env.reset(seed=0)
    assert empty[:16].sum() == 0
    assert info["action_mask"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    filled, info = env.reset(seed=0, options={"start": "plan"})
    assert filled[8:10].sum() > 0.5
    for options in ({"begin": 1}, {"start": "warm"}, {"state": 3}):
        with pytest.raises(ConfigurationError, match="reset option"):
            env.reset(options=options)


def test_an_episode_survives_pickling_and_copying():
    env = make(horizon=100.0).unwrapped
    info = play(env, steps=200)[2][-1]
    expected = None
    for clone in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        rewards = go_on(clone, info, 200)[1]
        assert expected is None or np.array_equal(rewards, expected)
        expected = rewards
        assert clone.action_masks()[clone.action_space.sample()]
    np.testing.assert_array_equal(go_on(env, info, 200)[1], expected)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (7, "actions 0"),
        (-1, "actions 0"),
        ("impossible", "one of the possible actions 0.*action_mask"),
        (1.0, "an integer from 0 to 6"),
        (True, "an integer from 0 to 6"),
        (None, "an integer from 0 to 6"),
        ("go", "an integer from 0 to 6"),
        (np.array([1]), "an integer from 0 to 6"),
        ([0, 1], "an integer from 0 to 6"),
    ],
)
def test_bad_actions_are_one_clear_line_and_change_nothing(action, message):
    env = make().unwrapped
    info = play(env, steps=150)[2][-1]
    if action == "impossible":
        action = int(np.flatnonzero(info["action_mask"] == 0)[0])
    before = env.control.batch.snapshot(0)
    with pytest.raises(ConfigurationError, match=message) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    after = env.control.batch.snapshot(0)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
    env.step(np.int64(eager(info)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_gpus": 0},
        {"instance": "nowhere"},
        {"pricing": "free"},
        {"horizon": 0.0},
        {"router": "solo-first"},
        {"router": "coupled"},
        {"pools": "none"},
        {"wake_interval": 0.0},
        {"wake_interval": 1e-9},
        {"wake_interval": float("inf")},
        {"start": "warm"},
    ],
)
def test_bad_arguments_are_one_clear_line(kwargs):
    for build in (LLMSchedEventEnv, lambda **k: gym.make_vec("LLMSchedEvent-v0", **k)):
        with pytest.raises(LLMSchedError, match=r"got .*expected") as caught:
            build(**kwargs)
        assert "\n" not in str(caught.value)


def masked_choices(infos, rng):
    lots = np.where(infos["action_mask"], rng.random(infos["action_mask"].shape), -1.0)
    return lots.argmax(axis=1)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_environment_equals_single_ones(mode):
    kwargs = {**SMALL, "horizon": 4.0, "start": "plan"}
    native = gym.make_vec("LLMSchedEvent-v0", num_envs=3, autoreset_mode=mode, **kwargs)
    plain = gym.make_vec(
        "LLMSchedEvent-v0",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    assert native.metadata["autoreset_mode"] is mode
    rng, resets = np.random.default_rng(0), 0
    a, b = native.reset(seed=9), plain.reset(seed=9)
    np.testing.assert_array_equal(a[0], b[0])
    assert_same_infos(a[1], b[1])
    for step_number in range(400):
        actions = masked_choices(a[-1], rng)
        a, b = native.step(actions), plain.step(actions)
        for mine, theirs in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=str(step_number))
        assert ("final_obs" in a[4]) == ("final_obs" in b[4])
        if "final_obs" in a[4]:
            for mine, theirs in zip(a[4]["final_obs"], b[4]["final_obs"], strict=True):
                np.testing.assert_array_equal(mine, theirs)
            ended = a[4]["_final_info"]
            assert_same_infos(a[4]["final_info"], b[4]["final_info"], ended)
        assert_same_infos(a[4], b[4])
        resets += int(a[3].sum())
    assert resets > 5


def assert_same_infos(mine, theirs, where=slice(None)):
    assert set(theirs) <= set(mine)
    for name, value in theirs.items():
        if isinstance(value, dict):
            if name != "final_info":
                assert_same_infos(mine[name], value, where)
        elif "final" not in name and not name.startswith("_"):
            np.testing.assert_array_equal(mine[name][where], value[where], err_msg=name)


def growing():
    """Far too much work for requests that never leave: records must grow."""
    plain = lse.presets.overload().scaled(5.0).to_dict()
    for c in plain["classes"]:
        c["patience_rate"] = 0.0
    return plain


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
@pytest.mark.parametrize("instance", ["overload", "growing"])
def test_episodes_do_not_depend_on_threads(instance, mode):
    def episodes(threads):
        env = LLMSchedEventVectorEnv(
            10,
            mode,
            threads,
            n_gpus=2,
            instance=growing() if instance == "growing" else instance,
            horizon=9.0,
        )
        capacity = env.control.batch.states.requests.shape[1]
        rng = np.random.default_rng(0)
        seen = [env.reset(seed=3)]
        for _ in range(700):
            seen.append(env.step(masked_choices(seen[-1][-1], rng)))
        grown = env.control.batch.states.requests.shape[1] > capacity
        assert grown == (instance == "growing")
        return seen

    one = episodes(1)
    for threads in (2, 7):
        for mine, theirs in zip(episodes(threads), one, strict=True):
            for a, b in zip(mine[:-1], theirs[:-1], strict=True):
                np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(mine[-1]["counts"], theirs[-1]["counts"])


def test_one_impossible_action_stops_the_whole_vector_step():
    for finished in (0, 1):
        env = LLMSchedEventVectorEnv(4, **SMALL, start="plan")
        _, infos = env.reset(seed=0)
        if finished:
            # Environment 1 has ended: the others are not neighbours.
            env.control.end_at(1, 0.0)
            *_, infos = env.step(np.zeros(4, int))
            assert env._done.tolist() == [False, True, False, False]
        actions = np.zeros(4, int)
        actions[3] = np.flatnonzero(infos["action_mask"][3] == 0)[0]
        before = env.control.batch.states
        kept = [array.tobytes() for array in before]
        with pytest.raises(ConfigurationError, match="action of environment 3: got"):
            env.step(actions)
        assert kept == [array.tobytes() for array in env.control.batch.states]
        env.step(np.zeros(4, int))
        for wrong in (np.zeros(3, int), np.zeros(4), "go", np.full(4, 9)):
            with pytest.raises(ConfigurationError, match="action"):
                env.step(wrong)


def test_samples_of_the_vector_environment_are_possible():
    env = gym.make_vec("LLMSchedEvent-v0", num_envs=5, **SMALL)
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(300):
        actions = env.action_space.sample()
        assert env.action_space.contains(actions)
        env.step(actions)
    assert env.single_action_space == gym.spaces.Discrete(7)


def test_disabled_autoreset_wants_a_mask():
    env = LLMSchedEventVectorEnv(2, "DISABLED", **{**SMALL, "horizon": 0.001})
    env.reset(seed=0)
    while not (done := env.step(np.zeros(2, int))[3]).any():
        pass
    with pytest.raises(LLMSchedError, match="reset_mask"):
        env.step(np.zeros(2, int))
    env.reset(options={"reset_mask": done})
    env.step(np.zeros(2, int))


@pytest.mark.extended
def test_worker_processes():
    env = gym.make_vec(
        "llm_sched_env:LLMSchedEvent-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        **SMALL,
    )
    observations, infos = env.reset(seed=0)
    assert observations.shape == (2, 20)
    assert infos["action_mask"].shape == (2, 7)
    env.close()


def test_sb3_form_reports_the_end_of_episodes_and_masks():
    pytest.importorskip("stable_baselines3")
    masking = pytest.importorskip("sb3_contrib.common.maskable.utils")
    from llm_sched_env.envs.sb3 import LLMSchedEventSB3VecEnv

    env = LLMSchedEventSB3VecEnv(3, **{**SMALL, "horizon": 2.0}, start="plan")
    assert masking.is_masking_supported(env)
    env.seed(0)
    env.reset()
    rng, ended = np.random.default_rng(0), 0
    for _ in range(200):
        masks = masking.get_action_masks(env)
        assert masks.shape == (3, 7)
        assert masks.dtype == bool
        actions = masked_choices({"action_mask": masks}, rng)
        observations, _, dones, infos = env.step(actions)
        assert observations.shape == (3, 20)
        for k, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(dones[k])
            assert info.get("TimeLimit.truncated", False) == bool(dones[k])
            assert info["elapsed_seconds"] >= 0.0
            if dones[k]:
                assert info["time"] == 2.0
                assert not np.array_equal(info["terminal_observation"], observations[k])
        ended += int(dones.sum())
    assert ended > 3
    assert [mask.shape for mask in env.env_method("action_masks", indices=[2])] == [(7,)]
    env.close()


@pytest.mark.parametrize("form", ["native", "gymnasium"])
def test_maskable_ppo_trains(form):
    """Needs the extra ``agents``. A few hundred steps: it runs, learns something, stays legal."""
    contrib = pytest.importorskip("sb3_contrib")
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    from llm_sched_env.envs.sb3 import LLMSchedEventSB3VecEnv

    torch.set_num_threads(1)
    kwargs = {**SMALL, "start": "plan"}
    if form == "native":
        env = LLMSchedEventSB3VecEnv(4, **kwargs)
    else:
        env = make_vec_env("LLMSchedEvent-v0", 2, env_kwargs=kwargs)
    agent = contrib.MaskablePPO("MlpPolicy", env, n_steps=32, batch_size=64, seed=0, device="cpu")
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(300)
    changed = [not bool((a == b).all()) for a, b in zip(before, agent.policy.parameters(),
                                                        strict=True)]  # fmt: skip
    assert all(changed)
    single = make(start="plan").unwrapped
    observation, _ = single.reset(seed=1)
    for _ in range(100):
        action, _ = agent.predict(observation, action_masks=single.action_masks())
        observation, *_ = single.step(action)


@pytest.mark.extended
@pytest.mark.slow
def test_maskable_ppo_learns_to_serve():
    """A fresh network mostly waits; some thousand decisions later it earns most of R*."""
    contrib = pytest.importorskip("sb3_contrib")
    import torch

    from llm_sched_env.envs.sb3 import LLMSchedEventSB3VecEnv

    class Agent:
        environment = {"control": "event", "router": "agent", "pools": "dynamic"}  # noqa: RUF012

        def reset(self, instance, plan, n_gpus, rng):
            pass

        def act(self, observation, info):
            masks = info["action_mask"] != 0
            return int(network.predict(observation, action_masks=masks, deterministic=True)[0])

    torch.set_num_threads(1)
    env = LLMSchedEventSB3VecEnv(
        16, instance="overload", n_gpus=2, horizon=120.0, start="plan", pools="dynamic"
    )
    env.seed(0)
    network = contrib.MaskablePPO(
        "MlpPolicy", env, n_steps=128, batch_size=512, gamma=0.998, seed=0, device="cpu"
    )
    settings = {"horizon": 200.0, "warmup": 50.0, "replications": 1}
    before = lse.evaluate(Agent(), "overload", 2, **settings).score.mean
    network.learn(20_000)
    after = lse.evaluate(Agent(), "overload", 2, **settings).score.mean
    assert before < 0.3
    assert after > 0.6
