"""Export the requests of a simulated run as a trace that replays it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_sched_env.errors import checked_integer
from llm_sched_env.model.drawn_conversations import draw_requests
from llm_sched_env.model.instance import Instance
from llm_sched_env.presets import resolve_instance
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.simulation import sample_requests
from llm_sched_env.workloads.trace import Trace


def requests_of_run(
    instance: Instance | str | Path | dict[str, Any],
    n_gpus: int,
    horizon: float,
    seed: int = 0,
    replication: int = 0,
) -> Trace:
    """What arrives in a replication of :func:`llm_sched_env.evaluate`, whatever the policy.

    Replayed with the same instance, seed, replication and times, ``match_trace=False`` and
    ``billing="class-means"`` for the Markov model, it gives the same result.

    Args:
        instance: preset name, instance file, plain data or :class:`Instance`.
        n_gpus: cluster size n.
        horizon: seconds.
        seed: of the evaluation.
        replication: which one, from 0.

    Example:
        >>> trace = requests_of_run("base", n_gpus=2, horizon=30.0)
        >>> trace.class_names
        ('decode-heavy', 'prefill-heavy')
    """
    instance = resolve_instance(instance)
    streams = replication_seed(
        checked_integer("seed", seed, least=0), checked_integer("replication", replication, least=0)
    )
    if instance.shares_prefixes:
        drawn = draw_requests(instance, n_gpus, float(horizon), streams)
        names = tuple(c.name for c in instance.classes)
        columns = drawn[:4]
        return Trace(
            names, *columns, end=float(horizon), session=drawn.session, blocks=drawn.blocks
        )
    requests = sample_requests(instance, n_gpus, horizon, streams)
    return Trace(tuple(c.name for c in instance.classes), *requests[:4], end=float(horizon))
