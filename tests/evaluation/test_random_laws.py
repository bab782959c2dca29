"""No policy earns more than R* under any iteration law, but for the noise of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from random_laws import random_instance

import llm_sched_env as lse

POLICIES = (
    "gate-and-route",
    "token-bucket",
    "trunk-reservation",
    "fcfs-immediate",
    "gate-prefill-first",
    "static-priority",
)
LAWS = 50
# Requests of a run: enough for chance in lengths to be a few percent.
REQUESTS = 6000


def excess_in_errors(number: int) -> float:
    """By how many standard errors the score of a policy is above 1 under a random law."""
    rng = np.random.default_rng([7, number])
    load = float(rng.choice([0.3, 1.0, 3.0]))
    instance = random_instance(rng, load, kv_limit=bool(number % 3 == 0))
    policy, n_gpus = POLICIES[number % len(POLICIES)], int(rng.integers(1, 7))
    pricing = str(rng.choice(["bundled", "separate"]))
    seconds = REQUESTS / (n_gpus * float(instance.arrival_rates.sum()))
    result = lse.evaluate(
        policy, instance, n_gpus, pricing=pricing, horizon=1.2 * seconds, warmup=0.2 * seconds,
        replications=4, seed=number,
    )  # fmt: skip
    scores = np.array(result.scores)
    # What is served in a run is chance too: the spread of its revenue is at least that of counts.
    completed = max(1.0, sum(c.completed for c in result.classes))
    error = max(scores.std(ddof=1), 1.0 / math.sqrt(completed / len(scores))) / math.sqrt(4)
    return float((scores.mean() - 1.0) / error)


@pytest.mark.parametrize("number", range(LAWS))
def test_no_score_is_above_1_beyond_noise(number):
    assert excess_in_errors(number) < 4.0
