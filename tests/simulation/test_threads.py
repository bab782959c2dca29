"""Results do not depend on the number of threads, nor on what else runs; threads end."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest

from llm_sched_env import presets
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalModulation
from llm_sched_env.model.instance import Instance
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.planning import plan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import SimulationBatch

THREADS = [2, 3, 7]
MODES = ["NEXT_STEP", "SAME_STEP", "DISABLED"]


def everything() -> Instance:
    """All that rows share: observed lengths, bursts, KV tokens."""
    base = presets.overload()
    observed = LengthDistribution("empirical", values=(100.0, 400.0, 700.0))
    first, second = base.classes
    return dataclasses.replace(
        base,
        classes=(first, dataclasses.replace(second, output_lengths=observed)),
        hardware=dataclasses.replace(base.hardware, kv_tokens=12_000, iteration_law="affine"),
        modulation=ArrivalModulation((0.2, 2.0), ((0.0, 0.5), (0.5, 0.0))),
    )


def growing() -> Instance:
    """Far too much work for requests that never leave: records must grow."""
    overload = presets.overload().scaled(5.0)
    classes = tuple(dataclasses.replace(c, patience_rate=0.0) for c in overload.classes)
    return dataclasses.replace(overload, classes=classes)


INSTANCES = {"everything": everything(), "growing": growing()}


def episodes(env: LLMSchedVectorEnv, steps: int, seed: int = 3) -> list[Any]:
    """What an environment shows under random actions; DISABLED ones are reset by mask."""
    rng = np.random.default_rng(seed)
    shape = env.action_space.shape
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, _, truncated, infos = env.step(rng.random(shape, dtype=np.float32))
        seen += [observation, reward, truncated, infos["time"], infos["revenue"]["prompt"]]
        if "final_obs" in infos:
            seen += [row for row in infos["final_obs"] if row is not None]
        if env.autoreset_mode.name == "DISABLED" and truncated.any():
            seen.append(env.reset(options={"reset_mask": truncated})[0])
    return seen


def assert_equal(ours: list[Any], theirs: list[Any]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def vector_env(threads: int, num_envs: int = 10, **kwargs: Any) -> LLMSchedVectorEnv:
    settings = {"instance": everything(), "n_gpus": 3, "horizon": 9.0, "start": "plan", **kwargs}
    return LLMSchedVectorEnv(num_envs, threads=threads, **settings)


@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.parametrize("mode", MODES)
def test_episodes_do_not_depend_on_threads(mode: str, name: str) -> None:
    kwargs = {"autoreset_mode": mode, "instance": INSTANCES[name], "horizon": 25.0}
    one = vector_env(1, **kwargs)
    capacity = one.control.batch.states.requests.shape[1]
    expected = episodes(one, 60)
    assert (one.control.batch.states.requests.shape[1] > capacity) == (name == "growing")
    for threads in THREADS:
        assert_equal(episodes(vector_env(threads, **kwargs), 60), expected)


def test_rows_of_different_age_do_not_depend_on_threads() -> None:
    """Masked resets leave holes: ranges of rows are stepped apart."""
    masks = np.random.default_rng(0).random((30, 10)) < 0.3

    def run(threads: int) -> list[Any]:
        env = vector_env(threads, autoreset_mode="DISABLED", horizon=1000.0)
        seen = [env.reset(seed=1)[0]]
        for mask in masks:
            seen.append(env.step(np.full(env.action_space.shape, 0.6, np.float32))[0])
            seen.append(env.reset(options={"reset_mask": mask})[0])
        return seen

    def run_next_step(threads: int) -> list[Any]:
        env = vector_env(threads, horizon=12.0)
        env.reset(seed=1)
        env.control._steps[:] = np.arange(10)  # episodes end one after another
        env.control._origin[:] = -np.arange(10.0)
        return episodes_from(env, 40)

    for how in (run, run_next_step):
        expected = how(1)
        for threads in THREADS:
            assert_equal(how(threads), expected)


def episodes_from(env: LLMSchedVectorEnv, steps: int) -> list[Any]:
    """From where the environment is."""
    actions = np.random.default_rng(2).random((steps, *env.action_space.shape), dtype=np.float32)
    return [part for action in actions for part in env.step(action)[:4]]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_continue_alike_with_threads_of_their_own(clone: Any) -> None:
    env = vector_env(3)
    episodes(env, 7)
    other = clone(env)
    assert other.control.batch._threads.threads == 3
    assert other.control.batch._threads is not env.control.batch._threads
    assert_equal(episodes_from(other, 20), episodes_from(env, 20))


def helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "llm-sched-env"}


def test_helpers_start_with_the_first_step_only() -> None:
    before = helpers()
    envs = [vector_env(4), vector_env(1)]
    envs[0].reset(seed=0)
    assert not helpers() - before
    for env in envs:
        episodes(env, 3)
    assert len(helpers() - before) == 3


def test_helpers_end_with_their_environment() -> None:
    before = helpers()
    for _ in range(15):
        episodes(vector_env(4), 2)
    gc.collect()
    deadline = time.monotonic() + 2.0  # they end when they are scheduled
    while helpers() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not helpers() - before


def test_environments_in_threads_of_their_own_do_not_disturb_each_other() -> None:
    expected = {seed: episodes(vector_env(1), 40, seed) for seed in range(3)}
    found: dict[int, list[Any]] = {}

    def run(seed: int) -> None:
        env = vector_env(3)
        found[seed] = episodes(env, 40, seed)

    workers = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60.0)
    for seed, seen in expected.items():
        assert_equal(found[seed], seen)


@pytest.mark.parametrize("name", INSTANCES)
@pytest.mark.parametrize("threads", THREADS)
def test_random_ranges_of_rows_at_random_times(threads: int, name: str) -> None:
    instance, n_rows, n_gpus = INSTANCES[name], 13, 2
    rule = DispatchRule("credit", "randomized", "static")
    controls = plan(instance).controls(n_gpus)
    batches = [SimulationBatch(instance, rule, n_gpus, n_rows, threads=t) for t in (1, threads)]
    for batch in batches:
        for k, seed in enumerate(np.random.SeedSequence(6).spawn(n_rows)):
            batch.start(k, seed, controls)
    rng = np.random.default_rng(7)
    until = np.zeros(n_rows)
    for _ in range(150):
        first, last = np.sort(rng.integers(0, n_rows + 1, 2)).tolist()
        until[first:last] += rng.exponential(1.0, last - first) * (rng.random(last - first) < 0.7)
        changed = rng.random((n_rows, len(controls))) if rng.random() < 0.3 else None
        for batch in batches:
            if changed is None and rng.random() < 0.5:
                batch.advance(until, first, last, set_controls=False)
            else:
                batch.run(until, changed, (first, last))
    one, many = (batch.states for batch in batches)
    for name_of, ours, theirs in zip(one._fields, one, many, strict=True):
        assert ours.tobytes() == theirs.tobytes(), name_of
    np.testing.assert_array_equal(one.clock["time"][:, 0], until)
    assert one.clock["events"].sum() > 2000


def test_many_short_calls_lose_no_row() -> None:
    """Rows with nothing to do: helpers come late, with tickets of calls that are over."""
    batch = SimulationBatch(presets.base(), DispatchRule(), 1, 5, threads=3)
    seeds = np.random.SeedSequence(1).spawn(5)
    for k in range(5):
        batch.start(k, seeds[k], plan(presets.base()).controls(1))
    for step in range(1, 3001):
        batch._status[:] = -1
        batch.advance(np.full(5, 1e-6 * step), 0, 5, set_controls=False)
        assert not batch._status.any()
    np.testing.assert_array_equal(batch.states.clock["time"][:, 0], 3e-3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_copy_continues_without_helpers() -> None:
    """Helper threads do not survive a fork; the caller does their rows."""
    env = vector_env(3)
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 0.5, np.float32))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writing, pickle.dumps(episodes_from(env, 5)))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        theirs = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert_equal(pickle.loads(theirs), episodes_from(env, 5))


@pytest.mark.parametrize("threads", [0, -1, 2.5, True, "2"])
def test_a_bad_number_of_threads_is_one_clear_line(threads: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^threads: got .*, expected an integer >= 1$"):
        vector_env(threads)
