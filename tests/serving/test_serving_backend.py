"""``LLMSchedEvent-v0`` with ``backend="serving"``: the same spaces and masks on real engines."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from short_requests import short_instance

import llm_sched_env as lse
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.event_control import EventControl
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.simulation.state import layout

pytest.importorskip("torch")

ENGINE = {"shape": "tiny", "device": "cpu", "clock": "processor"}
ARGUMENTS = {"instance": short_instance(), "n_gpus": 1, "pools": "dynamic", "horizon": 0.7}


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("served environment")


@pytest.fixture(scope="module")
def env():
    made = gym.make("LLMSchedEvent-v0", backend="serving", backend_options=ENGINE, **ARGUMENTS)
    yield made
    made.close()


def episode(env: gym.Env, seed: int) -> tuple[float, list[int], np.ndarray]:
    """Score, actions and events of an episode of whatever is possible, decodes first."""
    _, info = env.reset(seed=seed)
    score, truncated, actions = 0.0, False, []
    while not truncated:
        mask = info["action_mask"]
        assert (mask == env.unwrapped.action_masks()).all()
        actions.append(int(np.flatnonzero(mask)[-1]))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        assert not terminated
        assert observation in env.observation_space
        score += reward
    assert info["time"] == ARGUMENTS["horizon"]
    return score, actions, env.unwrapped.control.batch.events(0)


def test_spaces_are_those_of_the_simulator(env) -> None:
    simulated = gym.make("LLMSchedEvent-v0", **ARGUMENTS)
    assert env.observation_space == simulated.observation_space
    assert env.action_space == simulated.action_space
    assert env.unwrapped.action_names == simulated.unwrapped.action_names


def test_an_episode_serves_every_request_its_tokens_and_earns_what_they_pay(env) -> None:
    score, actions, events = episode(env, 3)
    control = env.unwrapped.control
    tokens, stream = control.machine.made(), control.machine.stream
    done = events["index"][events["kind"] == layout.DECODE_END]
    assert len(done) > 0
    assert [len(tokens[r]) for r in done] == stream.output_tokens[done].tolist()
    prices = short_instance().prices
    paid = prices.prefill * stream.prompt_tokens[done] + prices.decode * stream.output_tokens[done]
    assert score == pytest.approx(paid.sum() / env.unwrapped.plan.value, rel=1e-9)
    assert len(set(actions)) > 3


def test_an_episode_is_drawn_from_its_seed(env) -> None:
    control = env.unwrapped.control
    found = []
    for seed in (5, 6, 5):
        episode(env, seed)
        found.append(control.machine.stream.arrival_time.tolist())
    assert found[0] == found[2] != found[1]
    simulated = EventControl(EventConfiguration.validated(**ARGUMENTS), log_events=10_000)
    for each in (control, simulated):
        each.start(0, np.random.SeedSequence(8))
    wait, report = np.zeros(1, np.int64), simulated.empty_report()
    while not simulated.truncated()[0]:
        simulated.step(wait, report)
    events = simulated.batch.events(0)
    arrived = events["time"][events["kind"] == layout.ARRIVE]
    assert len(arrived) > 10
    assert control.batch.workload.recorded.arrival_time.tolist() == arrived.tolist()


def test_what_a_machine_cannot_do_is_refused(env) -> None:
    state = env.unwrapped.save_state()
    with pytest.raises(ConfigurationError, match="engines begin empty"):
        env.reset(options={"state": state})
    for more, said in (
        ({"backend": "vapour"}, "simulator or serving"),
        ({"backend": "serving", "backend_options": ENGINE, "start": "plan"}, "empty"),
        ({"backend_options": ENGINE}, "the simulator has none"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            gym.make("LLMSchedEvent-v0", **{**ARGUMENTS, **more})
    fleet = lse.presets.resolve_instance("mixed-fleet")
    with pytest.raises(ConfigurationError, match="one kind of GPU"):
        gym.make(
            "LLMSchedEvent-v0",
            backend="serving",
            backend_options=ENGINE,
            **{**ARGUMENTS, "instance": fleet, "n_gpus": 10},
        )
