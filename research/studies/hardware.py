"""Section 6.4: revenue and time per output token over batch slots and iteration speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import TPOT, FluidPlan, plan
from llm_sched_env.planning.linear_program import needs_decode_queue
from llm_sched_env.planning.service_levels import PLANNED
from llm_sched_env.presets import resolve_instance
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.estimates import jackknifed
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.changed_instances import with_hardware
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Sweep(NamedTuple):
    """A parameter of the hardware and where it is looked at.

    Attributes:
        label: on the figure.
        values: of the linear programs.
        simulated: those that are simulated too.
        revenue_rises: whether R* rises with it; the time per token does the opposite.
        logarithmic: whether the axis is.
    """

    label: str
    values: tuple[float, ...]
    simulated: tuple[float, ...]
    revenue_rises: bool
    logarithmic: bool = False


INSTANCE, LOADED = "base", "overload"
SLOTS = "batch_slots"
SWEEPS = {
    SLOTS: Sweep("B, slots", tuple(range(2, 49)), (4, 8, 12, 16, 24), revenue_rises=True),
    "alpha": Sweep(
        "alpha, s",
        tuple(k / 500 for k in range(1, 22)),
        (0.004, 0.01, 0.018, 0.03, 0.042),
        revenue_rises=False,
    ),
    "beta": Sweep(
        "beta, s/token",
        tuple(float(f"{v:.3g}") for v in np.geomspace(1e-5, 1e-3, 21)),
        (1e-5, 6.31e-5, 2e-4, 5.01e-4, 1e-3),
        revenue_rises=False,
        logarithmic=True,
    ),
    "gamma": Sweep(
        "gamma, tokens/s", tuple(range(10, 105, 5)), (10, 20, 30, 45, 80), revenue_rises=True
    ),
}
POLICIES = ("gate-and-route", "trunk-reservation")
N_GPUS = 200
# Where gate-and-route is farthest below its program, and the clusters that show why.
WORST_SLOTS, LARGER_SIZES = 8, (2000, 10000)
SATURATED = 0.99


class HardwareCurves(Study):
    """Linear programs along four parameters, and simulations at points of each."""

    name = "hardware"
    title = "What slots and speed earn"
    source = "Section 6.4"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One linear program a value, one run a simulated value, policy and seed."""
        horizon, warmup, runs = (400.0, 200.0, 2) if quick else (1200.0, 500.0, 4)
        programs = [
            {"instance": name, "parameter": parameter, "value": value}
            for name in (INSTANCE, LOADED)
            for parameter, sweep in SWEEPS.items()
            for value in sweep.values
        ]
        points = [
            (parameter, value, policy, N_GPUS, run)
            for parameter, sweep in SWEEPS.items()
            for value in (sweep.simulated[1::2] if quick else sweep.simulated)
            for policy in POLICIES
            for run in seeds(seed, runs)
        ]
        sizes = () if quick else LARGER_SIZES
        points += [(SLOTS, WORST_SLOTS, POLICIES[0], n, r) for n in sizes for r in seeds(seed, 2)]
        times: dict[str, Any] = {"horizon": horizon, "warmup": warmup}
        return [*programs, *(_simulation(*point, **times) for point in points)]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds; a linear program costs little compared with them."""
        return simulation_cost(cell["run"]) if "run" in cell else 1.0

    def compute(self, cell: Cell) -> list[Row]:
        """Revenue rate and time per token, of a plan or of a run."""
        row = {key: cell[key] for key in ("instance", "parameter", "value")}
        if "run" not in cell:
            fluid = plan(changed(**row))
            found = {"policy": "plan", "revenue": fluid.value, "share": 1.0}
            return [row | found | {"tpot": planned_token_time(fluid)}]
        result = simulate(cell["run"])
        found = {
            "policy": result.policy,
            "n_gpus": result.n_gpus,
            "seed": result.seed,
            "revenue": result.revenue_rate.mean,
            "share": result.score.mean,
            "tpot": result.tpot.mean,
            "TPOT": result.decode_tpot.mean,
        }
        return [row | found]

    def findings(self, rows: list[Row]) -> Findings:
        """Where slots saturate, which way the curves go, and whether clusters follow them."""
        needed, loaded = (slots_for_all(resolve_instance(name)) for name in (INSTANCE, LOADED))
        saturation = _saturation(selected(rows, instance=INSTANCE, parameter=SLOTS, policy="plan"))
        claims = [
            Claim(
                "Revenue saturates near B = 16",
                "section 6.4",
                f"least B with {SATURATED:.0%} of the revenue at B = {max(SWEEPS[SLOTS].values)}",
                exact(saturation),
                Criterion(14, 18),
                {
                    "agrees": f"{needed:.1f} slots serve all of the demand of `{INSTANCE}`; more "
                    f"find nothing to do (`{LOADED}`: {loaded:.1f})"
                },
                ".0f",
            ),
            _saturation_claim(rows),
            Claim(
                "Revenue rises with B and gamma and falls with alpha and beta",
                "this project; section 6.4 plots it",
                "largest step the other way, share of R*",
                exact(_largest_wrong_step(rows, "revenue")),
                Criterion(high=1e-6),
                shown=".1e",
            ),
            Claim(
                "The time per token falls with gamma and rises with alpha and beta",
                "this project; section 6.4 plots it",
                "largest step the other way, share of the time",
                exact(_largest_wrong_step(rows, "tpot", but=SLOTS)),
                Criterion(high=1e-6),
                {
                    "differs": "where prefills become so slow that the plan drops a class (beta "
                    "above 6e-4), X falls and with it the share of slow slots"
                },
                shown=".1e",
            ),
            *(_follows_claim(rows, policy) for policy in POLICIES),
        ]
        return Findings(
            claims, _elasticities(), [_worst_point_in_larger_clusters(rows), _weighting(rows)]
        )

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Revenue above, time per token below, over each parameter."""
        figure.set_size_inches(12.0, 5.6)
        axes = figure.subplots(2, len(SWEEPS), sharex="col", sharey="row")
        for k, (parameter, sweep) in enumerate(SWEEPS.items()):
            for name, style in ((INSTANCE, "-"), (LOADED, "--")):
                found = selected(rows, instance=name, parameter=parameter, policy="plan")
                values, label = column(found, "value"), f"plan, {name}"
                axes[0, k].plot(values, column(found, "revenue"), style, color="0.4", label=label)
                axes[1, k].plot(values, 1e3 * column(found, "tpot"), style, color="0.4")
            for c, policy in enumerate(POLICIES):
                found = selected(rows, parameter=parameter, policy=policy, n_gpus=N_GPUS)
                points = sorted({row["value"] for row in found})
                for axis, name, factor in ((axes[0, k], "revenue", 1.0), (axes[1, k], "tpot", 1e3)):
                    means = [column(found, name, value=v).mean() * factor for v in points]
                    axis.plot(points, means, "ox"[c], color=f"C{c}", label=policy)
            axes[1, k].set(xlabel=sweep.label)
            if sweep.logarithmic:
                axes[1, k].set_xscale("log")
        axes[0, 0].set(ylabel="revenue per GPU-second")
        axes[1, 0].set(ylabel="time per token, ms", yscale="log")
        axes[0, 0].legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:
        """Instance, grid, runs."""
        runs = len({row["seed"] for row in rows if "seed" in row})
        waiting = [
            f"{sweep.label.split(',')[0]} = {value:g}"
            for parameter, sweep in SWEEPS.items()
            for value in sweep.simulated
            if needs_decode_queue(changed(INSTANCE, parameter, value), "bundled")
        ]
        return (
            f"`{INSTANCE}` (programs also `{LOADED}`), bundled, one parameter changed at a time. "
            "The plan's time per token is the indicator (45); the simulated one is a request's, "
            f"waiting for a slot included. Simulated: n = {N_GPUS}, {runs} seeds a point, started "
            "empty, warm-up 500 of 1200 s (quick: 200 of 400 s). Dots and crosses on the figure "
            f"are simulated means. At {', '.join(waiting)} mixed iterations are so fast beside "
            "solo ones that Proposition 3.2 does not hold; plans may then need decodes that wait."
        )


def _simulation(
    parameter: str, value: float, policy: str, n_gpus: int, run: int, **times: Any
) -> Cell:
    """A point of a curve, simulated."""
    instance = changed(INSTANCE, parameter, value).to_dict()
    cell = simulated_cell(policy, instance, n_gpus, run, **times)
    return {"instance": INSTANCE, "parameter": parameter, "value": value, "run": cell}


def changed(instance: str, parameter: str, value: float) -> Instance:
    """A preset with one parameter of its hardware changed."""
    return with_hardware(resolve_instance(instance), **{parameter: value})


def planned_token_time(fluid: FluidPlan) -> float:
    """The indicator (45) of a plan, seconds."""
    occupancy = np.array([getattr(fluid, name) for name in PLANNED])
    return TPOT(price=0.0).value(fluid.instance, occupancy)


def slots_for_all(instance: Instance) -> float:
    """The B, not rounded, at which the capacities just serve every request.

    With X = sum lambda / mu_p, decodes produce ``(B - 1) X / tau_mix + gamma B (1 - X)`` tokens
    per GPU and second; that is to be sum lambda D. Infinite if prefills alone do not fit.
    """
    hardware, rates = instance.hardware, instance.arrival_rates
    prefills = float((rates / instance.prefill_rates).sum())
    if prefills > 1.0:
        return float("inf")
    mixed, solo = prefills / hardware.tau_mixed, hardware.gamma * (1.0 - prefills)
    return (float(rates @ instance.output_tokens) + mixed) / (mixed + solo)


def elasticity(instance: Instance, parameter: str) -> tuple[float, float]:
    """Percent by which R* and the plan's time per token change with 1% more of a parameter.

    Central differences over +-2% of a real parameter and +-1 slot.
    """
    value = getattr(instance.hardware, parameter)
    step = 1 if parameter == SLOTS else 0.02 * value
    logarithms = []
    for changed_value in (value - step, value + step):
        fluid = plan(with_hardware(instance, **{parameter: changed_value}))
        logarithms.append(np.log([changed_value, fluid.value, planned_token_time(fluid)]))
    change = logarithms[1] - logarithms[0]
    return float(change[1] / change[0]), float(change[2] / change[0])


def _elasticities() -> list[Row]:
    table = []
    for parameter in SWEEPS:
        row: Row = {"1% more": parameter}
        for name in (INSTANCE, LOADED):
            revenue, time = elasticity(resolve_instance(name), parameter)
            row |= {f"R* of {name}, %": f"{revenue:+.3f}", f"TPOT of {name}, %": f"{time:+.3f}"}
        table.append(row)
    return table


def _saturation(rows: list[Row]) -> float:
    """Least value whose revenue is nearly that of the last."""
    revenue = column(rows, "revenue")
    return float(column(rows, "value")[np.argmax(revenue >= SATURATED * revenue[-1])])


def _saturation_claim(rows: list[Row]) -> Claim:
    """Compare what slots earn beyond 16 with what they earn up to there, in simulation."""
    points = [
        v
        for v in SWEEPS[SLOTS].simulated
        if selected(rows, parameter=SLOTS, value=v, n_gpus=N_GPUS)
    ]
    few, enough, many = points[0], 16, points[-1]
    values = [
        column(rows, "revenue", parameter=SLOTS, policy=POLICIES[1], value=v, n_gpus=N_GPUS)
        for v in (few, enough, many)
    ]
    gains = np.diff(np.array(values), axis=0).T
    return Claim(
        "Revenue saturates near B = 16",
        "section 6.4",
        f"gain from {enough} to {many} slots over that from {few} to {enough}, simulated, "
        f"{POLICIES[1]}",
        jackknifed(lambda means: float(means[1] / means[0]), gains),
        Criterion(high=0.1),
        {},
        ".3f",
    )


def _steps(rows: list[Row], but: str) -> Iterator[tuple[bool, list[Row]]]:
    """The programs' rows by sweep, each with whether revenue rises along it."""
    for name in (INSTANCE, LOADED):
        for parameter, sweep in SWEEPS.items():
            if parameter != but:
                found = selected(rows, instance=name, parameter=parameter, policy="plan")
                yield sweep.revenue_rises, found


def _largest_wrong_step(rows: list[Row], name: str, but: str = "") -> float:
    """Largest relative step against the direction of a sweep; 0 if there is none."""
    worst = 0.0
    for rises, found in _steps(rows, but):
        steps = np.diff(np.log(column(found, name)))
        wrong = -steps if rises == (name == "revenue") else steps
        worst = max(worst, float(wrong.max()))
    return worst


def _follows_claim(rows: list[Row], policy: str) -> Claim:
    """The simulated point that is farthest below its program, of those the theorem is about."""
    found = selected(rows, policy=policy, n_gpus=N_GPUS)
    points = [
        point
        for point in sorted({(row["parameter"], row["value"]) for row in found})
        if not needs_decode_queue(changed(INSTANCE, *point), "bundled")
    ]
    shares = {p: column(found, "share", parameter=p[0], value=p[1]) for p in points}
    worst = min(points, key=lambda p: float(shares[p].mean()))
    target = N_GPUS * plan(changed(INSTANCE, *worst)).x.min()
    return Claim(
        "Clusters follow the curves of the program",
        "Theorem 4.1",
        f"least share of R* of {policy} over {len(points)} points with "
        f"gamma tau_mix >= (B-1)/B, n = {N_GPUS} ({worst[0]} = {worst[1]:g})",
        Estimate.of(shares[worst]),
        Criterion(low=0.95),
        {
            "differs": f"the plan wants {target:.2f} prefills of a class in service there; the "
            "the paper's gate admits it whenever no other waits, and prefilled requests abandon"
        },
        ".3f",
    )


def _worst_point_in_larger_clusters(rows: list[Row]) -> str:
    """Shares of gate-and-route at its worst point, by size."""
    found = selected(rows, parameter=SLOTS, value=WORST_SLOTS, policy=POLICIES[0])
    shares = [
        f"{column(found, 'share', n_gpus=n).mean():.3f} at n = {n}"
        for n in sorted({row["n_gpus"] for row in found})
    ]
    return f"{POLICIES[0]} at B = {WORST_SLOTS} earns, as a share of R*: {', '.join(shares)}."


def _weighting(rows: list[Row]) -> str:
    """Where the indicator is farthest from the time that a token takes."""
    found = selected(rows, policy=POLICIES[1], n_gpus=N_GPUS)
    ratios = {}
    for point in {(row["parameter"], row["value"]) for row in found}:
        parameter, value = point
        time = column(found, "TPOT", parameter=parameter, value=value).mean()
        indicator = planned_token_time(plan(changed(INSTANCE, parameter, value)))
        ratios[point] = (indicator / time, indicator, time)
    (parameter, value), (_, indicator, time) = max(ratios.items(), key=lambda item: item[1])
    return (
        f"The indicator (45) is a mean over slots, all full; tokens are made in the fast ones. At "
        f"{parameter} = {value:g} it says {1e3 * indicator:.1f} ms, and a token of {POLICIES[1]} "
        f"takes {1e3 * time:.1f} ms in its slot."
    )
