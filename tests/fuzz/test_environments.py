"""Actions, arguments and options of the environments, and arguments of ``evaluate``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fuzzing import ODD, REFUSED, accepted, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import llm_sched_env as lse
from llm_sched_env.envs.event_env import LLMSchedEventEnv
from llm_sched_env.envs.interval_env import LLMSchedEnv

SMALL = {"n_gpus": 2, "horizon": 50.0}


@pytest.fixture(scope="module")
def interval() -> LLMSchedEnv:
    env = LLMSchedEnv(**SMALL)
    env.reset(seed=0)
    return env


@pytest.fixture(scope="module")
def event() -> LLMSchedEventEnv:
    env = LLMSchedEventEnv(**SMALL)
    env.reset(seed=0)
    return env


KINDS = st.sampled_from([np.float64, np.float32, np.int64, np.int8, np.bool_, np.complex64, "U3"])
SHAPES = st.one_of(
    st.sampled_from([(), (1,), (5,)]),  # 5: that of the interval environment
    arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6),
)
ARRAYS = KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES))
SHARES = arrays.arrays(np.float32, (5,), elements=st.floats(0, 1, width=32))
ACTIONS = st.one_of(ODD, ARRAYS, SHARES, st.integers(-2, 12), st.just(object()))


def acted(env: Any, action: Any) -> None:
    """The environment acts, or refuses in a line and stays as it was."""
    before = env.control.times()[0]
    kept = np.array(action, copy=True) if isinstance(action, np.ndarray) else None
    step = accepted(lambda: env.step(action))
    if kept is not None:
        assert np.array_equal(action, kept, equal_nan=kept.dtype.kind in "fc")
    if step is REFUSED:
        assert env.control.times()[0] == before
        return
    observation, reward, terminated, truncated, info = step
    assert observation in env.observation_space
    assert np.isfinite(reward)
    assert not terminated
    assert info["time"] >= before
    if truncated:
        env.reset(seed=0)


@fuzzed
@given(ACTIONS)
def test_interval_action(interval, action) -> None:
    acted(interval, action)


@fuzzed
@given(ACTIONS)
def test_event_action(event, action) -> None:
    acted(event, action)


OPTIONS = st.one_of(
    ODD,
    st.fixed_dictionaries(
        {}, optional={"start": st.sampled_from(["empty", "plan"]) | ODD, "state": ODD, "seed": ODD}
    ),
)


@fuzzed
@given(OPTIONS, st.booleans())
def test_reset_options(interval, event, options, at_events) -> None:
    env: Any = event if at_events else interval
    reset = accepted(lambda: env.reset(seed=1, options=options))
    if reset is not REFUSED:
        assert reset[0] in env.observation_space
        assert env.control.times()[0] == 0.0


def one_of(*sound: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(sound) | ODD


# Sizes stay small where they are allowed: what is looked for are faults, not patience.
SIZES = st.integers(-1, 4) | ODD.filter(lambda n: not (isinstance(n, int) and n > 40))
SHARED = {
    "instance": one_of("base", "overload", "mixed-fleet", "deadlines"),
    "n_gpus": SIZES,
    "pricing": one_of("bundled", "separate"),
    "revenue": one_of("all", "goodput"),
    "horizon": one_of(5.0, 20),
    "pools": one_of("static", "dynamic"),
    "start": one_of("empty", "plan"),
    "costs": one_of((), ["tpot"], ["deadline-misses", "abandonment"]),
    "budgets": one_of(None, {}, {"tpot": 0.024}),
}
INTERVAL = {
    **SHARED,
    "interval": one_of(1.0, 2.5),
    "gate": one_of("token-bucket", "occupancy", "net-value"),
    "router": one_of("solo-first", "randomized", "net-value", "prefill-aware"),
    "controls": one_of("all", ["admission"], ["pool", "routing"]),
    "slos": one_of((), ["tpot@price=3000"], ["tpot@limit=0.03"]),
    "render_mode": one_of(None, "ansi"),
}
EVENT = {
    **SHARED,
    "router": one_of("agent", "solo-first"),
    "wake_interval": one_of(None, 0.5),
    "backend": one_of("simulator"),
    "backend_options": one_of(None),
    "render_mode": one_of(None, "ansi"),
}


def brief(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Without numbers that are allowed and mean hours."""
    return strategy.filter(
        lambda x: isinstance(x, bool) or not isinstance(x, (int, float)) or not 40 < x < math.inf
    )


def some_of(choices: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to three arguments."""
    return st.lists(st.sampled_from(sorted(choices)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: choices[name] for name in names})
    )


@fuzzed
@given(
    st.one_of(
        st.tuples(st.just(LLMSchedEnv), some_of(INTERVAL)),
        st.tuples(st.just(LLMSchedEventEnv), some_of(EVENT)),
    )
)
def test_environment_arguments(case) -> None:
    kind, arguments = case
    env = accepted(lambda: kind(**{"n_gpus": 3, "horizon": 10.0, **arguments}))
    if env is REFUSED:
        return
    for name in ("pricing", "pools", "start", "interval", "horizon", "gate"):
        if name in arguments and hasattr(env.control.configuration, name):
            assert getattr(env.control.configuration, name) == arguments[name]
    env.close()


EVALUATED = {
    **{name: SHARED[name] for name in ("instance", "n_gpus", "pricing", "revenue")},
    "policy": one_of("gate-and-route", "token-bucket", "fcfs-immediate"),
    "horizon": brief(one_of(2.0, 3)).filter(lambda x: x is not None),
    "warmup": one_of(0.0, 1.0),
    "replications": st.integers(-1, 2) | ODD.filter(lambda n: not isinstance(n, int)),
    "seed": one_of(0, 3),
    "slos": one_of(()),
    "speed": one_of(1.0),
    "billing": one_of(None, "own-tokens", "class-means"),
    "match_trace": st.booleans(),
    "jobs": one_of(None, 1),
    "trace": one_of(None),
}


@fuzzed
@given(some_of(EVALUATED))
def test_evaluate_arguments(arguments) -> None:
    small = {"policy": "token-bucket", "instance": "base", "n_gpus": 2, "replications": 1}
    times = {"horizon": 2.0, "warmup": 0.0, "jobs": 1}
    result = accepted(lambda: lse.evaluate(**{**small, **times, **arguments}))
    assert result is REFUSED or result.requests["arrived"] >= 0
