"""Training scenarios from a recorded trace: parts of it, at varying speed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.workloads.trace import Trace
from research.rule_training.scenarios import TrainingScenario

_STREAM = 5_190_644
SECONDS = 420.0
"""Length of a part, where the trace is long enough."""
WARMUP_SHARE = 1.0 / 7.0
SPEEDS = (0.8, 1.1)
"""Of a part relative to the trace, log-uniform."""


def replayed_scenario(
    trace: Trace, instance: Instance, n_gpus: int, number: int, seed: int = 0
) -> TrainingScenario:
    """Part ``number`` (0, 1, ...) of a trace; the plan is that of the instance."""
    rng = np.random.default_rng(np.random.SeedSequence([_STREAM, seed, number]))
    played = trace.at_speed(float(np.exp(rng.uniform(*np.log(SPEEDS)))))
    seconds = min(SECONDS, played.duration)
    start = rng.uniform(0.0, played.duration - seconds)
    part = played.window(start, start + seconds)
    return TrainingScenario(instance, n_gpus, WARMUP_SHARE * seconds, seconds, part.stream)


def fingerprint(trace: Trace) -> dict[str, Any]:
    """What a training records of its trace: plain data."""
    digest = hashlib.sha256()
    for column in trace.stream:
        digest.update(column.tobytes())
    return {
        "classes": list(trace.class_names),
        "requests": len(trace),
        "seconds": round(trace.duration, 3),
        "sha256": digest.hexdigest(),
    }
