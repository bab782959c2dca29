"""Section 6.2: the plan's occupancies that gate-and-route reaches, by class and in sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import FluidPlan, plan
from research.framework.claims import Claim, Criterion, Findings
from research.framework.estimates import jackknifed
from research.framework.study import Cell, Row, Study, seeds
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCE = "base"
SIZES = (5, 20, 50, 200, 500)
# Cluster size, simulated seconds, warm-up: large clusters average over themselves.
LARGER = ((5000, 600.0, 300.0), (20_000, 300.0, 150.0))
STATIONS = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
X, Y_MIXED, Y_SOLO = (STATIONS.index(name) for name in ("x", "y_mixed", "y_solo"))
DECODES = [Y_MIXED, Y_SOLO]


class Occupancy(Study):
    """Compare occupancies by class and station of gate-and-route on ``base`` with the plan."""

    name = "occupancy"
    title = "Gate-and-route tracks x*, and the decodes in sum"
    source = "Section 6.2"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One run a size and seed."""
        times = [(n, 900.0, 300.0) for n in SIZES]
        times = [(n, 400.0, 200.0) for n in SIZES[:4]] if quick else [*times, *LARGER]
        return [
            simulated_cell("gate-and-route", INSTANCE, n, run, horizon=horizon, warmup=warmup)
            for n, horizon, warmup in times
            for run in seeds(seed, 3 if quick else 5)
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a class."""
        result = simulate(cell)
        return [
            {key: cell[key] for key in ("policy", "instance", "n_gpus", "seed")}
            | {"class": found.name}
            | {name: float(result.occupancy[name][i]) for name in STATIONS}
            for i, found in enumerate(result.classes)
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """Distances from the plan at the paper's largest size and at ours."""
        sizes, found = _occupancies(rows)
        shown = sorted({min(SIZES[-1], sizes[-1]), sizes[-1]})
        claims = [
            claim for n in shown for claim in self._findings_claims(n, found[:, sizes.index(n)])
        ]
        return Findings(claims, self._findings_table(rows))

    def _findings_claims(self, n: int, found: np.ndarray) -> list[Claim]:
        """At one size; occupancies by seed, station and class, shape (K, 5, I)."""
        fluid = plan(INSTANCE)
        decodes, found_decodes = fluid.occupancy[DECODES], found[:, DECODES]
        return [
            Claim(
                "Prefills in service track x* class by class",
                "section 6.2",
                f"sum of |X/n - x*| over that of x*, n = {n}",
                _distance(found[:, X], fluid.occupancy[X]),
                Criterion(high=0.05),
            ),
            Claim(
                "Decodes track the plan in sum over classes",
                "section 6.2",
                f"distance of the sums of Y_m/n and Y_s/n, relative, n = {n}",
                _distance(found_decodes.sum(axis=-1), decodes.sum(axis=-1)),
                Criterion(high=0.05),
            ),
            Claim(
                "They do not track a class-wise optimum y*: here the one that puts the first "
                "class into mixed slots as far as it goes",
                "section 6.2",
                f"distance from it by class, relative, n = {n}",
                _distance(found_decodes, one_sided_split(fluid)),
                Criterion(low=0.1),
                {"agrees": "solo slots go to the next request, whatever the optimum says"},
            ),
            Claim(
                "They do track the optimum with one solo probability for all classes, which is "
                "what a router blind to classes leads to",
                "this project",
                f"distance from the canonical split by class, relative, n = {n}",
                _distance(found_decodes, decodes),
                Criterion(high=0.05),
            ),
        ]

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        fluid, (sizes, found) = plan(INSTANCE), _occupancies(rows)
        table: list[Row] = []
        for k, n in enumerate([*sizes, "plan"]):
            for i, request_class in enumerate(fluid.instance.classes):
                cells = {"n": str(n), "class": request_class.name}
                for s, station in enumerate(STATIONS):
                    if n == "plan":
                        cells[station] = f"{fluid.occupancy[s, i]:.4f}"
                    else:
                        estimate = Estimate.of(found[:, k, s, i])
                        half = estimate.ci95[1] - estimate.mean
                        cells[station] = f"{estimate.mean:.4f}±{half:.4f}"
                table.append(cells)
        return table

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """A panel a station: by class and, for decodes, in sum; dotted lines are the plan."""
        fluid, (sizes, found) = plan(INSTANCE), _occupancies(rows)
        names = [c.name for c in fluid.instance.classes]
        figure.set_size_inches(14.0, 3.2)
        means, spread = found.mean(axis=0), found.std(axis=0)
        for s, axis in enumerate(figure.subplots(1, len(STATIONS))):
            for i, name in enumerate(names):
                axis.errorbar(
                    sizes, means[:, s, i], spread[:, s, i], fmt="o-", markersize=3, label=name
                )
                axis.axhline(fluid.occupancy[s, i], color=f"C{i}", linestyle=":")
            if s in {Y_MIXED, Y_SOLO}:
                axis.plot(sizes, means[:, s].sum(axis=-1), "o-", color="0.3", label="sum")
                axis.axhline(fluid.occupancy[s].sum(), color="0.3", linestyle=":")
            axis.set(title=f"{STATIONS[s]} / n", xlabel="GPUs", xscale="log", ylim=(0, None))
        figure.axes[Y_SOLO].legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:
        """Instance, sizes, replications."""
        sizes, found = _occupancies(rows)
        return (
            f"`{INSTANCE}`, bundled, n = {', '.join(map(str, sizes))}, {len(found)} seeds a size, "
            "started empty; ± is half a 95% interval, bars are standard deviations."
        )


def one_sided_split(fluid: FluidPlan) -> np.ndarray:
    """Another optimum: the first classes' decodes in mixed slots; rows y_mixed, y_solo, (2, I).

    Flows and sums are those of the plan: a decode that moves from a mixed to a solo slot takes
    mu_m / mu_s of its slots there, the same for all classes.
    """
    instance = fluid.instance
    flow = instance.mixed_decode_rates * fluid.y_mixed + instance.solo_decode_rates * fluid.y_solo
    left, mixed = float(fluid.y_mixed.sum()), np.zeros(instance.n_classes)
    for i in range(instance.n_classes):
        mixed[i] = min(left, flow[i] / instance.mixed_decode_rates[i])
        left -= mixed[i]
    solo = (flow - instance.mixed_decode_rates * mixed) / instance.solo_decode_rates
    return np.array([mixed, solo])


def _distance(found: np.ndarray, planned: np.ndarray) -> Estimate:
    """Sum of absolute differences over the sum of what is planned; replications first."""
    return jackknifed(lambda mean: float(np.abs(mean - planned).sum() / planned.sum()), found)


def _occupancies(rows: list[Row]) -> tuple[list[int], np.ndarray]:
    """Sizes and occupancies per GPU by seed, size, station and class, shape (K, N, 5, I)."""
    sizes = sorted({row["n_gpus"] for row in rows})
    runs = sorted({row["seed"] for row in rows})
    names = list(dict.fromkeys(row["class"] for row in rows))
    found = np.full((len(runs), len(sizes), len(STATIONS), len(names)), np.nan)
    for row in rows:
        k, n, i = runs.index(row["seed"]), sizes.index(row["n_gpus"]), names.index(row["class"])
        found[k, n, :, i] = [row[station] for station in STATIONS]
    return sizes, found
