"""The leaderboard as a study: a cell is a policy on an instance at one size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from research.framework.claims import Findings
from research.framework.study import Cell, Row, Study
from research.leaderboard.entrants import Entrant
from research.leaderboard.grid import SEED, Case, is_random, leaderboard_cases
from research.leaderboard.ranking_figure import draw_leaderboard
from research.leaderboard.standings import Standings, ranking
from research.setups.simulated_runs import simulate, simulated_cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRICING = "bundled"
# Seconds of a processor, roughly: for a request, and for a second in which Python decides.
_REQUEST, _DECISION, _DECISION_OF_A_CLASS = 0.5e-6, 2.5e-3, 0.5e-3


class Leaderboard(Study):
    """Everybody on the same cases.

    Args:
        competing: entrants, in the order of the rows.
    """

    name = "leaderboard"
    title = "Leaderboard"
    source = "This project"
    names_its_policies = True

    def __init__(self, competing: Sequence[Entrant]) -> None:
        self.competing = list(competing)

    def cells(self, *, quick: bool, seed: int = SEED) -> list[Cell]:  # noqa: ARG002 - it is fixed
        """One cell a case and entrant."""
        return [
            leaderboard_cell(case, entrant)
            for case in leaderboard_cases(quick=quick)
            for entrant in self.competing
            if entrant.enters(case)
        ]

    def cost(self, cell: Cell) -> float:
        """Seconds of a processor, to a factor of about two."""
        seconds = cell["horizon"] * cell["replications"]
        classes = cell["instance"]["classes"]
        requests = cell["n_gpus"] * sum(found["arrival_rate"] for found in classes)
        compiled = next(e.compiled for e in self.competing if e.label == cell["label"])
        decisions = 0.0 if compiled else _DECISION + _DECISION_OF_A_CLASS * len(classes)
        return float(seconds * (decisions + _REQUEST * requests))

    def compute(self, cell: Cell) -> list[Row]:
        """One row; ``scores`` has the replications', in their order."""
        known = {"label", "stamp"}
        result = simulate({key: value for key, value in cell.items() if key not in known})
        low, high = result.score.ci95
        row: Row = {
            "instance": result.instance,
            "n_gpus": result.n_gpus,
            "policy": cell["label"],
            "score": result.score.mean,
            "score_low": low,
            "score_high": high,
            "revenue_rate": result.revenue_rate.mean,
            "bound": result.bound,
            "ttft_p50": result.ttft.p50,
            "ttft_p99": result.ttft.p99,
            "tpot_p50": result.tpot.p50,
            "tpot_p99": result.tpot.p99,
            "abandoned_share": result.abandoned["share"],
            "pricing": result.pricing,
            "horizon": result.horizon,
            "warmup": result.warmup,
            "replications": result.replications,
            "seed": result.seed,
            "events": result.events,
            "scores": " ".join(map(repr, result.scores)),
        }
        return [{key: _known(value) for key, value in row.items()}]

    def findings(self, rows: list[Row]) -> Findings:
        """The ranking; it claims nothing."""
        return Findings([], ranking(Standings(rows)))

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """What each loses against the size."""
        special = [e.label for e in self.competing if not e.is_rule]
        draw_leaderboard(Standings(rows), special, figure)

    def settings(self, rows: list[Row]) -> str:
        """Instances, sizes, lengths of runs."""
        names = list(dict.fromkeys(row["instance"] for row in rows))
        given = ", ".join(f"`{name}`" for name in names if not is_random(name))
        drawn = sum(map(is_random, names))
        sizes = sorted({row["n_gpus"] for row in rows})
        runs, horizons, warmups = (
            _range(row[key] for row in rows) for key in ("replications", "horizon", "warmup")
        )
        return (
            f"{len(names)} instances ({given} and {drawn} random of seed {SEED}) at "
            f"n = {', '.join(map(str, sizes))}: {len({(r['instance'], r['n_gpus']) for r in rows})}"
            f" cases, {len(rows)} runs. {runs} replications of {horizons} s, of which {warmups} s "
            "are warm-up, by the slowest decode; all entrants of a case have the same requests, "
            f"seeds from {1000 * SEED} on. {PRICING.capitalize()} pricing."
        )


def leaderboard_cell(case: Case, entrant: Entrant) -> Cell:
    """The cell of an entrant in a case."""
    cell = simulated_cell(
        entrant.policy,
        case.instance.to_dict(),
        case.n_gpus,
        case.seed,
        horizon=case.horizon,
        warmup=case.warmup,
        replications=case.replications,
        pricing=PRICING,
    )
    return cell | {"label": entrant.label, "stamp": entrant.stamp}


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    low, high = found[0], found[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _known(value: Any) -> Any:
    """None for NaN, such as the latency without requests."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
