"""Every form of an environment keeps the same promises: options, infos, ends, limits, pictures.

Gymnasium's ``SyncVectorEnv`` and stable-baselines3's ``DummyVecEnv`` of single environments say
what the native forms have to do.
"""

from __future__ import annotations

import inspect
import pickle
import re
import sys
import types
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from llm_sched_env.envs.configuration import IntervalArguments, IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventArguments, EventConfiguration
from llm_sched_env.envs.event_env import LLMSchedEventEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.envs.interval_env import LLMSchedEnv
from llm_sched_env.envs.routing_configuration import RoutingArguments, RoutingConfiguration
from llm_sched_env.envs.routing_env import LLMSchedRoutingEnv
from llm_sched_env.envs.routing_vector_env import LLMSchedRoutingVectorEnv
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError, LLMSchedError

N = 3
INTERVAL, EVENT, ROUTING = "LLMSched-v0", "LLMSchedEvent-v0", "LLMSchedRouting-v0"
ARGUMENTS: dict[str, dict[str, Any]] = {
    INTERVAL: {
        "instance": "overload",
        "n_gpus": 3,
        "horizon": 5.0,
        "slos": ["tpot@price=3000", "prefill-fairness@price=1"],
        "costs": ["deadline-misses", "prefill-fairness"],
    },
    EVENT: {"instance": "overload", "n_gpus": 3, "horizon": 2.0, "budgets": {"tpot": 0.024}},
    ROUTING: {
        "instance": "overload",
        "n_gpus": 3,
        "horizon": 5.0,
        "candidates": 2,
        "costs": ["deadline-misses", "abandonment"],
    },
}
SINGLE = {INTERVAL: LLMSchedEnv, EVENT: LLMSchedEventEnv, ROUTING: LLMSchedRoutingEnv}
NATIVE = {
    INTERVAL: LLMSchedVectorEnv,
    EVENT: LLMSchedEventVectorEnv,
    ROUTING: LLMSchedRoutingVectorEnv,
}

TAKEN = {
    INTERVAL: (IntervalArguments, IntervalConfiguration),
    EVENT: (EventArguments, EventConfiguration),
    ROUTING: (RoutingArguments, RoutingConfiguration),
}

every_id = pytest.mark.parametrize("id_", [INTERVAL, EVENT, ROUTING])
every_mode = pytest.mark.parametrize("mode", list(AutoresetMode))


def single(id_, **kwargs):
    return SINGLE[id_](**{**ARGUMENTS[id_], **kwargs})


def native(id_, num_envs=N, **kwargs):
    return gym.make_vec(id_, num_envs=num_envs, **{**ARGUMENTS[id_], **kwargs})


def synchronous(id_, mode=AutoresetMode.NEXT_STEP, **kwargs):
    return gym.make_vec(
        id_,
        num_envs=N,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **{**ARGUMENTS[id_], **kwargs},
    )


def native_sb3(id_, num_envs=N, **kwargs):
    sb3 = pytest.importorskip("llm_sched_env.envs.sb3", reason="needs the extra agents")
    form = {
        INTERVAL: sb3.LLMSchedSB3VecEnv,
        EVENT: sb3.LLMSchedEventSB3VecEnv,
        ROUTING: sb3.LLMSchedRoutingSB3VecEnv,
    }[id_]
    return form(num_envs, **{**ARGUMENTS[id_], **kwargs})


def dummy(id_, **kwargs):
    vec_env = pytest.importorskip("stable_baselines3.common.vec_env", reason="needs SB3")
    arguments = {**ARGUMENTS[id_], **kwargs}
    return vec_env.DummyVecEnv([lambda: gym.make(id_, **arguments)] * N)


def drawn_actions(id_, rng, masks):
    """Random actions for N environments, possible ones under event control."""
    if id_ == INTERVAL:
        return rng.random((N, 5), dtype=np.float32)
    return np.where(masks, rng.random(masks.shape), -1.0).argmax(axis=1)


def idle(id_, num_envs=N):
    """The action that is possible whatever the state."""
    if id_ == INTERVAL:
        return np.zeros((num_envs, 5), np.float32)
    # To wait, or to send a request to the GPU with the least load.
    return np.full(num_envs, {EVENT: 0, ROUTING: 2}[id_])


def sb3_masks(id_, env):
    return np.array(env.env_method("action_masks")) if id_ != INTERVAL else None


def assert_same(mine, theirs):
    """Equal values of equal types under equal keys."""
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert set(mine) == set(theirs)
        for name, value in mine.items():
            assert_same(value, theirs[name])
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert_same(a, b)
    else:
        assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None)
        np.testing.assert_array_equal(mine, theirs)


def assert_same_where_told(mine, theirs):
    """Vector infos agree wherever Gymnasium's say that they tell something."""
    assert {name for name in mine if "final" not in name} >= {
        name for name in theirs if "final" not in name
    }
    for name, value in theirs.items():
        if name.startswith("_") or "final" in name:
            continue
        where = theirs[f"_{name}"]
        if isinstance(value, dict):
            assert_same_where_told(mine[name], value)
        else:
            assert mine[name].dtype == value.dtype
            np.testing.assert_array_equal(mine[name][where], value[where])


# Options and infos


OPTIONS = {
    "none": lambda _: None,
    "for all": lambda _: {"start": "plan"},
    "for each": lambda _: [{"start": "plan"}, {}, {"start": "empty"}],
    "saved states": lambda env: [{"state": state} for state in env.env_method("save_state")],
}


@every_id
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("limit", [None, 4])
def test_sb3_forms_are_dummy_environments(id_, options, limit):
    forms = [build(id_, max_episode_steps=limit) for build in (native_sb3, dummy)]
    rng, ended = np.random.default_rng(0), 0
    for env in forms:
        env.seed(1)
        env.reset()
    for _ in range(3):  # so that saved states differ from the first ones
        actions = drawn_actions(id_, rng, sb3_masks(id_, forms[0]))
        for env in forms:
            env.step(actions)
    for env in forms:
        env.set_options(OPTIONS[options](env))
        env.seed(5)
    for _ in range(2):  # the second reset: options and seeds are used once
        mine, theirs = (env.reset() for env in forms)
        np.testing.assert_array_equal(mine, theirs)
        assert_same(*(list(env.reset_infos) for env in forms))
        for _ in range(40):
            actions = drawn_actions(id_, rng, sb3_masks(id_, forms[0]))
            mine, theirs = (env.step(actions) for env in forms)
            assert_same(mine, theirs)
            assert_same(*(list(env.reset_infos) for env in forms))
            ended += int(mine[2].sum())
    assert ended >= N


@every_id
def test_options_start_what_they_say_and_are_used_once(id_):
    env = native_sb3(id_)
    env.seed(0)
    empty = env.reset()
    env.set_options([{"start": "plan"}, {}, {"start": "plan"}])
    env.seed(0)
    mixed = env.reset()
    decodes = mixed[:, -2 if id_ == ROUTING else slice(6, 10)].reshape(N, -1).sum(axis=1)
    assert (decodes > 0).tolist() == [True, False, True]
    np.testing.assert_array_equal(mixed[1], empty[1])
    env.seed(0)
    np.testing.assert_array_equal(env.reset(), empty)


def resets(id_):
    """How each form takes one set of reset options."""
    sb3 = native_sb3(id_)

    def by_set_options(options):
        sb3.set_options(options)
        sb3.reset()

    return {
        "single": lambda options: single(id_).reset(options=options),
        "native": lambda options: native(id_).reset(options=options),
        "sync": lambda options: synchronous(id_).reset(options=options),
        "sb3": by_set_options,
    }


@every_id
@pytest.mark.parametrize("form", ["single", "native", "sync", "sb3"])
@pytest.mark.parametrize(
    "options",
    [
        {"nonsense": 1},
        {"start": "warm"},
        {"start": None},
        {"state": 3},
        {"start": "plan", "state": 3},
        {1: 2},
    ],
)
def test_wrong_options_are_one_clear_line_in_every_form(id_, form, options):
    with pytest.raises(ConfigurationError, match="reset option") as caught:
        resets(id_)[form](options)
    assert "\n" not in str(caught.value)


@every_id
def test_sb3_options_are_a_dict_or_one_for_each(id_):
    env = native_sb3(id_)
    for wrong in ([{"start": "plan"}], [{}] * 4, ["plan"] * N):
        env.set_options(wrong)
        with pytest.raises(ConfigurationError, match="reset options"):
            env.reset()


@every_id
def test_infos_of_all_forms_have_the_same_keys(id_):
    alone = single(id_)
    _, first = alone.reset(seed=0)
    *_, later = alone.step(idle(id_, 1)[0])
    assert set(first) == set(later)
    vector = native(id_)
    sb3 = native_sb3(id_)
    sb3.reset()
    told = [vector.reset(seed=0)[1], vector.step(idle(id_))[-1]]
    for infos in told:
        assert {name for name in infos if not name.startswith("_")} == set(first)
        assert {name for name in infos if name.startswith("_")} == {f"_{n}" for n in first}
    extra = {"TimeLimit.truncated"}
    for info in sb3.reset_infos:
        assert set(info) == set(first)
    for info in sb3.step(idle(id_))[-1]:
        assert set(info) == set(first) | extra


@every_id
def test_a_reset_that_fails_leaves_the_episode_as_it_was(id_):
    """The state of another cluster is refused; the horizon stays where it was."""
    other = single(id_, n_gpus=2)
    other.reset(seed=0)
    env = single(id_)
    env.reset(seed=0)
    env.step(idle(id_, 1)[0])
    with pytest.raises(ConfigurationError, match="snapshot"):
        env.reset(options={"state": other.save_state()})
    truncated = False
    while not truncated:
        *_, truncated, info = env.step(idle(id_, 1)[0])
    assert info["time"] == ARGUMENTS[id_]["horizon"]


@every_id
def test_wrong_seeds_move_nothing(id_):
    env = native(id_)
    before, _ = env.reset(seed=3)
    for wrong in (-1, 1.5, "3", True, [1, 2], [1, -2, None], [1, 2, 0.5]):
        with pytest.raises(ConfigurationError, match="seed"):
            env.reset(seed=wrong)
    np.testing.assert_array_equal(env.control.observations(), before)


# After the end


def play_to_the_end(env, action):
    """Until the first episode ends."""
    truncated = False
    while not np.any(truncated):
        *_, truncated, _ = env.step(action)


@every_id
def test_a_step_without_a_running_episode_is_an_error_in_every_form(id_):
    horizon = f"{ARGUMENTS[id_]['horizon']:g} s"
    alone, made = single(id_), gym.make(id_, **ARGUMENTS[id_])
    disabled = native(id_, autoreset_mode="DISABLED")
    forms = [(alone, 1), (disabled, N), (native(id_), N), (native_sb3(id_), N)]
    for env, n in [*forms, (made, 1)]:
        action = idle(id_, n) if n > 1 else idle(id_, 1)[0]
        # Gymnasium's OrderEnforcing speaks first where it is: the same kind of error.
        with pytest.raises(gym.error.ResetNeeded, match="reset"):
            env.step(action)
    for env, n, end in (
        (alone, 1, horizon),
        (made, 1, horizon),
        (disabled, N, "the episode has ended in"),
    ):
        action = idle(id_, n) if n > 1 else idle(id_, 1)[0]
        env.reset(seed=0)
        play_to_the_end(env, action)
        for _ in range(2):
            with pytest.raises(LLMSchedError, match=r"Call `reset\(\)`.* before `step\(\)`") as e:
                env.step(action)
            assert end in str(e.value)
            assert "\n" not in str(e.value)
        env.reset()
        env.step(action)


@every_id
def test_nothing_is_paid_after_the_end(id_):
    env = single(id_, start="plan")
    env.reset(seed=0)
    play_to_the_end(env, idle(id_, 1)[0])
    before = env.control.batch.snapshot(0)
    with pytest.raises(LLMSchedError):
        env.step(idle(id_, 1)[0])
    after = env.control.batch.snapshot(0)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))


@every_mode
def test_a_first_reset_of_some_leaves_the_others_to_be_reset(mode):
    env = native(INTERVAL, autoreset_mode=mode)
    env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(LLMSchedError, match="no episode has begun in environments 1, 2"):
        env.step(idle(INTERVAL))
    env.reset(options={"reset_mask": np.array([False, True, True])})
    env.step(idle(INTERVAL))


@every_id
@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array"])
@pytest.mark.parametrize("horizon", [2.0, 20.0])
def test_gymnasium_checker_has_nothing_to_say(id_, horizon, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(id_, **{**ARGUMENTS[id_], "horizon": horizon}, render_mode=mode)
        check_env(env.unwrapped)


@every_id
@pytest.mark.parametrize("horizon", [2.0, 20.0])
def test_sb3_checker_has_nothing_to_say(id_, horizon):
    """Its ten steps are more than a short episode has."""
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="needs SB3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(id_, **{**ARGUMENTS[id_], "horizon": horizon})
        checker.check_env(gym.wrappers.RescaleAction(env, -1, 1) if id_ == INTERVAL else env)


def rewards_of_an_episode(env):
    """Under the plan's action, or at events under the last possible one."""
    _, info = env.reset(seed=0)
    rewards, truncated = [], False
    while not truncated:
        possible = info.get("action_mask")
        action = env.unwrapped.plan_action if possible is None else np.flatnonzero(possible)[-1]
        _, reward, _, truncated, info = env.step(action)
        rewards.append(reward)
    return rewards


@every_id
def test_a_spec_is_plain_data_and_makes_the_same_environment(id_):
    other = {
        INTERVAL: {"controls": ["admission"]},
        EVENT: {"wake_interval": 0.5},
        ROUTING: {"load": "requests"},
    }[id_]
    env = gym.make(id_, **ARGUMENTS[id_], **other)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space
    assert rewards_of_an_episode(again) == rewards_of_an_episode(env)


# Arguments


@every_id
def test_arguments_stand_in_one_place_with_their_meaning_and_default(id_):
    arguments, configuration = TAKEN[id_]
    taken = inspect.signature(configuration.validated).parameters
    assert taken.keys() - {"n_gpus"} == arguments.__annotations__.keys()
    entries = re.split(r"^    (?=\w+: )", inspect.getdoc(arguments), flags=re.MULTILINE)[1:]
    meaning = dict(" ".join(entry.split()).split(": ", 1) for entry in entries)
    assert list(meaning) == list(arguments.__annotations__)
    for name, text in meaning.items():
        if (default := taken[name].default) not in (None, ()):
            shown = str(default).removesuffix(".0")
            stated = rf"{shown}\W* \(default\)|default \W*{shown}\b"
            assert re.search(stated, text), name


SPACES = {
    INTERVAL: ("Box(0, 1, (2I + 1,), float32)", "Box(0, 1, (6I + 4,), float32)"),
    EVENT: ("Discrete(1 + 3I)", "Box(0, 1, (8I + 4,), float32)"),
    ROUTING: ("Discrete(2kG)", "Box(0, 1, (I + 7A + 3G,), float32)"),
}


@every_id
def test_the_docstring_has_the_spaces_and_the_arguments_of_the_form(id_):
    doc = inspect.getdoc(SINGLE[id_])
    assert all(space in doc for space in SPACES[id_])
    own = set(inspect.signature(SINGLE[id_]).parameters) - {"arguments"}
    assert own == set(re.findall(r"^- ``(\w+)``:", doc, re.MULTILINE))


@every_id
def test_every_form_takes_them(id_):
    arguments, configuration = TAKEN[id_]
    default = inspect.signature(configuration.validated).parameters["n_gpus"].default
    for form in (SINGLE[id_], NATIVE[id_]):
        parameters = inspect.signature(form).parameters
        assert parameters["n_gpus"].default == default
        assert parameters["arguments"].annotation == f"Unpack[{arguments.__name__}]"
        with pytest.raises(TypeError, match="gpus"):
            form(gpus=3)


# What make_vec takes


@every_id
@every_mode
def test_limits_of_steps_are_those_of_gymnasium(id_, mode):
    limited = {"max_episode_steps": 3}
    mine = native(id_, autoreset_mode=mode, **limited)
    theirs = synchronous(id_, mode, **limited)
    rng, lengths = np.random.default_rng(0), np.zeros(N, int)
    a, b = mine.reset(seed=2), theirs.reset(seed=2)
    np.testing.assert_array_equal(a[0], b[0])
    ends = 0
    for _ in range(30):
        actions = drawn_actions(id_, rng, a[-1].get("action_mask"))
        a, b = mine.step(actions), theirs.step(actions)
        for x, y in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(x, y)
        assert_same_where_told(a[-1], b[-1])
        lengths += 1
        truncated = a[3]
        assert (lengths <= 3 + (mode is AutoresetMode.NEXT_STEP)).all()
        ends += int(truncated.sum())
        if mode is AutoresetMode.DISABLED and truncated.any():
            a = mine.reset(options={"reset_mask": truncated.copy()})
            b = theirs.reset(options={"reset_mask": truncated.copy()})
            np.testing.assert_array_equal(a[0], b[0])
        lengths[truncated] = 0
    assert ends >= 3 * (30 // 4)


@every_id
@pytest.mark.parametrize("none", [None, -1])
def test_no_limit_of_steps(id_, none):
    a, b = native(id_, max_episode_steps=none), native(id_)
    rng = np.random.default_rng(0)
    seen = [env.reset(seed=0) for env in (a, b)]
    for _ in range(12):
        actions = drawn_actions(id_, rng, seen[0][-1].get("action_mask"))
        seen = [env.step(actions) for env in (a, b)]
        for x, y in zip(seen[0][:4], seen[1][:4], strict=True):
            np.testing.assert_array_equal(x, y)


@every_id
def test_modes_by_name_value_and_member(id_):
    for mode in AutoresetMode:
        for name in (mode, mode.value, mode.name, mode.name.lower()):
            env = native(id_, 1, autoreset_mode=name)
            assert env.metadata["autoreset_mode"] is mode


@every_id
@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("autoreset_mode", ["LATER", "", None, 1]),
        ("max_episode_steps", [0, -2, 2.5, "3", True]),
        ("render_mode", ["human", "rgb_array_list", 3]),
        ("threads", [0, 1.5]),
        ("num_envs", [0, 1.5]),
    ],
)
def test_wrong_arguments_of_the_vector_forms_are_one_clear_line(id_, argument, wrong):
    for value in wrong:
        with pytest.raises(ConfigurationError, match=f"{argument}: got") as caught:
            NATIVE[id_](**{**ARGUMENTS[id_], argument: value})
        assert "\n" not in str(caught.value)
        if argument != "autoreset_mode":
            with pytest.raises(ConfigurationError, match=f"{argument}: got"):
                native_sb3(id_, **{argument: value})


NAMED = {
    INTERVAL: ["controls", "start", "router", "gate", "pools", "pricing"],
    EVENT: ["start", "router", "pools", "pricing"],
    ROUTING: ["start", "load", "scheduler", "pricing"],
}


@pytest.mark.parametrize("wrong", [5, None, ["x"], {"pool": 1}, np.array(["plan", "pool"])])
@pytest.mark.parametrize(
    ("id_", "argument"), [(id_, argument) for id_ in NAMED for argument in NAMED[id_]]
)
def test_names_of_another_type_are_one_clear_line(id_, argument, wrong):
    with pytest.raises(ConfigurationError, match=f"{argument}: got"):
        single(id_, **{argument: wrong})


@every_id
def test_specs_of_vector_forms_are_plain_data(id_):
    env = native(id_, autoreset_mode="SameStep", max_episode_steps=3, render_mode="ansi")
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.num_envs == N
    assert again.render_mode == "ansi"
    assert again.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    for one in (env, again):
        one.reset(seed=0)
    for step in range(1, 7):
        a, b = (one.step(idle(id_)) for one in (env, again))
        np.testing.assert_array_equal(a[0], b[0])
        assert a[3].tolist() == b[3].tolist() == [step % 3 == 0] * N


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2", 3, 8])
def test_groups_of_the_same_requests_divide_the_environments(wrong):
    with pytest.raises(ConfigurationError, match="same_requests: got"):
        native_sb3(INTERVAL, 4, same_requests=wrong)


@pytest.mark.parametrize("seeded", [True, False])
def test_groups_share_their_requests_also_without_a_seed(seeded):
    env = native_sb3(INTERVAL, 4, same_requests=2, n_gpus=20)
    if seeded:
        env.seed(0)
    env.reset()
    seen = [[], [], [], []]
    for _ in range(12):  # beyond the end of the first episodes
        for own, info in zip(seen, env.step(idle(INTERVAL, 4))[-1], strict=True):
            own.append(info["arrivals"].tolist())
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]
    assert seen[0] != seen[2]


# Pictures and Gymnasium's wrappers


@every_id
@pytest.mark.parametrize("mode", ["ansi", "rgb_array"])
def test_pictures_are_those_of_single_environments(id_, mode):
    forms = native(id_, render_mode=mode), synchronous(id_, render_mode=mode)
    for env in forms:
        env.reset(seed=0, options={"start": "plan"})
        env.step(idle(id_))
    mine, theirs = (env.render() for env in forms)
    assert len(mine) == N
    assert_same(mine, theirs)
    sb3 = native_sb3(id_, render_mode=mode)
    sb3.seed(0)
    sb3.set_options({"start": "plan"})
    sb3.reset()
    sb3.step(idle(id_))
    if mode == "rgb_array":
        assert_same(list(sb3.get_images()), list(theirs))
        assert sb3.render().dtype == np.uint8
    assert_same(sb3.env_method("render", indices=[2, 0]), [theirs[2], theirs[0]])


@every_id
def test_without_a_mode_there_are_no_pictures(id_):
    env, sb3 = native(id_), native_sb3(id_)
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
    with pytest.warns(UserWarning, match="rgb_array"):
        assert list(sb3.get_images()) == [None] * N


@pytest.fixture
def clips(monkeypatch):
    """Frames of the clips that Gymnasium hands to moviepy, which need not be installed."""
    found: list[Any] = []

    class Clip:
        def __init__(self, frames, fps):
            found.append((np.array(frames), fps))

        def write_videofile(self, path, logger):
            pass

    module = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = Clip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return found


@every_id
def test_gymnasium_records_videos_of_vector_forms(id_, clips, tmp_path):
    record = getattr(gym.wrappers.vector, "RecordVideo", None)
    if record is None:
        pytest.skip("this Gymnasium has no RecordVideo for vector environments")
    shown = native(id_, render_mode="rgb_array", max_episode_steps=4)
    shown.reset(seed=0)
    frame = shown.render()[0]
    env = record(shown, str(tmp_path / "videos"), episode_trigger=lambda _: True)
    env.reset(seed=0)
    for _ in range(9):
        env.step(idle(id_))
    env.close()
    frames, fps = clips[0]
    assert len(frames) == 5
    assert frames[0].size == N * frame.size
    assert fps == env.metadata["render_fps"]
    human = gym.wrappers.vector.HumanRendering(native(id_, render_mode="rgb_array"))
    assert "human" in human.metadata["render_modes"]
    assert "human" not in NATIVE[id_].metadata["render_modes"]


@every_id
@every_mode
def test_gymnasium_records_statistics_of_vector_forms(id_, mode):
    wrap = gym.wrappers.vector.RecordEpisodeStatistics
    mine = wrap(native(id_, autoreset_mode=mode, max_episode_steps=4))
    theirs = wrap(synchronous(id_, mode, max_episode_steps=4))
    forms, recorded = (mine, theirs), 0
    for env in forms:
        env.reset(seed=0, options={"start": "plan"})
    for _ in range(13):
        a, b = (env.step(idle(id_)) for env in forms)
        assert ("episode" in a[-1]) == ("episode" in b[-1])
        if "episode" in a[-1]:
            for name in ("r", "l"):
                np.testing.assert_array_equal(a[-1]["episode"][name], b[-1]["episode"][name])
            recorded += 1
            if mode is AutoresetMode.DISABLED:
                for env in forms:
                    env.reset(options={"reset_mask": a[3].copy()})
    assert recorded >= 2


@every_id
def test_sb3_forms_answer_for_each_environment(id_):
    env, plain = native_sb3(id_), dummy(id_)
    for form in (env, plain):
        form.seed(0)
        form.reset()
    names = ["action_space", "observation_space", "render_mode"]
    names += ["plan_action"] if id_ == INTERVAL else ["action_names"]
    for name in names:
        mine, theirs = (form.get_attr(name, indices=[0, 2]) for form in (env, plain))
        assert len(mine) == 2
        for a, b in zip(mine, theirs, strict=True):
            assert np.array_equal(a, b) if name == "plan_action" else a == b
    assert env.has_attr("action_masks") == plain.has_attr("action_masks") == (id_ != INTERVAL)
    if id_ != INTERVAL:
        for a, b in zip(env.get_attr("action_masks"), plain.get_attr("action_masks"), strict=True):
            np.testing.assert_array_equal(a(), b())
    for together in ("reset", "step", "close"):
        with pytest.raises(NotImplementedError, match=together):
            env.env_method(together)


@every_id
def test_a_refusal_in_a_worker_process_is_this_packages_error(id_):
    error = ConfigurationError("n_gpus", 0, "an integer >= 1")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field) == (str(error), "n_gpus")
    environments = gym.make_vec(id_, num_envs=2, vectorization_mode="async")
    try:
        with pytest.raises(LLMSchedError, match="got 'nowhere'"):
            environments.reset(options={"start": "nowhere"})
    finally:
        environments.close(terminate=True)
