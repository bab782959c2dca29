"""Study: the exact optimum of tiny systems compared with every policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from research.framework.claims import Claim, Criterion, Findings, exact
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
from research.setups.tiny_optima import (
    BEST_RESERVE,
    EXACT,
    OPTIMUM,
    RANDOM_GPU,
    SIMULATED,
    TRUNK,
    run_settings,
    tiny_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# slots, load, gamma (None: the preset's), GPUs, pricing, queue limit, decode limit
CASES = (
    (16, 1.5, None, 1, "bundled", 12, 1),
    (16, 2.0, None, 1, "bundled", 16, 1),
    (4, 1.0, None, 1, "bundled", 12, 1),
    (4, 1.5, None, 1, "bundled", 12, 1),
    (4, 1.5, None, 2, "bundled", 10, 1),
    (2, 1.5, None, 3, "bundled", 10, 1),
    (4, 0.8, None, 1, "separate", 8, 8),
    (4, 0.5, 20.0, 1, "bundled", 8, 8),
)
_NAMES = ("slots", "load", "gamma", "n_gpus", "pricing", "queue_limit", "decode_limit")
TOKEN_BUCKET = "token-bucket"
# Shares of the optimum that trunk reservation should earn.
GOAL, FASTER_MIXED_GOAL = 0.99, 0.95
# Of one class alone, in the figure.
_MAP = {"slots": 4, "load": 1.5, "pricing": "bundled"}
# The preset overload on one GPU: where the best reserve is all that is missing.
_OVERLOAD = {"slots": 16, "load": 2.0, "n_gpus": 1}
_NEARLY_ALL = 0.999


class ExactOptimum(Study):
    """The optimum of the Markov decision process, R*, and what every rule earns."""

    name = "exact-optimum"
    title = "The exact optimum of tiny systems"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell a system; quick: one GPU with few slots and short queues."""
        cases: list[Cell] = [dict(zip(_NAMES, case, strict=True)) for case in CASES]
        if quick:
            cases = [
                case | {"queue_limit": 4, "decode_limit": min(3, case["decode_limit"])}
                for case in cases
                if case["n_gpus"] == 1 and case["slots"] == 4
            ]
        runs = run_settings(quick=quick, seed=seed)
        return [{"preset": "base"} | case | runs for case in cases]

    def cost(self, cell: Cell) -> float:
        """States, roughly: GPU configurations to the number of GPUs, times queues."""
        queues = (cell["queue_limit"] * (cell["decode_limit"] + 2)) ** 2
        return float(queues * cell["slots"] ** (2 * cell["n_gpus"]))

    def compute(self, cell: Cell) -> list[Row]:
        """The system, optimum, policies, differences and the region of admission."""
        return tiny_rows(cell)

    def findings(self, rows: list[Row]) -> Findings:
        """The optimum below R*, the rules below the optimum, and how far."""
        cases = systems(rows)
        plain = [own for own in cases if not _mixed_is_faster(own)]
        other = [own for own in cases if _mixed_is_faster(own)]
        claims = [_bound_claim(cases), _simulator_claim(cases)]
        claims += [_near_claim(plain, GOAL, ">=")] if plain else []
        claims += [_near_claim(other, FASTER_MIXED_GOAL, "<")] if other else []
        claims.append(_bounds_part(cases))
        claims += [_reserve_claim(own) for own in cases if _OVERLOAD.items() <= own[0].items()]
        return Findings(claims, _findings_table(cases), [_differences(own) for own in cases])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Where a class alone is admitted: busy slots and queue, optimum and rule."""
        shown = max(
            (own for own in systems(rows) if _MAP.items() <= own[0].items()),
            key=lambda own: int(own[0]["n_gpus"]),
        )
        points = selected(shown, kind="region")
        most_busy = max(r["busy_slots"] for r in points)
        most_waiting = max(r["waiting"] for r in points)
        figure.set_size_inches(8.4, 3.6)
        for axis, name in zip(figure.subplots(1, 2, sharey=True), (OPTIMUM, TRUNK), strict=True):
            shares = np.full((most_waiting, most_busy + 1), np.nan)
            for r in selected(points, name=name):
                shares[r["waiting"] - 1, r["busy_slots"]] = r["share"]
            extent = (-0.5, most_busy + 0.5, 0.5, most_waiting + 0.5)
            image = axis.imshow(
                shares, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=1
            )
            axis.set(title=name, xlabel="slots in use")
        figure.axes[0].set_ylabel("waiting requests of the class")
        figure.colorbar(image, ax=figure.axes, label="share admitted")
        figure.suptitle(f"Class of the lower bid, waiting alone: {shown[0]['system']}")

    def settings(self, rows: list[Row]) -> str:
        """The systems, and how to read the numbers."""
        runs = "; ".join(
            f"{own[0]['system']}: {_one(own, 'system')['name']}" for own in systems(rows)
        )
        return (
            "The Markov decision process of the model, solved between certified ends: full "
            "information on counts, every order of admissions and placements, waiting included. "
            "Instances are `base` with fewer slots at the same load: with s = B/16, outputs of "
            "s D tokens at a price of c_d/s. Revenue is per GPU and second; exact numbers are two "
            "ends that hold the true one, simulated ones have 95% intervals. The optimum is that "
            f"of policies that let no more prefilled requests wait than stated. {runs}."
        )


def _one(own: list[Row], kind: str, **wanted: str) -> Row:
    return selected(own, kind=kind, **wanted)[0]


def _mixed_is_faster(own: list[Row]) -> bool:
    """Whether a mixed GPU decodes more than a solo one: gamma tau_mix < (B-1)/B."""
    slots = int(own[0]["slots"])
    return bool(own[0]["speed_ratio"] < (slots - 1) / slots)


def _bound_claim(cases: list[list[Row]]) -> Claim:
    shares = [_one(own, "policy", name=OPTIMUM)["lower"] / _one(own, "system")["upper"]
              for own in cases]  # fmt: skip
    return Claim(
        "No policy earns more than R*: nor does the best one",
        "Theorem 4.1",
        f"greatest of {len(cases)} systems: what the optimal policy earns at least, in R*",
        exact(max(shares)),
        Criterion(high=1.0),
    )


def _near_claim(cases: list[list[Row]], goal: float, relation: str) -> Claim:
    shares = [
        ratio(_one(own, "policy", name=TRUNK, method=EXACT), _one(own, "policy", name=OPTIMUM))
        for own in cases
    ]
    return Claim(
        f"{TRUNK} earns at least {goal:g} of the optimum where gamma tau_mix {relation} (B-1)/B",
        "this project",
        f"least share of the optimum, of {len(cases)} systems",
        min(shares, key=lambda share: share.mean),
        Criterion(low=goal),
    )


def _simulator_claim(cases: list[list[Row]]) -> Claim:
    ratios = [
        ratio(
            _one(own, "policy", name=TRUNK, method=SIMULATED),
            _one(own, "policy", name=TRUNK, method=EXACT),
        )
        for own in cases
    ]
    return simulator_claim("The simulator earns what the Markov chain says", TRUNK, ratios, 0.01)


def _bounds_part(cases: list[list[Row]]) -> Claim:
    """Whose is the gap to R*, the rule's or the bound's?"""
    parts = [
        part_of_gap(
            _one(own, "system")["upper"],
            _one(own, "policy", name=OPTIMUM),
            _one(own, "policy", name=TRUNK, method=EXACT),
        )
        for own in cases
    ]
    return gap_claim(f"Most of what {TRUNK} lacks of R* no policy can earn", parts, 0.5)


def _reserve_claim(own: list[Row]) -> Claim:
    best = _one(own, "policy", name=BEST_RESERVE)
    return Claim(
        f"On one GPU of `overload` all that {TRUNK} lacks is the right number of free slots",
        "this project",
        f"share of the optimum that {BEST_RESERVE} earns, {own[0]['system']}",
        ratio(best, _one(own, "policy", name=OPTIMUM)),
        Criterion(low=_NEARLY_ALL),
    )


def _findings_table(cases: list[list[Row]]) -> list[Row]:
    """Revenues, then shares in % of the optimum: a column a system, a line a policy."""
    lines: dict[str, Row] = {}

    def put(line: str, own: list[Row], text: str) -> None:
        lines.setdefault(line, {"% of the optimum": line})[own[0]["system"]] = text

    for own in cases:
        best = _one(own, "policy", name=OPTIMUM)
        put("R*, revenue", own, f"{_one(own, 'system')['upper']:.2f}")
        put("optimum, revenue", own, f"{best['lower']:.2f} to {best['upper']:.2f}")
        put("R*", own, f"{100 * _one(own, 'system')['upper'] / middle(best):.2f}")
        drawn = selected(own, kind="policy", name=RANDOM_GPU)
        put(RANDOM_GPU, own, _percent(drawn[0] if drawn else best, best))
        for row in selected(own, kind="policy"):
            if row["name"] not in {OPTIMUM, RANDOM_GPU}:
                put(f"{row['name']}, {row['method']}", own, _percent(row, best))
        put(f"of {TOKEN_BUCKET}'s gap to R*, the optimum closes", own, _closed(own))
    return list(lines.values())


def _closed(own: list[Row]) -> str:
    """What part of the way from the credit gate to R* the optimum gets."""
    start = middle(_one(own, "policy", name=TOKEN_BUCKET))
    best = middle(_one(own, "policy", name=OPTIMUM))
    return f"{100 * (best - start) / (_one(own, 'system')['upper'] - start):.1f}"


def _percent(row: Row, best: Row) -> str:
    text = f"{100 * middle(row) / middle(best):.2f}"
    half = 50 * (row["upper"] - row["lower"]) / middle(best)
    return f"{text}±{half:.2f}" if row["method"] == SIMULATED else text


def _differences(own: list[Row]) -> str:
    """Where the rule and the optimum over the same actions part, the dearest first."""
    shares = {row["name"]: row for row in selected(own, kind="shares")}
    listed = []
    for row in selected(own, kind="difference")[:3]:
        optimal, rule = row["name"].split(" | ")
        listed.append(f"*{optimal}* for *{rule}* ({row['share']:.0%})")
    parts = f"; most of it by {', '.join(listed)}" if listed else ""
    return (
        f"{own[0]['system']}: the optimum over the same actions earns "
        f"{shares['gap']['lower']:.3f} more than {TRUNK}, makes "
        f"{shares['decisions that differ']['share']:.1%} of its decisions otherwise and spends "
        f"{shares['time in which the optimum holds back']['share']:.1%} of the time waiting where "
        f"it would act{parts}."
    )
