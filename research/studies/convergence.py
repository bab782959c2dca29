"""Theorem 4.1: gate-and-route approaches R* as the cluster grows, and at what rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import plan
from research.framework.claims import Claim, Criterion, Findings
from research.framework.estimates import decay_exponent
from research.framework.study import Cell, Row, Study, seeds
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCE = "base"
SIZES = (5, 20, 50, 200, 500)
LARGER_SIZES = (1000, 2000, 5000, 20_000, 50_000)
PAPERS_LARGEST = SIZES[-1]
QUEUE_MARGIN = 0.02
# From here on fluctuations of admissions are small compared with what the plan turns away.
LIMIT_SIZE = 5000
QUEUES = ("q_prefill", "q_decode")


class Convergence(Study):
    """Revenue and queues of gate-and-route on ``base`` against the number of GPUs."""

    name = "convergence"
    title = "Gate-and-route approaches R*"
    source = "Section 6.2, Theorem 4.1"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One run a size and seed."""
        sizes = SIZES[:4] if quick else (*SIZES, *LARGER_SIZES)
        times = dict.fromkeys(sizes, (300.0, 100.0) if quick else (900.0, 300.0))
        # Large clusters average over themselves.
        times |= {n: (300.0, 150.0) for n in sizes if n > LIMIT_SIZE}
        return [
            simulated_cell("gate-and-route", INSTANCE, n, run, horizon=horizon, warmup=warmup)
            for n, (horizon, warmup) in times.items()
            for run in seeds(seed, 4 if quick else 5)
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """Share of R* and queues per GPU."""
        result = simulate(cell)
        queues = {
            f"{queue} {found.name}": float(result.occupancy[queue][i])
            for queue in QUEUES
            for i, found in enumerate(result.classes)
        }
        row = {key: cell[key] for key in ("policy", "instance", "n_gpus", "seed")}
        return [row | {"share": result.score.mean, "bound": result.bound} | queues]

    def findings(self, rows: list[Row]) -> Findings:
        """The gap falls; what is left of it and of the queues at the largest size."""
        sizes, shares = _by_size(rows, "share")
        largest = sizes[-1]
        exponent = decay_exponent(sizes, 1.0 - shares)
        why = f"{_chance_admissions(largest)}, so the limit is far"
        claims = [
            Claim(
                "The revenue of gate-and-route converges to R*: the gap 1 - share falls with n",
                "Theorem 4.1",
                f"exponent of n in the gap, n = {sizes[0]} to {largest}",
                exponent,
                Criterion(high=0.0),
                {"agrees": f"ten times the GPUs leave {10**exponent.mean:.0%} of the gap"},
                ".3f",
            ),
            Claim(
                "In the limit all of R* is earned, here 99% of it",
                "Theorem 4.1",
                f"share of R* at n = {largest}",
                Estimate.of(shares[:, -1]),
                Criterion(0.99, 1.0),
                {"differs": why, "undecided": why},
            ),
            *(claim for queue in QUEUES for claim in _queue_claims(rows, queue, why)),
        ]
        limit = [k for k, n in enumerate(sizes) if n >= LIMIT_SIZE]
        if len(limit) > 1:
            claims.append(
                Claim(
                    "Where the limit is near, the gap falls like n^(-1/2), as fluctuations do",
                    "this project",
                    f"exponent of n in the gap, n = {sizes[limit[0]]} to {largest}",
                    decay_exponent([sizes[k] for k in limit], 1.0 - shares[:, limit]),
                    Criterion(-0.6, -0.4),
                    shown=".3f",
                )
            )
        remarks = [f"At n = {n}: {_chance_admissions(n)}." for n in sizes if n == PAPERS_LARGEST]
        return Findings(claims, self._findings_table(rows), remarks)

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        columns = {"share": "share of R*"} | {
            name: f"{name} per GPU" for name in rows[0] if name.startswith(QUEUES)
        }
        fluid, table = plan(INSTANCE), []
        found = {name: _by_size(rows, name) for name in columns}
        for k, n in enumerate(found["share"][0]):
            estimates = {name: Estimate.of(values[:, k]) for name, (_, values) in found.items()}
            cells = {
                columns[name]: f"{e.mean:.4f}±{e.ci95[1] - e.mean:.4f}"
                for name, e in estimates.items()
            }
            table.append({"n": n, "mixed pool / n": fluid.pool_size(n) / n} | cells)
        return table

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """The gap in logarithmic scales; queues and those of the plan."""
        figure.set_size_inches(9.0, 3.6)
        gap, queues = figure.subplots(1, 2)
        sizes, shares = _by_size(rows, "share")
        gap.loglog(sizes, 1.0 - shares.T, ".", color="C0", alpha=0.4)
        means = 1.0 - shares.mean(axis=0)
        gap.loglog(sizes, means, "o-", color="C0", label="gate-and-route")
        reference = means[0] * (np.array(sizes) / sizes[0]) ** -0.5
        gap.loglog(sizes, reference, "--", color="0.6", label="$n^{-1/2}$")
        gap.set(xlabel="GPUs", ylabel="1 - share of R*", title="gap to R*")
        gap.legend()
        names = [name for name in rows[0] if name.startswith(QUEUES)]
        planned = np.concatenate([getattr(plan(INSTANCE), queue) for queue in QUEUES])
        for k, (name, level) in enumerate(zip(names, planned, strict=True)):
            _, values = _by_size(rows, name)
            queues.semilogx(sizes, values.mean(axis=0), "o-", color=f"C{k}", label=name)
            queues.axhline(level, color=f"C{k}", linestyle=":", linewidth=1)
        queues.set(xlabel="GPUs", ylabel="per GPU", title="queues (dotted: plan)")
        queues.legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:
        """Instance, sizes, replications."""
        sizes, shares = _by_size(rows, "share")
        return (
            f"`{INSTANCE}`, bundled, n = {', '.join(map(str, sizes))}, {len(shares)} seeds a size, "
            "started empty; ± is half a 95% interval."
        )


def _queue_claims(rows: list[Row], queue: str, why: str) -> list[Claim]:
    """Compare a queue of all classes with the plan's: at the largest size, and on the way there."""
    planned = float(getattr(plan(INSTANCE), queue).sum())
    columns = [_by_size(rows, name) for name in rows[0] if name.startswith(queue)]
    sizes, found = columns[0][0], np.sum([values for _, values in columns], axis=0)
    claims = [
        Claim(
            f"{queue} is the plan's {planned:.4f} per GPU in the limit",
            "section 6.2",
            f"{queue} per GPU, all classes, at n = {sizes[-1]}",
            Estimate.of(found[:, -1]),
            Criterion(planned - QUEUE_MARGIN, planned + QUEUE_MARGIN),
            {"differs": why, "undecided": why},
        )
    ]
    late = [k for k, n in enumerate(sizes) if n >= PAPERS_LARGEST]
    if len(late) > 1:
        claims.append(
            Claim(
                f"{queue} approaches it, beyond the paper's sizes",
                "section 6.2",
                f"exponent of n in its distance from the plan, n = {sizes[late[0]]} to {sizes[-1]}",
                decay_exponent([sizes[k] for k in late], np.abs(found[:, late] - planned)),
                Criterion(high=0.0),
                shown=".3f",
            )
        )
    return claims


def _chance_admissions(n: int) -> str:
    """Compare what rounding and chance admit beyond the plan with what the plan turns away."""
    fluid = plan(INSTANCE)
    instance, turned_away = fluid.instance, 1.0 - fluid.admission_fraction
    i = int(np.argmax(turned_away))
    whole = float(fluid.x[turned_away == 0].sum())
    rate = float(instance.prefill_rates[i])
    rounding = rate * (fluid.pool_size(n) / n - fluid.mixed_fraction)
    chance = rate * float(np.sqrt(whole / n))
    refused = float((instance.arrival_rates * turned_away)[i])
    return (
        f"the plan turns away {refused:.4f} {instance.classes[i].name} requests per GPU and "
        f"second, whereas a pool rounded up to whole GPUs can admit {rounding:.4f} more, and slots "
        f"that the other class leaves free by chance (one standard deviation) {chance:.4f}"
    )


def _by_size(rows: list[Row], column: str) -> tuple[list[int], np.ndarray]:
    """Sizes, shape (N,), and a column by seed and size, shape (K, N)."""
    sizes = sorted({row["n_gpus"] for row in rows})
    values = [[row[column] for row in rows if row["n_gpus"] == n] for n in sizes]
    return sizes, np.array(values).T
