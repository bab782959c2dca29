"""Section 6.3: revenue of the policies over random instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.planning.linear_program import needs_decode_queue
from research.framework.claims import Claim, Criterion, Findings
from research.framework.estimates import share_of
from research.framework.study import Cell, Row, Study, seeds
from research.setups.random_instances import random_instance, slowest_decode
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHAMPION = "gate-and-route"
RIVALS = {
    "fcfs-immediate": "FI-WSP",
    "gate-immediate": "GI-WSP",
    "gate-prefill-first": "GF-WSP",
    "fcfs-and-route": "FG-SP",
}
OURS = ("strict-gate-and-route", "token-bucket-static", "token-bucket", "trunk-reservation")
POLICIES = (CHAMPION, *RIVALS, *OURS)
N_GPUS, MEASURED = 500, 500.0
# Warm-up in mean durations of the slowest decode, which is what takes longest to settle.
WARMUP_DECODES, LEAST_WARMUP = 3.0, 300.0


class Policies(Study):
    """Shares of R* of the paper's five policies and of ours over instances of its ranges."""

    name = "policies"
    title = "Policies over random instances"
    source = "Section 6.3"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One run an instance, policy and seed; the same instances and requests for all."""
        n_gpus, measured = (50, 200.0) if quick else (N_GPUS, MEASURED)
        cells = []
        for number in range(6 if quick else 40):
            instance = random_instance(number, seed)
            warmup = float(round(max(LEAST_WARMUP, WARMUP_DECODES * slowest_decode(instance))))
            cells += [
                simulated_cell(
                    policy,
                    instance.to_dict(),
                    n_gpus,
                    run,
                    horizon=warmup + measured,
                    warmup=warmup,
                )
                for policy in POLICIES
                for run in seeds(seed, 1 if quick else 2)
            ]
        return cells

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """One row: the share of R*."""
        result = simulate(cell)
        instance = Instance.from_dict(cell["instance"])
        return [
            {
                "instance": instance.name,
                "policy": cell["policy"],
                "n_gpus": cell["n_gpus"],
                "seed": cell["seed"],
                "share": result.score.mean,
                "bound": result.bound,
                "speed_ratio": instance.hardware.gamma * instance.hardware.tau_mixed,
                "decode_queue_free": not needs_decode_queue(instance, "bundled"),
                "planned_q_decode": float(plan(instance).q_decode.sum()),
            }
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """Gate-and-route against each rival, instance by instance."""
        shares = _shares(rows)
        champion = shares[CHAMPION]
        claims = [
            Claim(
                f"GG-SP ({CHAMPION}) earns more than {short} ({rival})",
                "section 6.3",
                f"part of {len(champion)} instances in which it does",
                share_of(int((champion > shares[rival]).sum()), len(champion)),
                Criterion(low=0.5),
                {
                    outcome: f"on average {_difference(champion, shares[rival])} of R*"
                    for outcome in ("agrees", "differs", "undecided")
                },
                ".3f",
            )
            for rival, short in RIVALS.items()
        ]
        return Findings(claims, self._findings_table(rows), self._findings_remarks(rows))

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        shares = _shares(rows)
        best = np.max(list(shares.values()), axis=0)
        table: list[Row] = []
        for policy, values in shares.items():
            quantiles = np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0])
            names = ("least", "quartile", "median", "3rd quartile", "greatest")
            table.append(
                {"policy": policy, "mean": round(float(values.mean()), 4)}
                | {name: round(float(q), 4) for name, q in zip(names, quantiles, strict=True)}
                | {
                    "best of all in": int((values >= best).sum()),
                    "GG-SP less it": _difference(shares[CHAMPION], values),
                }
            )
        return table

    def _findings_remarks(self, rows: list[Row]) -> list[str]:
        """Shares by the condition of Proposition 3.2."""
        first = [_rows_of(rows, name)[0] for name in _names(rows)]
        free = np.array([row["decode_queue_free"] for row in first])
        waiting = sum(row["planned_q_decode"] > 0 for row in first)
        texts = []
        for holds, condition in ((True, ">="), (False, "<")):
            chosen = free == holds
            if chosen.any():
                means = ", ".join(
                    f"{policy} {values[chosen].mean():.4f}"
                    for policy, values in _shares(rows).items()
                )
                texts.append(
                    f"Mean shares of the {chosen.sum()} instances with gamma tau_mix "
                    f"{condition} (B-1)/B: {means}."
                )
        texts.append(
            f"In {waiting} instances the plan lets prefilled requests wait: a mixed GPU decodes "
            "more than a solo one, so that the plan prefills some requests for that alone and "
            "never decodes them. A buffer that is first come, first served over classes does."
        )
        return texts

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """The distribution of shares, one box per policy; next to it the instances."""
        shares = _shares(rows)
        figure.set_size_inches(9.0, 4.2)
        axis = figure.subplots()
        axis.boxplot(list(shares.values()), orientation="horizontal", showfliers=False)
        for k, values in enumerate(shares.values(), 1):
            axis.plot(values, np.full(len(values), k + 0.0), ".", color="C0", alpha=0.5)
        axis.set_yticks(range(1, len(shares) + 1), list(shares))
        axis.invert_yaxis()
        axis.set(xlabel="share of R*", title=f"{len(_names(rows))} random instances")

    def settings(self, rows: list[Row]) -> str:
        """Ranges, size, replications."""
        runs = len({row["seed"] for row in rows})
        return (
            "Instances drawn uniformly: alpha .015-.02 s, beta 1e-5-1e-3 s, gamma 10-50 1/s, "
            "P and D 200-3000 tokens, lambda .25-.5 per class and GPU; where the paper is silent, "
            "two classes, B = 16, C = 256, theta = .1, c_p = .1, c_d = .2 [ours]. "
            f"n = {rows[0]['n_gpus']}, bundled, {runs} runs a policy and instance on the same "
            f"requests, warm-up {WARMUP_DECODES:g} mean durations of the slowest decode. The first "
            "30 instances are those of `random_instance(0..29)`."
        )


def _names(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["instance"] for row in rows))


def _rows_of(rows: list[Row], instance: str) -> list[Row]:
    return [row for row in rows if row["instance"] == instance]


def _shares(rows: list[Row]) -> dict[str, np.ndarray]:
    """Mean share over seeds by policy; arrays over instances, in one order."""
    names = _names(rows)
    found: dict[str, np.ndarray] = {}
    for policy in POLICIES:
        values = [
            np.mean([row["share"] for row in _rows_of(rows, name) if row["policy"] == policy])
            for name in names
        ]
        found[policy] = np.array(values)
    return found


def _difference(champion: np.ndarray, other: np.ndarray) -> str:
    """Mean paired difference with its 95% interval over instances."""
    estimate = Estimate.of(champion - other)
    low, high = estimate.ci95
    return f"{estimate.mean:+.4f} [{low:+.4f}, {high:+.4f}]"
