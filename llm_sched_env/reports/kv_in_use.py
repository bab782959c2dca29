"""How many tokens the KV caches of a cluster hold."""

from __future__ import annotations

import numpy as np

from llm_sched_env.simulation.state.layout import EngineState


def kv_tokens_in_use(state: EngineState) -> np.ndarray:
    """Tokens of the requests in service on each GPU: prompts as far as they have come, and outputs.

    Args:
        state: of one cluster.

    Returns:
        Tokens, shape (n,). Blocks that are kept for reuse after their request are not counted.
    """
    now = _clocks(state)
    gpus, n = state.gpus, len(state.gpus)
    places = len(state.decode_marks) // n
    # A heap of marks in the first places of each GPU.
    in_use = np.arange(places) < gpus["decodes"][:, None]
    marks = state.decode_marks.reshape(n, places)
    own = state.requests[np.where(in_use, state.decode_requests.reshape(n, places), 0)]
    made = np.clip(own["output_tokens"] - (marks - now[:, None]), 0.0, own["output_tokens"])
    tokens = np.where(in_use, own["prompt_tokens"] + made, 0.0).sum(axis=1)
    prefills = state.requests[np.maximum(gpus["prefill_request"], 0)]
    prompts, chunk = prefills["prompt_tokens"], state.groups["chunk_tokens"][gpus["group"]]
    with np.errstate(invalid="ignore"):
        left = np.clip((gpus["prefill_mark"] - now) * chunk, 0.0, prompts)
    found: np.ndarray = tokens + np.where(gpus["prefill_request"] >= 0, prompts - left, 0.0)
    return found


def _clocks(state: EngineState) -> np.ndarray:
    """Iterations that each GPU has run by now; shape (n,)."""
    gpus = state.gpus
    elapsed = np.maximum(0.0, float(state.clock["time"][0]) - gpus["updated_time"])
    growth = state.loads["growth"] if len(state.loads) else np.zeros(len(gpus))
    seconds = gpus["iteration_seconds"]
    with np.errstate(invalid="ignore", divide="ignore"):
        since = 2.0 * elapsed / (seconds + np.sqrt(seconds**2 + 2.0 * growth * elapsed))
    clocks: np.ndarray = gpus["iterations"] + np.nan_to_num(since)
    return clocks
