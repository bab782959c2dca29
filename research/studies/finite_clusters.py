"""Study: what small clusters lose, by gate, for the paper's rules and this project's."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan, plan
from llm_sched_env.planning.slot_prices import critical_scale
from llm_sched_env.presets import azure2023, resolve_instance
from llm_sched_env.workloads.locations import find_azure_2023
from research.framework.claims import Claim, Criterion, Findings
from research.framework.estimates import decay_exponent, jackknifed
from research.framework.study import Cell, Row, Study, seeds
from research.setups.random_instances import random_instance, slowest_decode
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRINTED, STRICT, OURS = "gate-and-route", "strict-gate-and-route", "trunk-reservation"
POLICIES = (PRINTED, STRICT, "token-bucket-static", "token-bucket", OURS)
PRESETS = ("base", "overload", "dolly15k")
AZURE_LOAD = 1.2  # of what can be served: its own rates are no challenge
SIZES = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
FEW_SIZES = (5, 20, 50, 200, 1000)
N_RANDOM, RUNS, RANDOM_RUNS = 30, 6, 3
# Large clusters average over themselves: fewer runs.
LARGE, LARGE_RUNS = 1000, 2
# Simulated GPU-seconds of a run after its warm-up, and at least so many seconds.
MEASURED, LEAST_MEASURED = 300_000.0, 150.0
WARMUP_DECODES, LEAST_WARMUP = 2.0, 200.0
GOALS = {OURS: {5: 0.97, 20: 0.985}, "token-bucket": {5: 0.95, 20: 0.97}}
RANDOM_GOAL = 0.96
# A gap of so many standard errors is no noise; a rate takes so many sizes.
_CLEAR, _LEAST_SIZES = 4.0, 3


class FiniteClusters(Study):
    """Shares of R* of five gates from 5 to 5000 GPUs, on presets and random instances."""

    name = "finite-clusters"
    title = "What finite clusters lose"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell an instance, policy and size."""
        sizes, few = (SIZES[:5:2], (5, 20)) if quick else (SIZES, FEW_SIZES)
        presets = (*map(resolve_instance, PRESETS), *_azure())
        given = [(instance, sizes) for instance in presets]
        drawn = [(random_instance(k, seed), few) for k in range(3 if quick else N_RANDOM)]
        return [
            _cell(policy, instance, n_gpus, seed, quick=quick)
            for instance, own_sizes in (*given, *drawn)
            for policy in POLICIES
            for n_gpus in own_sizes
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a replication; what happens to prefills and decodes over all of them."""
        result, fluid = simulate(cell), plan(cell["instance"])
        target, found = fluid.x.sum(), result.occupancy["x"].sum()
        scarce = int(np.argmax(_overshoot(fluid, result.occupancy["x"])))
        prefilled = sum(c.prefilled for c in result.classes)
        shared: Row = {
            "instance": result.instance,
            "policy": result.policy,
            "n_gpus": result.n_gpus,
            "class_above_plan": result.classes[scarce].name,
            "overshoot": float(_overshoot(fluid, result.occupancy["x"])[scarce]),
            "prefill_use": float(found / target),
            "prefilled_in_vain": sum(c.abandoned_decode for c in result.classes) / prefilled,
        }
        return [shared | {"run": k, "share": share} for k, share in enumerate(result.scores)]

    def findings(self, rows: list[Row]) -> Findings:
        """The goals of the rules that ship, and how fast each gap falls."""
        claims = [_goal(rows, *goal) for goal in _goals(rows)]
        for random, which in ((False, "presets"), (True, "random instances")):
            for policy in POLICIES:
                claims += _rates(rows, _instances(rows, random=random), policy, which)
        return Findings(claims, _findings_table(rows), _findings_remarks(rows))

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """The gap against n: a panel a preset, and one for the mean over random instances."""
        given, drawn = _instances(rows, random=False), _instances(rows, random=True)
        panels = [*((name, [name]) for name in given), (f"{len(drawn)} random instances", drawn)]
        figure.set_size_inches(3.2 * len(panels), 3.6)
        for axis, (title, names) in zip(
            figure.subplots(1, len(panels), sharey=True), panels, strict=True
        ):
            for policy in POLICIES:
                sizes, gaps = _gaps(rows, names, policy)
                means = np.maximum(gaps.mean(axis=0), 1e-4)
                axis.loglog(sizes, means, "o-", markersize=3, label=policy)
            axis.set(title=title, xlabel="GPUs")
        figure.axes[0].set_ylabel("1 - share of R*")
        figure.axes[0].legend(fontsize="x-small")

    def settings(self, rows: list[Row]) -> str:
        """Instances, sizes, replications."""
        runs = 1 + max(row["run"] for row in rows)
        azure = (
            f"`azure2023` (mean lengths of the traces, Poisson arrivals) at {AZURE_LOAD:g} times "
            "the load that can be served"
        )
        if not _azure_rows(rows):
            azure = "`azure2023` is left out, since its trace files are absent"
        return (
            f"Presets with n = {', '.join(map(str, _sizes(rows, 'base')))}, {runs} runs each on "
            f"the same requests, {MEASURED:g} GPU-seconds and at least {LEAST_MEASURED:g} s a run "
            f"after a warm-up of {WARMUP_DECODES:g} mean durations of the slowest decode, at least "
            f"{LEAST_WARMUP:g} s; {azure}. {len(_instances(rows, random=True))} instances of "
            f"section 6.3's ranges to n = {FEW_SIZES[-1]}, {RANDOM_RUNS} runs each, half as long. "
            f"From n = {LARGE} on {LARGE_RUNS} runs each. Bundled."
        )


@cache
def _azure() -> tuple[Instance, ...]:
    """The Azure preset at the stated load, where its traces are found."""
    traces = find_azure_2023()
    if not traces:
        return ()
    instance = azure2023(traces)
    rate = AZURE_LOAD * critical_scale(instance) * float(instance.arrival_rates.sum())
    return (azure2023(traces, arrival_rate=rate),)


def _cell(policy: str, instance: Instance, n_gpus: int, seed: int, *, quick: bool) -> Cell:
    slowest = slowest_decode(instance)
    settled = float(round(max(LEAST_WARMUP, WARMUP_DECODES * slowest)))
    given = not _is_random(instance.name)
    gpu_seconds = MEASURED * (0.05 if quick else 1.0 if given else 0.5)
    measured = float(round(max(LEAST_MEASURED, gpu_seconds / n_gpus)))
    return simulated_cell(
        policy,
        instance.to_dict(),
        n_gpus,
        seeds(seed, 1)[0],
        horizon=settled + measured,
        warmup=settled,
        replications=2 if quick else _runs(n_gpus, given=given),
    )


def _runs(n_gpus: int, *, given: bool) -> int:
    if n_gpus >= LARGE:
        return LARGE_RUNS
    return RUNS if given else RANDOM_RUNS


def _overshoot(fluid: FluidPlan, x: np.ndarray) -> np.ndarray:
    """Prefills in service less the plan's, in GPUs per GPU, by class."""
    return np.asarray(x - fluid.x)


def _instances(rows: list[Row], *, random: bool) -> list[str]:
    names = dict.fromkeys(row["instance"] for row in rows)
    return [name for name in names if _is_random(name) == random]


def _is_random(name: str) -> bool:
    return name.startswith("random-")


def _azure_rows(rows: list[Row]) -> bool:
    return any(row["instance"] == "azure2023" for row in rows)


def _sizes(rows: list[Row], instance: str) -> list[int]:
    return sorted({row["n_gpus"] for row in rows if row["instance"] == instance})


def _shares(rows: list[Row], instance: str, policy: str, n_gpus: int) -> np.ndarray:
    """By run, shape (K,)."""
    key = (instance, policy, n_gpus)
    found = [r for r in rows if (r["instance"], r["policy"], r["n_gpus"]) == key]
    return np.array([row["share"] for row in sorted(found, key=lambda row: int(row["run"]))])


def _gaps(rows: list[Row], names: list[str], policy: str) -> tuple[list[int], np.ndarray]:
    """Sizes, shape (N,), and mean gaps over instances by run and size, shape (K, N)."""
    sizes = _sizes(rows, names[0])
    shares = [[_shares(rows, name, policy, n) for n in sizes] for name in names]
    runs = min(len(own) for by_size in shares for own in by_size)
    equal = [[own[:runs] for own in by_size] for by_size in shares]
    return sizes, 1.0 - np.mean(equal, axis=0).T


def _goals(rows: list[Row]) -> list[tuple[str, str, int, float, list[str]]]:
    """Which (policy, instances in words, size, share, instances) are asked for."""
    goals = [
        (policy, name, n, share, [name])
        for policy, by_size in GOALS.items()
        for name in _instances(rows, random=False)
        for n, share in by_size.items()
    ]
    drawn = _instances(rows, random=True)
    return [*goals, (OURS, f"{len(drawn)} random instances, mean", 5, RANDOM_GOAL, drawn)]


def _goal(
    rows: list[Row], policy: str, words: str, n_gpus: int, share: float, names: list[str]
) -> Claim:
    samples = np.mean([_shares(rows, name, policy, n_gpus) for name in names], axis=0)
    return Claim(
        f"{policy} earns at least {share:g} of R* at n = {n_gpus}",
        "this project",
        f"share of R* on {words}",
        jackknifed(float, samples),
        Criterion(low=share),
    )


def _rates(rows: list[Row], names: list[str], policy: str, which: str) -> list[Claim]:
    """How fast the mean gap falls, over the sizes at which it stands out of the noise."""
    sizes, gaps = _gaps(rows, names, policy)
    error = gaps.std(axis=0, ddof=1) / np.sqrt(len(gaps))
    lost = np.flatnonzero(gaps.mean(axis=0) <= _CLEAR * error)
    clear = int(lost[0]) if len(lost) else len(sizes)
    if clear < _LEAST_SIZES:
        return []
    return [
        Claim(
            f"The gap of {policy} falls with n on {which}",
            "Theorem 4.1" if policy == PRINTED else "this project",
            f"exponent of n in the mean gap over {len(names)}, n = {sizes[0]} to "
            f"{sizes[clear - 1]}",
            decay_exponent(sizes[:clear], gaps[:, :clear]),
            Criterion(high=0.0),
            shown=".3f",
        )
    ]


def _findings_table(rows: list[Row]) -> list[Row]:
    """Shares in % by instance and size, a column a policy."""
    drawn = _instances(rows, random=True)
    groups = [(name, [name]) for name in _instances(rows, random=False)]
    groups += [(f"{len(drawn)} random, mean", drawn)]
    table: list[Row] = []
    for words, names in groups:
        for n in _sizes(rows, names[0]):
            line: dict[str, Any] = {"instance": words, "n": n}
            for policy in POLICIES:
                runs = np.mean([_shares(rows, name, policy, n) for name in names], axis=0)
                estimate = Estimate.of(100.0 * runs)
                line[policy] = f"{estimate.mean:.2f}±{estimate.ci95[1] - estimate.mean:.2f}"
            table.append(line)
    return table


def _findings_remarks(rows: list[Row]) -> list[str]:
    """The mechanism in numbers, and the random instances that lose most."""
    texts = []
    for n in (5, 20, 200):
        for policy in (PRINTED, OURS):
            found = next(
                (r for r in rows if (r["instance"], r["policy"], r["n_gpus"])
                 == ("overload", policy, n)), None
            )  # fmt: skip
            if found is not None:
                texts.append(
                    f"`overload`, n = {n}, {policy}: prefills of {found['class_above_plan']} "
                    f"exceed the plan by {found['overshoot']:.4f} per GPU, "
                    f"{found['prefilled_in_vain']:.1%} of all prefilled requests abandon before "
                    "they decode."
                )
    worst = {
        name: float(_shares(rows, name, OURS, SIZES[0]).mean())
        for name in _instances(rows, random=True)
    }
    low = sorted(worst, key=worst.__getitem__)[:3]
    listed = ", ".join(f"{name} {worst[name]:.4f}" for name in low)
    texts.append(f"The least shares of {OURS} on random instances at n = {SIZES[0]}: {listed}.")
    return [" ".join(texts)]
