"""Rules for clusters with groups of GPUs, with queues of the cluster or at GPUs."""

from __future__ import annotations

from fleet_twin import ON_ARRIVAL

import llm_sched_env as lse

CENTRAL = [
    lse.DispatchRule(gate=gate, router=router, pools=pools, **more)
    for gate, router, pools, more in (
        ("occupancy", "solo-first", "static", {}),
        ("strict-occupancy", "solo-first", "static", {}),
        ("occupancy", "prefill-aware", "dynamic", {}),
        ("credit", "solo-first", "static", {}),
        ("largest-credit", "prefill-aware", "dynamic", {"credit_cap": 30.0}),
        ("bid-price", "bid-price", "dynamic", {}),
        ("bid-price", "solo-first", "static", {}),
        ("static-priority", "solo-first", "dynamic", {"reserves": {"a": 5}}),
        ("fcfs", "solo-first", "static", {"prefill_first": True}),
        ("fcfs", "coupled", "dynamic", {}),
        ("earliest-deadline", "prefill-aware", "dynamic", {}),
    )
]
AT_GPUS = [
    lse.DispatchRule(gate=gate, router=router, pools="dynamic")
    for router in ON_ARRIVAL
    for gate in ("fcfs", "static-priority", "shortest-prompt")
]
