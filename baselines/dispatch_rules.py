"""The reference policies that are dispatch rules steered by the fluid plan (docs/model.md)."""

from __future__ import annotations

from llm_sched_env.policies.registry import RegisteredPolicy
from llm_sched_env.simulation.scheduling.rules import DispatchRule


def _registered(
    rule: DispatchRule, description: str, source: str, *aliases: str
) -> RegisteredPolicy:
    return RegisteredPolicy(description, lambda: rule, aliases, source)


GATE_AND_ROUTE = _registered(
    DispatchRule(gate="occupancy", router="solo-first", pools="static"),
    "printed occupancy gate, static pools, solo slots first",
    "section 4.1",
    "GG-SP",
)

STRICT_GATE_AND_ROUTE = _registered(
    DispatchRule(gate="strict-occupancy", router="solo-first", pools="static"),
    "gate-and-route whose classes wait at their target, as its proof assumes",
    "Lemma 10.1",
)

CREDIT_GATE_STATIC = _registered(
    DispatchRule(gate="credit", router="solo-first", pools="static"),
    "admission credit at the plan's rates, static pools, longest waiting first",
    "this project",
)

CREDIT_GATE = _registered(
    DispatchRule(gate="largest-credit", router="prefill-aware", pools="dynamic", credit_cap=30.0),
    "admission credit at the plan's rates, any GPU may prefill, most credit first",
    "this project",
)

TRUNK_RESERVATION = _registered(
    DispatchRule(gate="bid-price", router="bid-price", pools="dynamic"),
    "highest bid price first; classes the plan does not want whole leave a reserve of slots",
    "this project",
)

PRIORITIZE_AND_ROUTE = _registered(
    DispatchRule(gate="decode-per-prompt", router="solo-first", pools="static"),
    "largest D/P first, for separate charging (--pricing separate)",
    "section 4.2",
)

SLI_AWARE = _registered(
    DispatchRule(gate="occupancy", router="randomized", pools="static"),
    "printed occupancy gate, static pools, a class's solo share by lot: tracks a plan with --sli",
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
