"""Section 4.2, Figure 2: revenue and queues when prompts are charged separately."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.planning import PRICINGS, plan
from research.framework.claims import Claim, Criterion, Findings
from research.framework.study import Cell, Row, Study, seeds
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCES = ("base", "overload")
# The policy that the paper gives for each kind of charging.
POLICY_OF = {"bundled": "gate-and-route", "separate": "prioritize-and-route"}
SIZES = (50, 500, 5000)


class SeparateCharging(Study):
    """Compare gate-and-route on the bundled plan with prioritize-and-route on the separate one."""

    name = "separate-charging"
    title = "Bundled and separate charging"
    source = "Section 4.2, Figure 2"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One run an instance, size, charging and seed."""
        return [
            simulated_cell(
                POLICY_OF[pricing],
                instance,
                n,
                run,
                horizon=300.0 if quick else 600.0,
                warmup=150.0 if quick else 300.0,
                pricing=pricing,
            )
            for instance in INSTANCES
            for n in (SIZES[:1] if quick else SIZES)
            for pricing in PRICINGS
            for run in seeds(seed, 4 if quick else 5)
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """Revenue of both kinds, and queues by class."""
        result = simulate(cell)
        queues = {
            f"{queue} {found.name}": float(result.occupancy[queue][i])
            for queue in ("q_prefill", "q_decode")
            for i, found in enumerate(result.classes)
        }
        row = {key: cell[key] for key in ("instance", "n_gpus", "pricing", "policy", "seed")}
        return [
            row
            | {
                "bundled_revenue_rate": result.bundled_revenue_rate.mean,
                "separate_revenue_rate": result.separate_revenue_rate.mean,
                "bound": result.bound,
            }
            | queues
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """Queues and differences of revenue at the largest size."""
        largest = max(row["n_gpus"] for row in rows)
        claims = []
        for instance in INSTANCES:
            claims += [_decode_queue_claim(rows, instance, largest, p) for p in PRICINGS]
            claims.append(_waiting_tokens_claim(rows, instance, largest))
            claims += [_revenue_claim(rows, instance, largest, p) for p in PRICINGS]
        return Findings(claims, self._findings_table(rows))

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        table: list[Row] = []
        groups = dict.fromkeys((r["instance"], r["n_gpus"], r["pricing"]) for r in rows)
        for instance, n, pricing in groups:
            fluid = plan(instance, pricing)
            cells: Row = {"instance": instance, "n": n, "policy": POLICY_OF[pricing]}
            for column in (*(f"{p}_revenue_rate" for p in PRICINGS), "q_prefill", "q_decode"):
                estimate = Estimate.of(_column(rows, instance, n, pricing, column))
                half = estimate.ci95[1] - estimate.mean
                cells[column] = f"{estimate.mean:.4g}±{half:.2g}"
            cells["planned q_p"] = f"{fluid.q_prefill.sum():.4f}"
            cells["planned q_d"] = f"{fluid.q_decode.sum():.4f}"
            cells["R*"] = f"{fluid.value:.4f}"
            table.append(cells)
        return table

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Queues against n, and those of the plans (dotted)."""
        figure.set_size_inches(9.0, 6.0)
        sizes = sorted({row["n_gpus"] for row in rows})
        for instance, line in zip(INSTANCES, figure.subplots(2, 2), strict=True):
            for axis, queue in zip(line, ("q_prefill", "q_decode"), strict=True):
                for k, pricing in enumerate(PRICINGS):
                    runs = [_column(rows, instance, n, pricing, queue) for n in sizes]
                    axis.errorbar(
                        sizes,
                        [run.mean() for run in runs],
                        [run.std() for run in runs],
                        fmt="o-",
                        color=f"C{k}",
                        label=f"{pricing}: {POLICY_OF[pricing]}",
                    )
                    planned = getattr(plan(instance, pricing), queue).sum()
                    axis.axhline(planned, color=f"C{k}", linestyle=":")
                axis.set(
                    xscale="log", xlabel="GPUs", ylabel="per GPU", title=f"{instance}: {queue}"
                )
        figure.axes[0].legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:
        """Instances, sizes, replications."""
        sizes = sorted({row["n_gpus"] for row in rows})
        runs = len({row["seed"] for row in rows})
        return (
            f"{' and '.join(f'`{name}`' for name in INSTANCES)}, n = {', '.join(map(str, sizes))}, "
            f"{runs} seeds on the same requests; each policy with the plan of its own charging, "
            "both revenues measured for both."
        )


def _decode_queue_claim(rows: list[Row], instance: str, n: int, pricing: str) -> Claim:
    planned = float(plan(instance, pricing).q_decode.sum())
    if planned > 0:
        statement = f"Under {pricing} charging prefilled requests wait: q_d* = {planned:.5f}"
        criterion = Criterion(0.95 * planned, 1.05 * planned)
        differs = (
            "this q_d* is one optimum of many: output tokens are paid for alike in all classes, so "
            "the plan decides only how many tokens wait. The buffer is first come, first served, "
            "so other requests wait than at the solver's vertex"
        )
    else:
        statement = f"Under {pricing} charging no prefilled request waits in the limit"
        criterion = Criterion(0.0, 0.05)
        differs = "more is admitted than planned as long as chance empties queues: see convergence"
    return Claim(
        f"{statement}, on {instance}",
        "section 4.2, Figure 2",
        f"decode queue per GPU of {POLICY_OF[pricing]}, n = {n}",
        Estimate.of(_column(rows, instance, n, pricing, "q_decode")),
        criterion,
        {"differs": differs},
    )


def _waiting_tokens_claim(rows: list[Row], instance: str, n: int) -> Claim:
    fluid = plan(instance, "separate")
    found = sum(
        request_class.output_tokens
        * _column(rows, instance, n, "separate", f"q_decode {request_class.name}")
        for request_class in fluid.instance.classes
    )
    planned = float((fluid.q_decode * fluid.instance.output_tokens).sum())
    return Claim(
        f"As much decode work waits as the separate plan says, whichever class it is of: "
        f"{planned:.1f} tokens per GPU on {instance}",
        "this project",
        f"output tokens of waiting prefilled requests per GPU, n = {n}",
        Estimate.of(np.asarray(found)),
        Criterion(0.9 * planned, 1.1 * planned),
        shown=".1f",
    )


def _revenue_claim(rows: list[Row], instance: str, n: int, pricing: str) -> Claim:
    (other,) = (p for p in PRICINGS if p != pricing)
    column = f"{pricing}_revenue_rate"
    own, others = (_column(rows, instance, n, p, column) for p in (pricing, other))
    return Claim(
        f"Counted by {pricing} charging, {POLICY_OF[pricing]} earns more on {instance}",
        "section 4.2",
        f"{pricing} revenue less that of {POLICY_OF[other]}, per GPU and second, n = {n}",
        Estimate.of(own - others),
        Criterion(low=0.0),
        shown=".3f",
    )


def _column(rows: list[Row], instance: str, n: int, pricing: str, column: str) -> np.ndarray:
    """A column by seed, queues in sum over classes; shape (K,)."""
    return np.array(
        [
            sum(value for name, value in row.items() if name.startswith(column))
            for row in rows
            if (row["instance"], row["n_gpus"], row["pricing"]) == (instance, n, pricing)
        ]
    )
