"""``LLMSched-v0`` and its vector and stable-baselines3 forms."""

from __future__ import annotations

import copy
import math
import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import llm_sched_env as lse
from llm_sched_env.envs.interval_env import LLMSchedEnv
from llm_sched_env.envs.observation import feature_names, feature_slices
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError, LLMSchedError
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.state.layout import OCCUPANCIES

OVERLOAD = {"instance": "overload", "n_gpus": 5}


def make(**kwargs):
    return gym.make("LLMSched-v0", **{**OVERLOAD, **kwargs})


def plan_run(env, steps, seed=0):
    """Observations and rewards of the plan's constant action."""
    observation, _ = env.reset(seed=seed)
    observations, rewards = [observation], []
    for _ in range(steps):
        observation, reward, *_ = env.step(env.unwrapped.plan_action)
        observations.append(observation)
        rewards.append(reward)
    return np.array(observations), np.array(rewards)


def test_spaces_are_those_of_the_contract():
    env = make()
    assert env.action_space == gym.spaces.Box(0, 1, (5,), np.float32)
    assert env.observation_space == gym.spaces.Box(0, 1, (16,), np.float32)
    assert len(feature_names(lse.presets.overload())) == 16
    plan = lse.plan("overload")
    expected = [*plan.admission_fraction, *plan.solo_probability, plan.mixed_fraction]
    np.testing.assert_allclose(env.unwrapped.plan_action, expected, rtol=1e-6)
    assert make(controls=["admission", "pool"]).action_space.shape == (3,)
    assert make(controls="routing").action_space.shape == (2,)


def test_the_gate_by_bid_price_takes_ranks_instead_of_rates():
    env = make(gate="net-value", pools="dynamic", router="net-value", start="plan")
    assert env.action_space.shape == (2 + 1 + 2 * 2,)
    action = env.unwrapped.plan_action
    reserve = slot_ranks(lse.plan("overload"), 5).reserve[0]
    kept = math.ceil(reserve) - 0.5  # as many whole slots, whatever the rounding
    np.testing.assert_allclose(action[3:], [0.0, 1.0, kept / (1 + kept), 0.0], rtol=1e-6)
    ranks = {"gate": "net-value", "controls": ["priority", "reserve"]}
    assert make(**ranks).action_space.shape == (4,)
    assert make(gate="net-value", controls="reserve").action_space.shape == (2,)
    for wrong in ({"gate": "net-value", "controls": "admission"}, {"controls": ["reserve"]}):
        with pytest.raises(ConfigurationError, match="gate="):
            make(**wrong)


def test_a_reserve_of_all_keeps_a_class_out_and_none_lets_it_in():
    env = make(gate="net-value", pools="dynamic", router="solo-first", controls="reserve")

    def admitted(action):
        env.reset(seed=2)
        for _ in range(60):
            env.step(np.array(action, np.float32))
        return env.unwrapped.control.batch.metrics(0).counts["admitted"]

    assert (admitted([1.0, 1.0]) == 0).all()
    first, second = admitted([0.0, 1.0]), admitted([1.0, 0.0])
    assert first[0] > 0 == first[1]
    assert second[1] > 0 == second[0]
    slots = 5 * 16
    assert admitted([slots / (1 + slots), 1.0])[0] > 0  # while the whole cluster is free
    assert admitted([(slots + 1) / (2 + slots), 1.0])[0] == 0


@pytest.mark.parametrize("n_gpus", [1, 7, 400])
def test_counts_are_those_that_the_observation_shows(n_gpus):
    instance = lse.presets.overload()
    where = feature_slices(instance)
    assert [s.stop for s in where.values()] == [2, 4, 6, 8, 10, 12, 13, 14, 15, 16]
    env = LLMSchedEnv(n_gpus, instance=instance, horizon=100.0)
    observation, info = env.reset(seed=3)
    for _ in range(60):
        counts = info["counts"]
        assert (counts.dtype, counts.shape) == (np.int64, (5, 2))
        per_gpu = counts / n_gpus
        shown = {name: observation[where[name]] for name in OCCUPANCIES}
        for name, own in zip(OCCUPANCIES, per_gpu, strict=True):
            scale = {"y_mixed": 15.0, "y_solo": 16.0}.get(name, 1.0)
            expected = own / (1.0 + own) if name.startswith("q_") else own / scale
            np.testing.assert_allclose(shown[name], expected, rtol=1e-6)
        free = 1.0 - counts[[1, 3, 4]].sum() / (16 * n_gpus)
        np.testing.assert_allclose(observation[where["free slots"]], free, atol=1e-6)
        observation, _, _, _, info = env.step(env.action_space.sample())
    assert info["counts"].sum() > 0


def test_mean_reward_is_the_score():
    env = make(n_gpus=20, start="plan", horizon=2000)
    _, rewards = plan_run(env, 2000)
    metrics = env.unwrapped.control.batch.metrics(0)
    score = metrics.revenue_rate("bundled") / env.unwrapped.plan.value
    assert rewards.mean() == pytest.approx(score, rel=1e-9)
    assert 0.9 < score < 1.02


@pytest.mark.parametrize("pricing", ["bundled", "separate"])
def test_revenue_terms_add_up_to_the_reward(pricing):
    env = make(pricing=pricing, interval=2.0)
    env.reset(seed=0)
    for _ in range(40):
        _, reward, _, _, info = env.step(env.unwrapped.plan_action)
        total = sum(info["revenue"].values())
        assert reward == pytest.approx(total / (5 * 2.0 * env.unwrapped.plan.value))
    assert info["time"] == 80.0
    assert info["revenue"]["prompt"] >= 0


def test_episode_is_truncated_at_the_horizon_and_never_terminated():
    env = make(horizon=10, interval=0.5)
    env.reset(seed=0)
    flags = [env.step(env.unwrapped.plan_action)[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]
    assert type(flags[-1][1]) is bool


def test_same_seed_same_episode_and_environments_do_not_mix():
    alone = [plan_run(make(), 60, seed) for seed in (1, 2)]
    first, second = make(), make()
    together = [[first.reset(seed=1)[0]], [second.reset(seed=2)[0]]]
    for _ in range(60):
        for env, seen in zip((first, second), together, strict=True):
            seen.append(env.step(env.unwrapped.plan_action)[0])
    for (observations, _), seen in zip(alone, together, strict=True):
        np.testing.assert_array_equal(observations, np.array(seen))
    assert not np.array_equal(together[0][-1], together[1][-1])


def test_episodes_differ_unless_seeded():
    env = make(start="plan")
    a, b = plan_run(env, 30, seed=5)[1], plan_run(env, 30, seed=None)[1]
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, plan_run(env, 30, seed=5)[1])


def test_observations_are_fresh_and_in_the_space():
    env = make(start="plan")
    rng = np.random.default_rng(0)
    seen, _ = env.reset(seed=0)
    kept = seen.copy()
    for _ in range(50):
        observation, *_ = env.step(rng.random(5, dtype=np.float32))
        assert env.observation_space.contains(observation)
        assert observation is not seen
    np.testing.assert_array_equal(seen, kept)


def test_observation_shows_the_state():
    env = make(n_gpus=4, start="plan")
    observation, _ = env.reset(seed=0)
    for _ in range(30):
        observation, *_ = env.step(env.unwrapped.plan_action)
    classes = env.unwrapped.control.batch.state(0).classes
    q = classes["q_prefill"] / 4
    np.testing.assert_allclose(observation[:2], q / (1 + q), rtol=1e-6)
    np.testing.assert_allclose(observation[2:4], classes["x"] / 4, rtol=1e-6)
    np.testing.assert_allclose(observation[6:8], classes["y_mixed"] / (4 * 15), rtol=1e-6)
    np.testing.assert_allclose(observation[8:10], classes["y_solo"] / (4 * 16), rtol=1e-6)


def test_true_lengths_and_patience_never_reach_an_observation():
    """Doubling the hidden remaining lengths and patience of all requests changes nothing seen."""
    env = make(start="plan")
    env.reset(seed=0)
    for _ in range(30):
        env.step(env.unwrapped.plan_action)
    before = env.unwrapped.control.observations()
    state = env.unwrapped.control.batch.state(0)
    state.requests["prompt_tokens"] *= 2
    state.requests["output_tokens"] *= 2
    state.decode_marks[:] *= 2
    state.gpus["prefill_mark"] *= 2
    state.patience_keys[:] *= 2
    np.testing.assert_array_equal(env.unwrapped.control.observations(), before)


def test_starts():
    env = make()
    empty, _ = env.reset(seed=0)
    assert empty[:10].sum() == 0
    filled, _ = env.reset(seed=0, options={"start": "plan"})
    assert filled[8:10].sum() > 0.5
    assert make(start="plan").reset(seed=0)[0] == pytest.approx(filled)


def test_saved_state_continues():
    env = make()
    plan_run(env, 40)
    saved = env.unwrapped.save_state()
    observation = env.unwrapped.control.observations()[0]
    restored, info = env.reset(seed=7, options={"state": saved})
    np.testing.assert_array_equal(restored, observation)
    assert info["time"] == 40.0
    futures = []
    for seed in (7, 7, 8):
        env.reset(seed=seed, options={"state": saved})
        futures.append([env.step(env.unwrapped.plan_action)[1] for _ in range(30)])
    assert futures[0] == futures[1] != futures[2]


def test_an_episode_survives_pickling_and_copying():
    env = make().unwrapped
    plan_run(env, 20)
    for clone in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        expected = [clone.step(clone.plan_action)[1] for _ in range(20)]
        assert len(expected) == 20
    assert expected == [env.step(env.plan_action)[1] for _ in range(20)]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.full(5, np.nan), "finite numbers in"),
        (np.full(5, 1.5), "finite numbers in"),
        (np.full(5, -0.1), "finite numbers in"),
        (np.zeros(4), "shape"),
        (np.zeros((1, 5)), "shape"),
        ("go", "numbers of shape"),
    ],
)
def test_bad_actions_are_one_clear_line_and_change_nothing(action, message):
    env = make().unwrapped
    plan_run(env, 10)
    before = env.control.batch.snapshot(0)
    with pytest.raises(ConfigurationError, match=message) as caught:
        env.step(action)
    assert "\n" not in str(caught.value)
    after = env.control.batch.snapshot(0)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"n_gpus": 0},
        {"n_gpus": 2.5},
        {"instance": "nowhere"},
        {"pricing": "free"},
        {"interval": 0},
        {"interval": float("nan")},
        {"horizon": 0.5},
        {"gate": "none"},
        {"router": "none"},
        {"pools": "none"},
        {"controls": []},
        {"controls": ["admission", "admission"]},
        {"controls": ["everything"]},
        {"controls": ["routing"], "router": "solo-first"},
        {"controls": ["pool"], "pools": "dynamic"},
        {"router": "coupled"},
        {"start": "warm"},
    ],
)
def test_bad_arguments_are_one_clear_line(kwargs):
    for build in (LLMSchedEnv, lambda **k: gym.make_vec("LLMSched-v0", **k)):
        with pytest.raises(LLMSchedError, match=r"got .*expected|needs .*got") as caught:
            build(**kwargs)
        assert "\n" not in str(caught.value)


def test_bad_reset_options_and_steps_before_reset():
    env = make().unwrapped
    with pytest.raises(LLMSchedError, match="reset"):
        env.step(env.plan_action)
    for options in ({"begin": 1}, {"start": "warm"}, {"state": 3}):
        with pytest.raises(ConfigurationError, match="reset option"):
            env.reset(options=options)


def test_render_shows_every_class():
    env = make(render_mode="ansi")
    env.reset(seed=0)
    text = env.render()
    assert "decode-heavy" in text
    assert "prefill-heavy" in text


@pytest.mark.extended
def test_worker_processes():
    """Spawned workers of Gymnasium, and the way stable-baselines3 makes environments."""
    env = gym.make_vec(
        "llm_sched_env:LLMSched-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        **OVERLOAD,
    )
    assert env.reset(seed=0)[0].shape == (2, 16)
    env.close()
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    vec_env = env_util.make_vec_env("LLMSched-v0", 2, seed=0, env_kwargs=OVERLOAD)
    assert vec_env.reset().shape == (2, 16)
    assert vec_env.step(np.full((2, 5), 0.5))[1].shape == (2,)
    vec_env.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_environment_equals_single_ones(mode):
    kwargs = {**OVERLOAD, "horizon": 12, "start": "plan"}
    native = gym.make_vec("LLMSched-v0", num_envs=3, autoreset_mode=mode, **kwargs)
    plain = gym.make_vec(
        "LLMSched-v0",
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **kwargs,
    )
    assert native.metadata["autoreset_mode"] is mode
    rng = np.random.default_rng(0)
    a, b = native.reset(seed=9), plain.reset(seed=9)
    np.testing.assert_array_equal(a[0], b[0])
    for step in range(40):
        actions = rng.random((3, 5), dtype=np.float32)
        a, b = native.step(actions), plain.step(actions)
        for mine, theirs in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, theirs, err_msg=str(step))
        for name in ("prompt", "output"):
            np.testing.assert_allclose(a[4]["revenue"][name], b[4]["revenue"][name])
        assert ("final_obs" in a[4]) == ("final_obs" in b[4])
        if "final_obs" in a[4]:
            np.testing.assert_array_equal(np.stack(a[4]["final_obs"]), np.stack(b[4]["final_obs"]))


def test_disabled_autoreset_wants_a_mask():
    native = gym.make_vec(
        "LLMSched-v0", num_envs=2, autoreset_mode="DISABLED", horizon=2, **OVERLOAD
    )
    native.reset(seed=0)
    actions = np.zeros((2, 5), np.float32)
    native.step(actions)
    assert native.step(actions)[3].all()
    with pytest.raises(LLMSchedError, match="reset_mask"):
        native.step(actions)
    native.reset(options={"reset_mask": np.array([True, True])})
    assert not native.step(actions)[3].any()
    with pytest.raises(ConfigurationError, match="autoreset_mode"):
        gym.make_vec("LLMSched-v0", num_envs=2, autoreset_mode="LATER")


def test_sb3_form_reports_the_end_of_episodes():
    pytest.importorskip("stable_baselines3")
    from llm_sched_env.envs.sb3 import LLMSchedSB3VecEnv

    env = LLMSchedSB3VecEnv(2, horizon=3, start="plan", **OVERLOAD)
    env.seed(0)
    env.reset()
    for step in range(1, 7):
        observations, rewards, dones, infos = env.step(np.full((2, 5), 0.5, np.float32))
        assert observations.shape == (2, 16)
        assert rewards.shape == (2,)
        assert dones.tolist() == [step % 3 == 0] * 2
        for k, info in enumerate(infos):
            assert ("terminal_observation" in info) == bool(dones[k])
            assert info.get("TimeLimit.truncated", False) == bool(dones[k])
    assert not np.array_equal(infos[0]["terminal_observation"], observations[0])
    env.close()


def test_a_step_that_only_resets_still_checks_its_actions():
    env = LLMSchedVectorEnv(2, horizon=2.0)
    env.reset(seed=0)
    actions = env.action_space.sample()
    for _ in range(2):
        *_, truncated, _ = env.step(actions)
    assert truncated.all()
    with pytest.raises(ConfigurationError, match="action"):
        env.step(actions + 2.0)
    env.step(actions)
    assert env.control.times().tolist() == [0.0, 0.0]
