"""Section 6.4: the value of memory (slots B) against speed (beta)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import plan
from llm_sched_env.presets import resolve_instance
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.changed_instances import with_hardware
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCES = ("base", "overload")
SLOTS = tuple(range(4, 41, 2))
BETAS = tuple(float(f"{v:.4g}") for v in np.geomspace(1e-5, 1e-3, 21))
QUICK_SLOTS, QUICK_BETAS = SLOTS[::6], BETAS[::5]
PAPER_SLOTS, PAPER_BETA = 16, 6.2e-5
# Where the choice is simulated: as it is, with twice the slots, with half of beta.
CHOICES = {
    "as it is": (1, 1.0),
    "twice the memory": (2, 1.0),
    "twice the speed": (1, 0.5),
}
MEMORY, SPEED = "twice the memory", "twice the speed"
STARTS = ((8, 6.2e-5), (16, 6.2e-5), (16, 5e-4))
POLICY, N_GPUS = "trunk-reservation", 200
_NOTHING = 1e-6


class MemorySpeed(Study):
    """Linear programs over a grid of B and beta; the choice between the two simulated."""

    name = "memory-speed"
    title = "Memory or speed"
    source = "Section 6.4"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One linear program a point, one run a choice, start and seed."""
        grid = (QUICK_SLOTS, QUICK_BETAS) if quick else (SLOTS, BETAS)
        programs = [
            {"instance": name, "batch_slots": slots, "beta": beta}
            for name in INSTANCES
            for slots in grid[0]
            for beta in grid[1]
        ]
        horizon, warmup, runs = (400.0, 200.0, 2) if quick else (900.0, 300.0, 5)
        simulations: list[Cell] = []
        for slots, beta in STARTS:
            for choice, (more, slower) in CHOICES.items():
                point: dict[str, Any] = {"batch_slots": slots * more, "beta": beta * slower}
                instance = changed("overload", **point).to_dict()
                times: dict[str, Any] = {"horizon": horizon, "warmup": warmup}
                simulations += [
                    {"instance": "overload", "start": f"B = {slots}, beta = {beta:g}"}
                    | {"choice": choice, **point}
                    | {"run": simulated_cell(POLICY, instance, N_GPUS, run, **times)}
                    for run in seeds(seed, runs)
                ]
        return [*programs, *simulations]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds; a linear program costs little compared with them."""
        return simulation_cost(cell["run"]) if "run" in cell else 1.0

    def compute(self, cell: Cell) -> list[Row]:
        """R* and what a doubling of each adds, or the revenue of a run."""
        row = {key: value for key, value in cell.items() if key != "run"}
        if "run" in cell:
            result = simulate(cell["run"])
            found = {"revenue": result.revenue_rate.mean, "share": result.score.mean}
            return [row | {"policy": result.policy, "seed": result.seed} | found]
        instance = changed(**row)
        memory, speed = worths(instance)
        return [
            row
            | {
                "policy": "plan",
                "revenue": plan(instance).value,
                "worth of memory": memory,
                "worth of speed": speed,
            }
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """Both are worth something everywhere; which is worth more, and whether clusters agree."""
        claims = []
        for name in INSTANCES:
            found = selected(rows, instance=name, policy="plan")
            memory, speed = _worth_columns(found)
            at_paper = worths(changed(name, PAPER_SLOTS, PAPER_BETA))
            claims += [
                Claim(
                    f"Revenue rises with memory and with speed on {name}",
                    "this project; section 6.4 plots it",
                    "least worth over the grid, percent of R* per percent",
                    exact(float(min(memory.min(), speed.min()))),
                    Criterion(low=-1e-9),
                    shown=".1e",
                ),
                Claim(
                    f"On the paper's hardware memory is worth more than speed, on {name}",
                    "this project",
                    f"worth of memory less that of speed, percent of R* per percent, {name}, "
                    f"B = {PAPER_SLOTS}, beta = {PAPER_BETA:g}",
                    exact(at_paper[0] - at_paper[1]),
                    Criterion(low=0.0),
                    {"agrees": f"{at_paper[0]:.3f} and {at_paper[1]:.3f}: slots are what is short"},
                    ".3f",
                ),
            ]
        claims += [_choice_claim(rows, start) for start in _starts(rows)]
        return Findings(claims, remarks=[_where_memory_wins(rows, name) for name in INSTANCES])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Contours of R*; the line where both are worth the same."""
        figure.set_size_inches(10.0, 4.0)
        for axis, name in zip(figure.subplots(1, 2), INSTANCES, strict=True):
            found = selected(rows, instance=name, policy="plan")
            slots, betas = (sorted({row[key] for row in found}) for key in ("batch_slots", "beta"))
            shape = (len(slots), len(betas))
            revenue = column(found, "revenue").reshape(shape).T
            memory, speed = _worth_columns(found)
            more = np.where(np.maximum(memory, speed) > _NOTHING, memory - speed, np.nan)
            filled = axis.contourf(slots, betas, revenue, 16, cmap="viridis")
            figure.colorbar(filled, ax=axis, label="R* per GPU-second")
            axis.contour(slots, betas, more.reshape(shape).T, (0.0,), colors="w")
            axis.plot(PAPER_SLOTS, PAPER_BETA, "r*", markersize=10)
            axis.set(yscale="log", xlabel="B, slots", ylabel="beta, s/token", title=name)

    def settings(self, rows: list[Row]) -> str:
        """Grid and runs."""
        programs = selected(rows, policy="plan", instance=INSTANCES[0])
        slots, betas = (column(programs, key) for key in ("batch_slots", "beta"))
        runs = len({row["seed"] for row in rows if "seed" in row})
        return (
            f"`{'`, `'.join(INSTANCES)}`, bundled: {len(programs)} linear programs each, B = "
            f"{slots.min()} to {slots.max()}, beta = {betas.min():g} to {betas.max():g} s/token. "
            "Worth is what R* gains, in percent, per percent of more slots and of a smaller beta "
            "(one slot). White on the figure: both are worth the same; below the lowest line "
            "memory is worth more; the star is the paper's hardware. Simulated: a doubling of "
            f"either on `overload`, {POLICY}, n = {N_GPUS}, {runs} seeds on the same "
            "requests, warm-up 300 of 900 s (quick: 200 of 400 s)."
        )


def changed(instance: str, batch_slots: int, beta: float) -> Instance:
    """A preset with other memory and speed."""
    return with_hardware(resolve_instance(instance), batch_slots=batch_slots, beta=beta)


def worths(instance: Instance) -> tuple[float, float]:
    """Percent that R* gains per percent of memory and per percent of speed.

    Of one more slot, and of beta divided by (B + 1) / B.
    """
    hardware, value = instance.hardware, plan(instance).value
    more = (hardware.batch_slots + 1) / hardware.batch_slots
    memory = with_hardware(instance, batch_slots=hardware.batch_slots + 1)
    speed = with_hardware(instance, beta=hardware.beta / more)
    gains = [math.log(plan(changed).value / value) for changed in (memory, speed)]
    return gains[0] / math.log(more), gains[1] / math.log(more)


def doubling_gains(instance: Instance) -> tuple[float, float]:
    """What twice the slots and half of beta add to R*, as shares of it."""
    hardware, value = instance.hardware, plan(instance).value
    memory = with_hardware(instance, batch_slots=2 * hardware.batch_slots)
    speed = with_hardware(instance, beta=hardware.beta / 2)
    return plan(memory).value / value - 1.0, plan(speed).value / value - 1.0


def _starts(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["start"] for row in rows if "start" in row))


def _choice_claim(rows: list[Row], start: str) -> Claim:
    """Whether clusters prefer what the program prefers."""
    found = selected(rows, start=start)
    runs = {choice: column(found, "revenue", choice=choice) for choice in CHOICES}
    first = selected(found, choice="as it is")[0]
    memory, speed = doubling_gains(changed("overload", first["batch_slots"], first["beta"]))
    better, other = (MEMORY, SPEED) if memory > speed else (SPEED, MEMORY)
    gain = (runs[better] - runs[other]) / runs["as it is"]
    return Claim(
        f"From {start} on overload {better} earns more than {other}: {abs(memory - speed):.4f} "
        "of R* in the program",
        "this project",
        f"the difference simulated, share of the revenue as it is, {POLICY}",
        Estimate.of(gain),
        Criterion(low=0.0),
    )


def _worth_columns(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    return column(rows, "worth of memory"), column(rows, "worth of speed")


def _where_memory_wins(rows: list[Row], name: str) -> str:
    memory, speed = _worth_columns(selected(rows, instance=name, policy="plan"))
    more, none = memory - speed, np.maximum(memory, speed) < _NOTHING
    shares = np.mean(more > _NOTHING), np.mean(more < -_NOTHING), np.mean(none)
    return (
        f"On `{name}` memory is worth more at {shares[0]:.0%} of the points of the grid, speed at "
        f"{shares[1]:.0%}, and at {shares[2]:.0%} neither is worth anything: all demand is served."
    )
