"""Which completed requests met the deadlines of their class, and what these earn."""

from __future__ import annotations

from llm_sched_env.simulation.runtime.compiled import compiled
from llm_sched_env.simulation.state.layout import EngineState


@compiled
def count_good(
    state: EngineState,
    i: int,
    pair: int,
    ttft: float,
    tpot: float,
    revenue: float,
    decode_revenue: float,
) -> None:
    """Count a request of class i as good, or as late in its first token, its tokens, or both.

    Args:
        state: one cluster.
        i: the class.
        pair: of it and the group of the GPU that completes it.
        ttft: seconds from arrival to the first token.
        tpot: seconds per output token.
        revenue: what the request earns if it is good, 0 if it is not paid for in any case.
        decode_revenue: the part of that for its output.
    """
    parameters, totals = state.parameters[i], state.totals[pair]
    late = ttft > parameters.ttft_deadline
    slow = tpot > parameters.tpot_deadline
    if late:
        totals.late_ttft += 1
    if slow:
        totals.late_tpot += 1
    if not (late or slow):
        totals.good += 1
        totals.good_revenue += revenue
        totals.good_decode_revenue += decode_revenue
