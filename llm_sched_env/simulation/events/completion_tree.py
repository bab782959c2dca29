"""Tournament tree over the GPUs' next completion times.

The leaves are the times of GPUs 0..n-1; a node holds the least of its four children and the GPU
it belongs to, so the root is the next completion. Changing one time recomputes the path to the
root, without data-dependent branches, and stops where nothing changes. Ties go to the lower GPU
index, since children stand in the order of the GPUs.

Levels are stored one after another from the leaves up, each padded to a multiple of four with
``inf``, the root last.
"""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.runtime.prefetch import is_large, prefetch_gpu, prefetch_next_requests
from llm_sched_env.simulation.state.layout import EngineState

# Prefetched: the winners of the 5 to 16 subtrees below the root's children, then of these.
_SOON, _NEXT = 16, 4


def tree_entries(n_gpus: int) -> int:
    """Nodes of the tree, padding included."""
    size = -(-n_gpus // 4) * 4
    entries = size
    while size > 1:
        size //= 4
        size = size if size == 1 else -(-size // 4) * 4
        entries += size
    return entries


@compiled
def next_completion_time(state: EngineState) -> float:
    """Seconds; inf if nothing is in service."""
    return state.completion_times[len(state.completion_times) - 1]


@compiled
def next_gpu(state: EngineState) -> int:
    """The GPU of the next completion."""
    return state.completion_gpus[len(state.completion_gpus) - 1]


@compiled
def set_completion_time(state: EngineState, gpu: int, time: float) -> None:
    """Change the time of one GPU's next completion; inf: none."""
    times, gpus = state.completion_times, state.completion_gpus
    if times[gpu] == time:
        return
    times[gpu] = time
    large = is_large(state)
    place = np.int64(gpu)
    offset = 0
    size = ((len(state.gpus) + 3) >> 2) << 2
    while size > 1:
        first = offset + ((place >> 2) << 2)
        a, b, c, d = times[first], times[first + 1], times[first + 2], times[first + 3]
        # Sums of comparisons, not branches: which child is least cannot be predicted.
        left, left_time = first + np.int64(b < a), min(a, b)
        right, right_time = first + 2 + np.int64(d < c), min(c, d)
        best = left + np.int64(right_time < left_time) * (right - left)
        best_time = min(left_time, right_time)
        winner = gpus[best]
        place >>= 2
        offset += size
        size >>= 2
        size = size if size == 1 else ((size + 3) >> 2) << 2
        node = offset + place
        if times[node] == best_time and gpus[node] == winner:
            return
        times[node] = best_time
        gpus[node] = winner
        if large:
            if size == _NEXT:
                prefetch_next_requests(state, winner)
            elif _NEXT < size <= _SOON:
                prefetch_gpu(state, winner)
