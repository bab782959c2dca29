"""Study: what a policy that observes bursts could still earn on exactly solvable systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from research.framework.claims import Claim, Criterion, Findings
from research.framework.row_selection import selected
from research.framework.study import Cell, Row, Study
from research.setups.between_ends import (
    gap_claim,
    middle,
    part_of_gap,
    ratio,
    simulator_claim,
    systems,
)
from research.setups.bursty_optima import (
    BURSTS,
    LEARNED,
    MORE,
    STEADY,
    bursty_rows,
)
from research.setups.tiny_optima import EXACT, OPTIMUM, SIMULATED, TRUNK, run_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# preset, slots, GPUs, queue limit
CASES = (
    ("bursts", 4, 1, 20),
    ("bursts", 8, 1, 24),
    ("bursts", 4, 2, 20),
    ("bursts-dolly", 4, 1, 40),
    ("bursts-dolly", 8, 1, 40),
)
_NAMES = ("preset", "slots", "n_gpus", "queue_limit")
_SHORTEST_QUEUES = 6
# What sees bursts gains at most, in R*, by preset.
LIMITS = {"bursts": 0.005, "bursts-dolly": 0.001}
_NO_POLICY = 0.9


class BurstyOptimum(Study):
    """Compare trunk reservation, which does not see bursts, with the optimum that does."""

    name = "bursty-optimum"
    title = "What seeing a burst could earn"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """Two cells a system, with its bursts and without; quick: the smallest, short queues."""
        shared = {"pricing": "bundled", "decode_limit": 1, **run_settings(quick=quick, seed=seed)}
        cases: list[Cell] = [dict(zip(_NAMES, case, strict=True)) for case in CASES]
        if quick:
            shortened = {"queue_limit": _SHORTEST_QUEUES}
            cases = [c | shortened for c in cases if (c["slots"], c["n_gpus"]) == (4, 1)]
        return [case | {"traffic": t} | shared for case in cases for t in (BURSTS, STEADY)]

    def cost(self, cell: Cell) -> float:
        """States, roughly; bursts have three times as many, and mix slowly."""
        slowness = 10.0 if cell["traffic"] == BURSTS else 1.0
        return float(slowness * cell["queue_limit"] ** 2 * cell["slots"] ** (2 * cell["n_gpus"]))

    def compute(self, cell: Cell) -> list[Row]:
        """R*, the optimum and two rules."""
        return bursty_rows(cell)

    def findings(self, rows: list[Row]) -> Findings:
        """What seeing bursts is worth at most, by preset, and whose the rest of the gap is."""
        bursty = [selected(own, traffic=BURSTS) for own in systems(rows)]
        claims = [_gain_claim(preset, bursty) for preset in LIMITS]
        claims += [_gap_claim(bursty), _simulator_claim(systems(rows))]
        return Findings(claims, [_line(own) for own in systems(rows)])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """What is lacking to R*, with and without bursts: the optimum's part and the rule's."""
        cases = systems(rows)
        figure.set_size_inches(8.4, 3.6)
        axis, places = figure.subplots(), np.arange(len(cases))
        for shift, traffic, colour in ((-0.2, STEADY, "tab:gray"), (0.2, BURSTS, "tab:orange")):
            chosen = [selected(own, traffic=traffic) for own in cases]
            best = np.array([100.0 * _lacks(own, OPTIMUM) for own in chosen])
            rule = np.array([100.0 * _lacks(own, TRUNK) for own in chosen])
            axis.bar(
                places + shift, best, 0.36, color=colour, label=f"{traffic}: no policy earns it"
            )
            axis.bar(
                places + shift, rule - best, 0.36, best,
                color="tab:red", label=f"{TRUNK} leaves it" if traffic == STEADY else None,
            )  # fmt: skip
        labels = [own[0]["system"].replace(", ", "\n", 1) for own in cases]
        axis.set_xticks(places, labels, fontsize="x-small")
        most = 100.0 * max(_lacks(selected(own, traffic=BURSTS), TRUNK) for own in cases)
        axis.set(ylabel="% of R* not earned", ylim=(0.0, 1.2 * most))
        axis.legend(fontsize="small", ncols=3, loc="upper center")

    def settings(self, rows: list[Row]) -> str:
        """The systems, and how to read the numbers."""
        sizes = "; ".join(
            f"{own[0]['system']}: {own[0]['states']:,} states" for own in systems(rows)
        )
        return (
            "Presets with fewer slots at the same load (*The exact optimum of tiny systems*), "
            "`bursts-dolly` in two classes of the mean lengths of those that write more than they "
            "read and of the others. The Markov decision process now has the state of the bursts "
            "in it: the optimum sees it, so a policy that has to guess earns less. *Steady* are "
            f"the same arrivals without bursts. {TRUNK} knows mean rates only. Exact numbers are "
            f"two ends that hold the true one; what {LEARNED} earns more than {TRUNK} is "
            f"simulated, on the same requests, with 95% intervals. {sizes}."
        )


def _one(own: list[Row], policy: str, method: str = EXACT) -> Row:
    return selected(own, policy=policy, method=method)[0]


def _lacks(own: list[Row], policy: str) -> float:
    """Of R*, a share."""
    row = _one(own, policy)
    return 1.0 - middle(row) / float(row["bound"])


def _gain(own: list[Row]) -> Estimate:
    """What the optimum earns more than trunk reservation, in R*, by the outermost ends of both."""
    best, rule = _one(own, OPTIMUM), _one(own, TRUNK)
    ends = (best["lower"] - rule["upper"], best["upper"] - rule["lower"])
    bound = float(best["bound"])
    # The rule is a policy too: it earns no more than the best one.
    low, high = max(0.0, ends[0] / bound), ends[1] / bound
    return Estimate((middle(best) - middle(rule)) / bound, (low, high))


def _gain_claim(preset: str, cases: list[list[Row]]) -> Claim:
    gains = [_gain(own) for own in cases if own[0]["preset"] == preset]
    return Claim(
        f"Under `{preset}` a policy that sees the bursts gains at most {LIMITS[preset]:.1%} of R*",
        "this project",
        f"optimum less {TRUNK}, share of R*, the greatest end of {len(gains)} systems",
        max(gains, key=lambda gain: gain.ci95[1]),
        Criterion(high=LIMITS[preset]),
        shown=".5f",
    )


def _gap_claim(cases: list[list[Row]]) -> Claim:
    parts = [
        part_of_gap(float(own[0]["bound"]), _one(own, OPTIMUM), _one(own, TRUNK)) for own in cases
    ]
    statement = f"Nearly all that {TRUNK} lacks of R* under bursts no policy can earn"
    return gap_claim(statement, parts, _NO_POLICY)


def _simulator_claim(cases: list[list[Row]]) -> Claim:
    ratios = [
        ratio(_one(own, TRUNK, SIMULATED), _one(own, TRUNK))
        for own in (selected(case, traffic=t) for case in cases for t in (BURSTS, STEADY))
    ]
    statement = "The simulator earns what the Markov chain says, bursts or not"
    return simulator_claim(statement, TRUNK, ratios, 0.02)


def _line(own: list[Row]) -> Row:
    """Shares of R* in %, and what is left, by traffic."""
    line: Row = {"system": own[0]["system"]}
    for traffic in (STEADY, BURSTS):
        chosen = selected(own, traffic=traffic)
        bound = float(chosen[0]["bound"])
        gain = _gain(chosen)
        ends = [100.0 * end for end in gain.ci95]
        learned = _one(chosen, LEARNED, MORE)
        half = 50.0 * (learned["upper"] - learned["lower"]) / bound
        line |= {
            f"{traffic}: optimum": f"{100.0 * middle(_one(chosen, OPTIMUM)) / bound:.3f}",
            f"{traffic}: {TRUNK}": f"{100.0 * middle(_one(chosen, TRUNK)) / bound:.3f}",
            f"{traffic}: left at most": f"{ends[1]:.3f}",
            f"{traffic}: {LEARNED}": f"{100.0 * middle(learned) / bound:+.3f}±{half:.3f}",
        }
    return line
