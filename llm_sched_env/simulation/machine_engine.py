"""The engine's clocks, moved by iterations that a machine runs.

A GPU's record is held at the end of the iteration that runs: whatever starts meanwhile counts from
there, as with boundary starts in the simulator (gpu/quadratic_clock.py). Its time is inf until the
machine says when the iteration has ended, so that no completion of its own is ever due; then
completions are those whose marks the clock has reached, which the event loop handles as always.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.events import decisions
from llm_sched_env.simulation.events.completion_tree import set_completion_time
from llm_sched_env.simulation.events.event_loop import next_event_time
from llm_sched_env.simulation.gpu.quadratic_clock import seconds_to, synchronize
from llm_sched_env.simulation.runtime.compiled import entry_point
from llm_sched_env.simulation.state.compiled_views import cluster_row


@entry_point
def next_scheduled_time(clusters: np.ndarray) -> float:
    """Seconds of the next arrival, abandonment or credit timer of cluster 0; inf: none.

    Every GPU that has work must be held.
    """
    return next_event_time(cluster_row(clusters, 0))


@entry_point
def has_work(clusters: np.ndarray, gpu: int) -> bool:
    """Whether a GPU of cluster 0 has a prefill or decodes."""
    record = cluster_row(clusters, 0).gpus[gpu]
    return record.decodes > 0 or record.prefill_request >= 0


@entry_point
def begin_iteration(clusters: np.ndarray, gpu: int) -> None:
    """Hold a GPU of cluster 0, which has work, at the end of the iteration that begins."""
    state = cluster_row(clusters, 0)
    record = state.gpus[gpu]
    record.updated_time = 0.0
    synchronize(state, gpu, seconds_to(state, gpu, record.iterations + 1.0))
    record.updated_time = np.inf
    set_completion_time(state, gpu, np.inf)


@entry_point
def end_iteration(clusters: np.ndarray, gpu: int, time: float) -> bool:
    """The iteration of a held GPU of cluster 0 has ended at ``time``.

    Returns:
        Whether a completion is due, at that time.
    """
    state = cluster_row(clusters, 0)
    record = state.gpus[gpu]
    record.updated_time = time
    mark = record.prefill_mark
    if record.decodes > 0:
        mark = min(mark, state.decode_marks[gpu * state.settings[0].heap_slots])
    if mark > record.iterations:
        return False
    set_completion_time(state, gpu, time)
    return True


@entry_point
def can_act(clusters: np.ndarray) -> bool:
    """Whether an agent of cluster 0 could do anything but wait."""
    return decisions.can_act(cluster_row(clusters, 0))
