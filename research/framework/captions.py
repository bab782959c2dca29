"""What to see in the figures of the studies: a line below each on the page of claims.

They stand apart from the studies, whose sources are part of the keys of kept cells.
"""

from __future__ import annotations

CAPTIONS = {
    "fluid-paths": "the more GPUs, the closer a path lies to the dashed fluid path of its class",
    "separate-charging": (
        "with more GPUs each rule's queues go to the dotted levels of its own plan: one "
        "lets requests wait before the prefill, the other after it"
    ),
    "convergence": (
        "on the left how slowly the gap to R* closes beside the dashed n^(-1/2); on the "
        "right which queues are still far from the plan"
    ),
    "occupancy": (
        "the points of each station beside the dotted level of its plan; decodes follow "
        "it in sum sooner than by class"
    ),
    "sli-convergence": (
        "below, the distance from the plan's decodes by class, which falls under the rule "
        "that steers them and stays under the other"
    ),
    "policies": (
        "how far to the left each box, and its stray points, reach: what a policy can "
        "lose on an instance"
    ),
    "shadow-prices": (
        "revenue falls as a limit gets tighter, with the slope below it: the shadow price "
        "of the limit"
    ),
    "hardware": (
        "where a line bends, another resource has become scarce; points far below it are "
        "sizes at which the rule does not follow the plan"
    ),
    "memory-speed": (
        "level lines that are upright pay for slots, those that lie flat for speed; the "
        "star is the hardware as given"
    ),
    "pricing": (
        "on the left what each rule earns beside the two bounds; on the right what it "
        "gains by scheduling by the prices that it is paid by"
    ),
    "workload": (
        "above, where the plan stops admitting a class as requests get longer or more; "
        "below, that the laws of lengths change the scores little"
    ),
    "exact-optimum": (
        "where the two pictures differ in colour, the optimum keeps the last slots free "
        "and trunk reservation does not"
    ),
    "finite-clusters": "how many GPUs each rule needs to come within a hundredth of R*",
    "fluid-mpc": (
        "whether the bar of the policy that plans every second reaches further than that "
        "of trunk reservation beside it, by more than its interval"
    ),
    "time-varying-arrivals": (
        "the room between the bars and the bound in hindsight above them, and which policies use it"
    ),
    "bursty-optimum": (
        "the part in red is all that a better policy than trunk reservation could earn; "
        "the rest no policy earns"
    ),
    "learned": (
        "points above the line gain over trunk reservation; an interval across it is no gain"
    ),
    "kv-aware-rules": (
        "the best rule's share of R* under the KV-aware law below that at two speeds: the "
        "bound is less tight there"
    ),
}
"""By name of the study: what follows "What to see:"."""


def caption_line(name: str) -> str:
    """The line below the figure of a study, in italics; empty for a study without one."""
    text = CAPTIONS.get(name, "").replace("*", r"\*")
    return f"*What to see: {text}.*" if text else ""
