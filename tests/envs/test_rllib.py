"""RLlib's new API stack trains on ``LLMSched-v0`` by its name, in single and native vector form."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip(
    "ray.rllib", reason="needs the extra rllib: make test-rllib", exc_type=ImportError
)
pytest.importorskip("torch")

import ray
from ray.rllib.algorithms.ppo import PPOConfig

ENVIRONMENT = "llm_sched_env:LLMSched-v0"
ARGUMENTS = {"instance": "overload", "n_gpus": 5, "horizon": 20.0, "start": "plan"}
STEPS_PER_EPISODE = 20


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def weights(algorithm):
    return {name: value.copy() for name, value in algorithm.get_module().get_state().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "n_runners", "n_envs"),
    [("sync", 0, 1), ("sync", 1, 1), ("vector_entry_point", 0, 4), ("vector_entry_point", 1, 4)],
)
def test_ppo_trains(mode, n_runners, n_envs):
    """In this process and in a worker's, where the module before the colon must register it."""
    configuration = (
        PPOConfig()
        .environment(ENVIRONMENT, env_config=ARGUMENTS)
        .env_runners(
            num_env_runners=n_runners,
            num_envs_per_env_runner=n_envs,
            gym_env_vectorize_mode=mode,
            rollout_fragment_length=200 // n_envs,
        )
        .training(train_batch_size_per_learner=200, minibatch_size=50, num_epochs=2)
        .debugging(seed=1)
    )
    algorithm = configuration.build_algo()
    try:
        forms = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: type(runner.env.unwrapped).__name__, local_env_runner=n_runners == 0
        )
        assert forms == ["LLMSchedVectorEnv" if mode == "vector_entry_point" else "SyncVectorEnv"]
        before = weights(algorithm)
        results = [algorithm.train() for _ in range(3)]
        after = weights(algorithm)
    finally:
        algorithm.stop()
    assert [result["training_iteration"] for result in results] == [1, 2, 3]
    sampled = results[-1]["env_runners"]
    assert sampled["num_env_steps_sampled_lifetime"] == 600
    assert sampled["episode_len_mean"] == STEPS_PER_EPISODE
    # A step's reward is the revenue of a second as a share of the fluid bound.
    assert 0.2 < sampled["episode_return_mean"] / STEPS_PER_EPISODE < 1.5
    learner = results[-1]["learners"]["default_policy"]
    assert math.isfinite(learner["total_loss"])
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    assert all(np.isfinite(value).all() for value in after.values())


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "libraries.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "ray.rllib" in block]
    exec(compile(block, "docs/libraries.md", "exec"), {})
    assert 0.2 < float(capsys.readouterr().out.split()[-1]) < 1.5
