"""Theorem 3.1: convergence of sample paths divided by n to the fluid dynamics."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import fluid_path, plan
from llm_sched_env.simulation.events.random_streams import replication_seed
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation
from research.framework.claims import Claim, Criterion, Findings
from research.framework.estimates import decay_exponent
from research.framework.study import Cell, Row, Study, seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCE = "overload"
ROUTERS = {"solo-first": "gate-and-route", "randomized": "SLI-aware"}
SIZES = (20, 200, 2000, 20_000)
HORIZON, STEP = 60.0, 0.25
# A row of the CSV every so many steps.
KEPT = 6
STATIONS = ("q_prefill", "x", "q_decode", "y_mixed", "y_solo")
# A backlog before an otherwise empty cluster, requests per GPU by class.
BACKLOG = ((3.0, 1.0), *((0.0, 0.0),) * 4)
TIMES = np.arange(round(HORIZON / STEP) + 1) * STEP


class FluidPaths(Study):
    """Compare sample paths over n with the fluid path from the same state, for two routers."""

    name = "fluid-paths"
    title = "Sample paths converge to the fluid dynamics"
    source = "Sections 3 to 5, Theorem 3.1, equations (24)-(37)"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One path a router, size and seed; the paths of the first seed are kept."""
        runs = seeds(seed, 6 if quick else 12)
        return [
            {"router": router, "n_gpus": n, "seed": run, "keep_path": run == runs[0]}
            for router in ROUTERS
            for n in (SIZES[:3] if quick else SIZES)
            for run in runs
        ]

    def cost(self, cell: Cell) -> float:
        """GPUs: the simulated time is the same for all."""
        return float(cell["n_gpus"])

    def compute(self, cell: Cell) -> list[Row]:
        """The greatest distance from the fluid by station; the path and the fluid if kept."""
        n, router = cell["n_gpus"], cell["router"]
        fluid_occupancy = _fluid(router, n)
        path = _sample_path(router, n, cell["seed"])
        same = {"router": router, "n_gpus": n, "seed": cell["seed"]}
        # In the fluid, what can start at time 0 has started; in the cluster, after its first event.
        gaps = np.abs(path - fluid_occupancy)[1:].max(axis=(0, 2))
        rows: list[Row] = [
            same
            | {"kind": "distance", "distance": float(gaps.max())}
            | dict(zip((f"distance {s}" for s in STATIONS), map(float, gaps), strict=True))
        ]
        if cell["keep_path"]:
            for kind, values in (("path", path), ("fluid", fluid_occupancy)):
                rows += [
                    same | {"kind": kind, "time": float(TIMES[k])} | _columns(values[k])
                    for k in range(0, len(TIMES), KEPT)
                ]
        return rows

    def findings(self, rows: list[Row]) -> Findings:
        """Exponents of n in the distance."""
        claims, table = [], []
        for router, policy in ROUTERS.items():
            sizes, gaps = _distances(rows, router, "distance")
            exponent = decay_exponent(sizes, gaps)
            claims += [
                Claim(
                    f"Sample paths of {policy} over n converge to the fluid path",
                    "Theorem 3.1",
                    f"exponent of n in the mean sup distance, n = {sizes[0]} to {sizes[-1]}",
                    exponent,
                    Criterion(high=0.0),
                    shown=".3f",
                ),
                Claim(
                    f"The distance of {policy} falls like n^(-1/2), as Poisson counts do",
                    "this project",
                    "the same exponent",
                    exponent,
                    Criterion(-0.6, -0.4),
                    shown=".3f",
                ),
            ]
            for k, n in enumerate(sizes):
                cells: Row = {"policy": policy, "n": n}
                for name in ("distance", *(f"distance {s}" for s in STATIONS)):
                    estimate = Estimate.of(_distances(rows, router, name)[1][:, k])
                    half = estimate.ci95[1] - estimate.mean
                    cells[name.replace("distance ", "")] = f"{estimate.mean:.4f}±{half:.4f}"
                table.append(cells)
        fluid = plan(INSTANCE)
        least = int(np.argmin(fluid.x))
        remark = (
            f"At n = {sizes[0]} the target n x* of {fluid.instance.classes[least].name} is "
            f"{sizes[0] * fluid.x[least]:.2f} of a GPU: one prefill overshoots it, and what is "
            "admitted beyond the plan waits for a decode slot."
        )
        return Findings(claims, table, [remark])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """A row a router, a panel a station; the fluid of the largest size is dashed."""
        names = [c.name for c in plan(INSTANCE).instance.classes]
        sizes = sorted({row["n_gpus"] for row in rows})
        figure.set_size_inches(10.5, 4.2)
        axes = figure.subplots(len(ROUTERS), len(STATIONS), sharex=True)
        for line, (router, policy) in zip(axes, ROUTERS.items(), strict=True):
            for axis, station in zip(line, STATIONS, strict=True):
                for n in sizes[:3]:
                    width = 0.5 + 0.5 * sizes.index(n)
                    self._draw_paths(axis, _kept(rows, router, n, "path"), station, width, n)
                fluid_rows = _kept(rows, router, sizes[-1], "fluid")
                times = [row["time"] for row in fluid_rows]
                for name in names:
                    values = [row[f"{station} {name}"] for row in fluid_rows]
                    axis.plot(times, values, "k--", linewidth=1)
                axis.set(title=f"{station} / n", ylim=(0, None))
            line[0].set_ylabel(policy)
        axes[0, 0].legend(fontsize="x-small")

    def _draw_paths(
        self, axis: object, rows: list[Row], station: str, width: float, n: int
    ) -> None:
        names = [c.name for c in plan(INSTANCE).instance.classes]
        for i, name in enumerate(names):
            axis.plot(  # type: ignore[attr-defined]
                [row["time"] for row in rows],
                [row[f"{station} {name}"] for row in rows],
                color=f"C{i}",
                linewidth=width,
                alpha=0.7,
                label=f"{name}, n = {n}",
            )

    def settings(self, rows: list[Row]) -> str:
        """Instance, start, sizes, replications."""
        sizes = sorted({row["n_gpus"] for row in rows})
        runs = len({row["seed"] for row in rows})
        start = " and ".join(f"{v:g}" for v in BACKLOG[0])
        return (
            f"`{INSTANCE}` from an empty cluster with a backlog of {start} requests per GPU, "
            f"{HORIZON:g} s, n = {', '.join(map(str, sizes))}, {runs} seeds. The fluid has the "
            "mixed pool of the cluster, ceil(n sum x*) / n, so that rounding is no distance. The "
            f"distance is the greatest over classes, stations and times, every {STEP:g} s from the "
            "first step on."
        )


@cache
def _fluid(router: str, n_gpus: int) -> np.ndarray:
    """The fluid path of a cluster's pool, shape (T, 5, I)."""
    fluid = plan(INSTANCE)
    path = fluid_path(
        fluid,
        HORIZON,
        router=router,
        start=np.array(BACKLOG),
        mixed_fraction=fluid.pool_size(n_gpus) / n_gpus,
    )
    return path.at(TIMES).occupancy


def _sample_path(router: str, n_gpus: int, seed: int) -> np.ndarray:
    """Counts over n at :data:`TIMES`, shape (T, 5, I)."""
    fluid = plan(INSTANCE)
    simulation = Simulation(
        fluid.instance,
        DispatchRule(gate="occupancy", router=router, pools="static"),
        fluid.controls(n_gpus),
        n_gpus,
        replication_seed(seed, 0),
        np.array(BACKLOG),
        latencies=False,
    )
    found = np.empty((len(TIMES), len(STATIONS), fluid.instance.n_classes))
    for k, time in enumerate(TIMES):
        simulation.run(float(time))
        classes = simulation.state.classes
        found[k] = [classes[station] for station in STATIONS]
    return found / n_gpus


def _columns(occupancy: np.ndarray) -> Row:
    names = [c.name for c in plan(INSTANCE).instance.classes]
    return {
        f"{station} {name}": float(occupancy[s, i])
        for s, station in enumerate(STATIONS)
        for i, name in enumerate(names)
    }


def _kept(rows: list[Row], router: str, n: int, kind: str) -> list[Row]:
    wanted = (router, n, kind)
    return [row for row in rows if (row["router"], row["n_gpus"], row["kind"]) == wanted]


def _distances(rows: list[Row], router: str, column: str) -> tuple[list[int], np.ndarray]:
    """Sizes, shape (N,), and a distance by seed and size, shape (K, N)."""
    sizes = sorted({row["n_gpus"] for row in rows})
    values = [[row[column] for row in _kept(rows, router, n, "distance")] for n in sizes]
    return sizes, np.array(values).T
