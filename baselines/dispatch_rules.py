"""The reference policies that are dispatch rules steered by the fluid plan (docs/model.md)."""

from __future__ import annotations

from llm_sched_env.plugins.deprecated_names import renamed_attributes
from llm_sched_env.policies.registry import RegisteredPolicy
from llm_sched_env.simulation.scheduling.rules import DispatchRule


def _registered(
    rule: DispatchRule, description: str, source: str, *aliases: str
) -> RegisteredPolicy:
    return RegisteredPolicy(description, lambda: rule, aliases, source)


GATE_AND_ROUTE = _registered(
    DispatchRule(gate="occupancy", router="solo-first", pools="static"),
    "occupancy gate of the paper, static pools, solo slots first",
    "section 4.1",
    "GG-SP",
)

STRICT_GATE_AND_ROUTE = _registered(
    DispatchRule(gate="strict-occupancy", router="solo-first", pools="static"),
    "gate-and-route whose classes wait at their target, as its proof assumes",
    "Lemma 10.1",
)

TOKEN_BUCKET_STATIC = _registered(
    DispatchRule(gate="credit", router="solo-first", pools="static"),
    "token buckets filled at the plan's admission rates, static pools, longest wait first",
    "this project",
    "credit-gate-static",
)

TOKEN_BUCKET = _registered(
    DispatchRule(gate="largest-credit", router="prefill-aware", pools="dynamic", credit_cap=30.0),
    "token buckets filled at the plan's admission rates, any GPU may prefill, fullest first",
    "this project",
    "credit-gate",
)

TRUNK_RESERVATION = _registered(
    DispatchRule(gate="bid-price", router="bid-price", pools="dynamic"),
    "highest net value first; classes the plan admits in part leave a reserve of slots",
    "this project",
)

PRIORITIZE_AND_ROUTE = _registered(
    DispatchRule(gate="decode-per-prompt", router="solo-first", pools="static"),
    "largest D/P first, for separate charging (--pricing separate)",
    "section 4.2",
)

SLI_AWARE = _registered(
    DispatchRule(gate="occupancy", router="randomized", pools="static"),
    "occupancy gate of the paper, static pools, solo share by lot: tracks a plan with --slo",
    "section 5.1",
)

GENERAL_SLI_AWARE = _registered(
    DispatchRule(gate="occupancy", router="weighted-randomized", pools="static"),
    "sli-aware for plans in which decodes wait: a free slot picks the class by the plan's weights",
    "section 13",
)

FCFS_IMMEDIATE = _registered(
    DispatchRule(gate="fcfs", router="coupled", pools="dynamic"),
    "Sarathi-style serving system: oldest request first, decodes stay in their slot",
    "section 6.3",
    "FI-WSP",
)

GATE_IMMEDIATE = _registered(
    DispatchRule(gate="occupancy", router="coupled", pools="dynamic"),
    "fcfs-immediate with the occupancy gate",
    "section 6.3",
    "GI-WSP",
)

GATE_PREFILL_FIRST = _registered(
    DispatchRule(gate="occupancy", router="solo-first", pools="dynamic", prefill_first=True),
    "occupancy gate without pools; a freed slot takes a prefill before a waiting decode",
    "section 6.3",
    "GF-WSP",
)

FCFS_AND_ROUTE = _registered(
    DispatchRule(gate="fcfs", router="solo-first", pools="static"),
    "oldest request first, static pools, solo slots first",
    "section 6.3",
    "FG-SP",
)

STATIC_PRIORITY = _registered(
    DispatchRule(gate="static-priority", router="coupled", pools="dynamic"),
    "serving system with a fixed order of classes and free slots kept from some (--priority)",
    "this project",
)

EARLIEST_DEADLINE_FIRST = _registered(
    DispatchRule(gate="earliest-deadline", router="coupled", pools="dynamic"),
    "fcfs-immediate that admits the request whose first token is due first (deadlines)",
    "this project",
    "EDF",
)

__getattr__ = renamed_attributes(
    globals(), CREDIT_GATE="TOKEN_BUCKET", CREDIT_GATE_STATIC="TOKEN_BUCKET_STATIC"
)


def _on_arrival(router: str, gate: str, description: str) -> RegisteredPolicy:
    rule = DispatchRule(gate=gate, router=router, pools="dynamic")
    return _registered(
        rule, f"{description}; requests wait at GPUs and stay there", "serving systems"
    )


ROUND_ROBIN = _on_arrival("round-robin", "fcfs", "each request to the next GPU, oldest first")
LEAST_LOADED = _on_arrival("least-loaded", "fcfs", "to the GPU with the fewest requests per slot")
JOIN_SHORTEST_QUEUE = _on_arrival(
    "join-shortest-queue", "fcfs", "to the GPU with the fewest seconds of prefills to do"
)
POWER_OF_TWO_CHOICES = _on_arrival(
    "power-of-two-choices", "fcfs", "to the less loaded of two random GPUs"
)
PRIORITY_FCFS = _on_arrival(
    "least-loaded", "static-priority", "least-loaded, where classes go in order at each GPU"
)
SJF = _on_arrival(
    "least-loaded", "shortest-prompt", "least-loaded, where the shortest prompt goes first"
)
