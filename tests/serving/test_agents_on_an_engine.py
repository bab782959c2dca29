"""Agents that were written or trained for the simulator schedule an engine as they are."""

from __future__ import annotations

import numpy as np
import pytest
from short_requests import short_instance

from llm_sched_env.validation.served_run import COMPLETED

pytest.importorskip("torch")

from llm_sched_env.serving.serve import Server

SECONDS = 2.0


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("agents on an engine")


@pytest.fixture(scope="module")
def server():
    with Server("tiny", instance=short_instance(), seconds=SECONDS, clock="processor") as made:
        yield made


def require_exact_tokens_and_the_same_decisions(server: Server, policy: str) -> None:
    served = server.serve(policy)
    tokens = server.machine.made()
    done = np.flatnonzero(served.run.outcome == COMPLETED)
    assert len(done) > 0
    assert [len(tokens[r]) for r in done] == served.run.output_tokens[done].tolist()
    assert len(served.decisions) >= 2 * len(done)
    assert server.replayed(served, policy) is None


def test_an_agent_that_is_asked_at_events(server) -> None:
    require_exact_tokens_and_the_same_decisions(server, "event_agents:AtEvents")


AT_EVENTS = {"control": "event", "algorithm": "maskable-ppo", "router": "agent"}


@pytest.mark.extended
@pytest.mark.parametrize("kind", [{}, AT_EVENTS])
def test_a_checkpoint_of_a_trained_agent(kind, server, tmp_path) -> None:
    pytest.importorskip("stable_baselines3")
    from small_training import SMALL

    from llm_sched_env.agents.configuration import TrainingConfiguration
    from llm_sched_env.agents.ppo import train

    configuration = TrainingConfiguration(
        short_instance().to_dict(), total_steps=100, **{**SMALL, "n_gpus": 1, **kind}
    )
    path = train(configuration, tmp_path)
    require_exact_tokens_and_the_same_decisions(server, str(path))
