"""Solve the fluid plan of an instance, and read its shadow prices.

It shows what the plan serves, which capacity is scarce, and that a shadow price predicts what more
of a capacity is worth: 1% more arrivals of each class are planned anew. No simulation is needed;
it takes about a second. Run it with ``python examples/plan_and_prices.py [INSTANCE]``.
"""

from __future__ import annotations

import dataclasses
import sys

import llm_sched_env as lse
from llm_sched_env import presets


def main(name: str = "overload") -> None:
    """Print the plan, its prices, and how well they predict."""
    instance = presets.resolve_instance(name)
    plan = lse.plan(instance)
    print(f"{name}: R* = {plan.value:.2f} per GPU and second")
    print(f"  mixed GPUs: {plan.mixed_fraction:.1%} of the cluster")
    for capacity in ("prefill_capacity", "mixed_decode_capacity", "solo_decode_capacity"):
        print(f"  shadow price of {capacity}: {plan.duals[capacity]:.2f}")
    for i, kind in enumerate(instance.classes):
        print(f"  {kind.name}: {plan.admission_fraction[i]:.0%} of the arrivals are admitted")
        more = dataclasses.replace(kind, arrival_rate=1.01 * kind.arrival_rate)
        classes = (*instance.classes[:i], more, *instance.classes[i + 1 :])
        gain = lse.plan(dataclasses.replace(instance, classes=classes)).value - plan.value
        predicted = 0.01 * kind.arrival_rate * plan.duals["arrival"][i]
        print(f"    1% more arrivals earn {gain:+.4f}; its shadow price says {predicted:+.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
