"""Study: what trained rules add to the best rules under steady arrivals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.presets import resolve_instance
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.random_instances import random_instance
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost
from research.setups.specialist_policies import SPECIALIST, shown_name, specialist

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNED = "learned"
BEST_RULE, TOKEN_BUCKET = "trunk-reservation", "token-bucket"
PRESETS = ("base", "overload", "dolly15k")
SMALL = (5, 20)
RUNS = {5: 192, 20: 64, 50: 24, 200: 6, 500: 4, 2000: 3}
"""By cluster size: small clusters need many, since chance decides more there."""
HORIZON, WARMUP = 900.0, 150.0
UNSEEN_SEED, UNSEEN = 4052, range(6)
"""Instances of section 6.3's ranges that the generalist was not trained on."""
_TRAINED_FOR = (
    ("overload", SMALL[0]),
    *((f"random-{UNSEEN_SEED}-{number}", SMALL[0]) for number in UNSEEN),
)
SPECIALISTS = {(name, n): specialist(name, n) for name, n in _TRAINED_FOR}
"""Rules trained for one instance and size."""
# A share of R* that counts as none, where the question is whether something is lost.
_NOISE = 0.0005
_THIRD = 1.0 / 3.0
_NEAR = 0.01


class LearnedRules(Study):
    """Compare the shipped rule and rules trained for one instance with the best rules."""

    name = "learned"
    title = "What trained rules add"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell an instance, size and policy."""
        cases = [(resolve_instance(name), n) for name in PRESETS for n in RUNS]
        cases += [(random_instance(number, UNSEEN_SEED), SMALL[0]) for number in UNSEEN]
        return [
            simulated_cell(
                policy,
                instance.to_dict(),
                n_gpus,
                seeds(seed, 1)[0],
                horizon=350.0 if quick else HORIZON,
                warmup=WARMUP,
                replications=6 if quick else RUNS[n_gpus],
            )
            for instance, n_gpus in (cases[1:2] if quick else cases)
            for policy in _policies(instance.name, n_gpus)
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a replication."""
        result = simulate(cell)
        shared: Row = {
            "instance": result.instance,
            "n_gpus": result.n_gpus,
            "policy": shown_name(cell["policy"]),
        }
        return [shared | {"run": k, "share": share} for k, share in enumerate(result.scores)]

    def findings(self, rows: list[Row]) -> Findings:
        """Gains over trunk reservation and shares of the credit gate's gap, paired."""
        presets = [case for case in _cases(rows) if case[0] in PRESETS]
        claims = [_no_worse(rows, *case) for case in presets]
        claims += _above_on_half(rows, [case for case in presets if case[1] in SMALL])
        claims += [
            _third_of_the_gap(rows, *case)
            for case in presets
            if case[0] != "base" and case[1] in SMALL
        ]
        unseen = [case for case in _cases(rows) if case not in presets]
        claims += [_no_worse(rows, *case, LEARNED) for case in unseen]
        claims += [_near_the_specialist(rows, *case) for case in unseen]
        return Findings(claims, [_line(rows, *case) for case in _cases(rows)], [_CAVEAT])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Gains over trunk reservation by size, a panel an instance."""
        names = [name for name in PRESETS if selected(rows, instance=name)]
        figure.set_size_inches(3.4 * len(names), 3.2)
        for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
            for policy, marker in ((LEARNED, "o"), (SPECIALIST, "s")):
                sizes = [n for i, n in _cases(rows) if i == name and _has(rows, i, n, policy)]
                gains = [Estimate.of(100.0 * _gain(rows, name, n, policy)) for n in sizes]
                axis.errorbar(
                    sizes,
                    [gain.mean for gain in gains],
                    [gain.ci95[1] - gain.mean for gain in gains],
                    marker=marker,
                    capsize=2,
                    label=policy,
                )
            axis.axhline(0.0, color="grey", linewidth=0.8)
            axis.set(title=name, xlabel="GPUs", xscale="log")
        figure.axes[0].set_ylabel("gain over trunk-reservation, % of R*")
        figure.axes[0].legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:  # noqa: ARG002
        """Instances, sizes, replications."""
        runs = ", ".join(f"{count} at n = {n}" for n, count in RUNS.items())
        return (
            f"{HORIZON:g} s, of which {WARMUP:g} s warm-up, on the same requests for all policies; "
            f"{runs} (quick: fewer). A *specialist* is a rule trained for the instance and size. "
            f"The random instances are of section 6.3's ranges, seed {UNSEEN_SEED}. Bundled."
        )


_CAVEAT = (
    "By the exact optimum of tiny systems `trunk-reservation` already earns 99.1 to 99.95 % of "
    "what any policy can earn there, and with the best number of free slots 99.9 % on one GPU of "
    "`overload`: what is left to learn under steady arrivals is small, and a third of "
    f"`{TOKEN_BUCKET}`'s gap is more than the optimum itself closes on some of them."
)


def _policies(instance: str, n_gpus: int) -> list[str]:
    own = SPECIALISTS.get((instance, n_gpus))
    return [TOKEN_BUCKET, BEST_RULE, LEARNED, *([own] if own else [])]


def _no_worse(rows: list[Row], instance: str, n_gpus: int, wanted: str | None = None) -> Claim:
    policy = wanted or _agent(rows, instance, n_gpus)
    gain = Estimate.of(_gain(rows, instance, n_gpus, policy))
    return Claim(
        f"{policy} earns no less than {BEST_RULE}",
        "this project",
        f"gain in share of R*, {instance}, n = {n_gpus}",
        gain,
        Criterion(low=-_NOISE),
        shown="+.5f",
    )


def _near_the_specialist(rows: list[Row], instance: str, n_gpus: int) -> Claim:
    own, other = (_shares(rows, instance, n_gpus, one) for one in (LEARNED, SPECIALIST))
    return Claim(
        f"{LEARNED} is within {_NEAR:.0%} of the rule trained for an instance that it never saw",
        "this project",
        f"difference in share of R*, {instance}, n = {n_gpus}",
        Estimate.of(own - other),
        Criterion(low=-_NEAR),
        shown="+.5f",
    )


def _above_on_half(rows: list[Row], cases: list[tuple[str, int]]) -> list[Claim]:
    if not cases:
        return []
    above = [
        case for case in cases if Estimate.of(_gain(rows, *case, _agent(rows, *case))).ci95[0] > 0.0
    ]
    return [
        Claim(
            f"A trained rule earns more than {BEST_RULE} in at least half of the small cases",
            "this project",
            f"share of the {len(cases)} cases with n <= {SMALL[-1]} with an interval above 0",
            exact(len(above) / len(cases)),
            Criterion(low=0.5),
            shown=".2f",
        )
    ]


def _third_of_the_gap(rows: list[Row], instance: str, n_gpus: int) -> Claim:
    """By the delta method: gain less a third of the gap stands above 0 where the share does."""
    policy = _agent(rows, instance, n_gpus)
    credit = _shares(rows, instance, n_gpus, TOKEN_BUCKET)
    gain = _shares(rows, instance, n_gpus, policy) - credit
    gap = 1.0 - credit
    closed = float(gain.mean() / gap.mean())
    low, high = Estimate.of((gain - closed * gap) / gap.mean()).ci95
    return Claim(
        f"{policy} closes a third of {TOKEN_BUCKET}'s gap to R*",
        "this project",
        f"share of the gap, {instance}, n = {n_gpus}",
        Estimate(closed, (closed + low, closed + high)),
        Criterion(low=_THIRD),
        shown=".3f",
    )


def _agent(rows: list[Row], instance: str, n_gpus: int) -> str:
    """The specialist where there is one, else the generalist: no choice by the result."""
    return SPECIALIST if _has(rows, instance, n_gpus, SPECIALIST) else LEARNED


def _line(rows: list[Row], instance: str, n_gpus: int) -> Row:
    """Shares of R* in %, and paired gains over trunk reservation."""
    line: Row = {"instance": instance, "n": n_gpus}
    for policy in (TOKEN_BUCKET, BEST_RULE):
        line[policy] = _with_interval(100.0 * _shares(rows, instance, n_gpus, policy))
    for policy in (LEARNED, SPECIALIST):
        line[f"{policy}, gain"] = "-"
        if _has(rows, instance, n_gpus, policy):
            gain = 100.0 * _gain(rows, instance, n_gpus, policy)
            line[f"{policy}, gain"] = _with_interval(gain, "+.3f")
    return line


def _with_interval(values: np.ndarray, shown: str = ".3f") -> str:
    estimate = Estimate.of(values)
    return f"{estimate.mean:{shown}}±{estimate.ci95[1] - estimate.mean:.3f}"


def _gain(rows: list[Row], instance: str, n_gpus: int, policy: str) -> np.ndarray:
    """Over trunk reservation by run, shape (K,)."""
    own, best = (_shares(rows, instance, n_gpus, one) for one in (policy, BEST_RULE))
    gain: np.ndarray = own - best
    return gain


def _shares(rows: list[Row], instance: str, n_gpus: int, policy: str) -> np.ndarray:
    """By run, shape (K,)."""
    return column(rows, "share", instance=instance, n_gpus=n_gpus, policy=policy)


def _has(rows: list[Row], instance: str, n_gpus: int, policy: str) -> bool:
    return bool(selected(rows, instance=instance, n_gpus=n_gpus, policy=policy))


def _cases(rows: list[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["instance"], row["n_gpus"]) for row in rows))
