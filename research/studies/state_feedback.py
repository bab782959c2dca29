"""Study: the gain and the cost of replanning from the current state every second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.presets import resolve_instance
from llm_sched_env.presets.time_varying import SHIFT_SECONDS
from research.framework.claims import Claim, Criterion, Findings
from research.framework.study import Cell, Row, Study, seeds
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPLANNED, FIXED = "fluid-mpc", "trunk-reservation"
POLICIES = ("fcfs-immediate", "token-bucket", FIXED, REPLANNED)
STEADY = ("base", "overload", "dolly15k")
CHANGING = ("phased", "peaks")
SIZES = (5, 20)
HORIZON, WARMUP = 300.0, 100.0
# A loss of so much of R* is no loss.
_SAME = 0.005


class StateFeedback(Study):
    """Compare ``fluid-mpc`` with rules of a fixed plan, under steady and time-varying arrivals."""

    name = "fluid-mpc"
    title = "Planning anew every second"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell an instance, size and policy."""
        instances = [*map(resolve_instance, (*STEADY, *CHANGING))]
        horizon, warmup = (120.0, 60.0) if quick else (HORIZON, WARMUP)
        return [
            simulated_cell(
                policy,
                instance.to_dict(),
                n_gpus,
                seeds(seed, 1)[0],
                horizon=horizon,
                warmup=warmup,
                replications=2 if quick else 4,
            )
            for instance in (instances[1:4:2] if quick else instances)
            for n_gpus in (SIZES[:1] if quick else SIZES)
            for policy in POLICIES
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds; a decision costs more than its second of the cluster."""
        return simulation_cost(cell) * (100.0 if cell["policy"] == REPLANNED else 1.0)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a replication, with the cost of a decision over all of them."""
        result = simulate(cell)
        cost = result.decision_milliseconds
        shared: Row = {
            "instance": result.instance,
            "n_gpus": result.n_gpus,
            "policy": result.policy,
            "decision_ms_median": cost.median if cost else None,
            "decision_ms_p99": cost.p99 if cost else None,
        }
        return [shared | {"run": k, "share": share} for k, share in enumerate(result.scores)]

    def findings(self, rows: list[Row]) -> Findings:
        """Gains over the fixed plan, paired over the same requests."""
        claims = []
        for instance, n_gpus in _cases(rows):
            gain = _shares(rows, instance, n_gpus, REPLANNED) - _shares(
                rows, instance, n_gpus, FIXED
            )
            steady = instance in STEADY
            claims.append(
                Claim(
                    f"{REPLANNED} earns "
                    + ("as much as" if steady else "more than")
                    + f" {FIXED} under {'steady' if steady else 'changing'} arrivals",
                    "this project",
                    f"gain in share of R*, {instance}, n = {n_gpus}",
                    Estimate.of(gain),
                    Criterion(low=-_SAME if steady else 0.0),
                )
            )
        slowest = max(row["decision_ms_p99"] or 0.0 for row in rows)
        remark = (
            f"The 99th percentile of a decision's time is {slowest:.0f} ms at worst; one is due "
            "every second. Times depend on the machine, shares do not."
        )
        return Findings(claims, _findings_table(rows), [remark])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Shares by instance and size, a bar a policy."""
        figure.set_size_inches(10.0, 3.6)
        axis, cases = figure.subplots(), _cases(rows)
        for k, policy in enumerate(POLICIES):
            estimates = [Estimate.of(_shares(rows, *case, policy)) for case in cases]
            axis.bar(
                np.arange(len(cases)) + 0.2 * (k - 1.5),
                [e.mean for e in estimates],
                0.18,
                yerr=[e.ci95[1] - e.mean for e in estimates],
                label=policy,
            )
        axis.set_xticks(range(len(cases)), [f"{name}\nn = {n}" for name, n in cases])
        axis.set(ylabel="share of R*", ylim=(0.5, 1.02))
        axis.legend(fontsize="small", ncols=len(POLICIES), loc="lower center")

    def settings(self, rows: list[Row]) -> str:
        """Instances, sizes, replications."""
        runs = 1 + max(row["run"] for row in rows)
        return (
            "`phased` is `overload` whose classes rise and fall in turn between 0.2 and 1.8 times "
            f"their rates in {SHIFT_SECONDS:g} s; `peaks` is `dolly15k` at 0.6 of its rates with a "
            f"peak of eight times the quiet rate in a fifth of every {SHIFT_SECONDS:g} s. The "
            f"fixed plans and R* are those of the mean rates; {REPLANNED} knows the profiles. "
            f"Bundled, {runs} runs of {HORIZON:g} s, warm-up {WARMUP:g} s (quick: less), the same "
            "requests for all."
        )


def _cases(rows: list[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["instance"], row["n_gpus"]) for row in rows))


def _shares(rows: list[Row], instance: str, n_gpus: int, policy: str) -> np.ndarray:
    """By run, shape (K,)."""
    key = (instance, n_gpus, policy)
    found = [r for r in rows if (r["instance"], r["n_gpus"], r["policy"]) == key]
    return np.array([row["share"] for row in sorted(found, key=lambda row: int(row["run"]))])


def _findings_table(rows: list[Row]) -> list[Row]:
    """Shares in % by instance and size, and the median cost of a decision."""
    table: list[Row] = []
    for instance, n_gpus in _cases(rows):
        line: Row = {"instance": instance, "n": n_gpus}
        for policy in POLICIES:
            estimate = Estimate.of(100.0 * _shares(rows, instance, n_gpus, policy))
            line[policy] = f"{estimate.mean:.2f}±{estimate.ci95[1] - estimate.mean:.2f}"
        line["ms a decision"] = next(
            f"{row['decision_ms_median']:.1f}"
            for row in rows
            if (row["instance"], row["n_gpus"], row["policy"]) == (instance, n_gpus, REPLANNED)
        )
        table.append(line)
    return table
