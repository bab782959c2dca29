"""Section 6.4: the cost of service levels: shadow prices of limits, and penalties."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import FluidPlan, plan
from llm_sched_env.planning.service_level_names import SERVICE_LEVELS
from llm_sched_env.planning.service_levels import PLANNED, ServiceLevel
from llm_sched_env.presets import resolve_instance
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCE = "base"
LEVELS = ("prefill-fairness", "decode-fairness", "tpot")  # of the paper
PREFILL, DECODE, TIME = LEVELS
SYMBOLS = {PREFILL: "eta1", DECODE: "eta2", TIME: "eta3"}
# Limits as fractions of the way from the least attainable level to that of the free plan.
FRACTIONS = tuple(k / 40 for k in range(1, 45))
QUICK_FRACTIONS = (0.025, 0.25, 0.5, 0.75, 1.1)
# Penalties as multiples of R* for the whole way.
PRICES = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3, 2.0, 3.0, 6.0, 10.0, 20.0, 50.0)
QUICK_PRICES = (0.3, 1.0, 10.0)
HALF = 0.5
_STEP = 1e-4
_ROUNDING = 1e-9


class ShadowPrices(Study):
    """Limits, penalties and combinations of the three service levels of ``base``."""

    name = "shadow-prices"
    title = "What service levels cost"
    source = "Section 6.4, equations (43)-(49)"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:  # noqa: ARG002
        """Every limit and every penalty of one level alone, and all sets of halved levels."""
        fractions, prices = (QUICK_FRACTIONS, QUICK_PRICES) if quick else (FRACTIONS, PRICES)
        limits = [{"form": "limit", "level": a, "fraction": f} for a in LEVELS for f in fractions]
        penalties = [{"form": "penalty", "level": a, "multiple": m} for a in LEVELS for m in prices]
        sets = [
            {"form": "combination", "levels": list(levels)}
            for count in (1, 2, 3)
            for levels in combinations(LEVELS, count)
        ]
        return [*limits, *penalties, *sets]

    def compute(self, cell: Cell) -> list[Row]:
        """One plan, and the neighbours that check its price."""
        instance = resolve_instance(INSTANCE)
        row = {"form": cell["form"], "level": cell.get("level", "+".join(cell.get("levels", [])))}
        if cell["form"] == "limit":
            return [row | limited(instance, cell["level"], cell["fraction"])]
        if cell["form"] == "penalty":
            return [row | penalised(instance, cell["level"], cell["multiple"])]
        return [row | combined(instance, cell["levels"])]

    def findings(self, rows: list[Row]) -> Findings:
        """Dear, nearly free, steep; and whether the prices are derivatives."""
        lost = {a: 1.0 - _share_at(rows, a, HALF) for a in LEVELS}
        quarter = 1.0 - _share_at(rows, DECODE, 0.75)
        claims = [
            Claim(
                "Prefill fairness is dear",
                "section 6.4",
                "share of R* lost when the prefill gap is halved",
                exact(lost[PREFILL]),
                Criterion(low=0.1),
                {
                    "agrees": "prefills of the two classes take service times that differ "
                    "tenfold, so equal occupancies leave most long prompts waiting"
                },
                ".3f",
            ),
            Claim(
                "Decode fairness is nearly free",
                "section 6.4",
                "share of R* lost when the decode gap is cut by a quarter",
                exact(quarter),
                Criterion(high=0.01),
                {"agrees": "who decodes solo can be swapped as long as solo slots suffice"},
                ".4f",
            ),
            Claim(
                "Decode fairness is nearly free",
                "section 6.4",
                "share lost to half the decode gap over that to half the prefill gap",
                exact(lost[DECODE] / lost[PREFILL]),
                Criterion(high=0.25),
                {"agrees": f"half the decode gap costs {lost[DECODE]:.1%}: little, not nothing"},
                ".3f",
            ),
            *self._findings_about_time(rows),
            *self._findings_about_prices(rows),
        ]
        return Findings(claims, self._findings_table(rows))

    def _findings_about_time(self, rows: list[Row]) -> list[Claim]:
        """The price of the time per token near 1/gamma: steep, and where it ends."""
        instance = resolve_instance(INSTANCE)
        steepest = selected(rows, form="limit", level=TIME)[0]
        middle = selected(rows, form="limit", level=TIME, fraction=HALF)[0]
        end = price_of_time_at_its_end(instance)
        milliseconds = 1e3 * steepest["limit"], 1e3 * middle["limit"]
        return [
            Claim(
                "The price of the time per token explodes near 1/gamma = 0.022 s",
                "section 6.4",
                "price at {:.2f} ms over that at {:.2f} ms".format(*milliseconds),
                exact(steepest["dual"] / middle["dual"]),
                Criterion(low=5.0),
                {
                    "agrees": "the last mixed GPUs serve the class that earns most per second of "
                    "prefill"
                },
                ".2f",
            ),
            Claim(
                "The explosion is a step: at 1/gamma the price is finite, the best "
                "w mu_p over the slope of the indicator at X = 0",
                "this project",
                f"price at {milliseconds[0]:.2f} ms over the closed form of {end:,.0f}",
                exact(steepest["dual"] / end),
                Criterion(0.95, 1.05),
            ),
        ]

    def _findings_about_prices(self, rows: list[Row]) -> list[Claim]:
        """Duals are derivatives, and both forms of a level trace one frontier."""
        limits, penalties = (selected(rows, form=form) for form in ("limit", "penalty"))
        worst = max(outside(row) for row in limits)
        apart = np.abs(column(penalties, "share") - column(penalties, "frontier"))
        return [
            Claim(
                "A shadow price is the derivative of the plan's value over its limit",
                "this project",
                f"largest distance of {len(limits)} prices from the difference quotients on both "
                "sides, over R* for the whole way",
                exact(worst),
                Criterion(high=1e-4),
                shown=".1e",
            ),
            Claim(
                "A penalty leads to a point of the limits' frontier",
                "this project",
                f"largest difference of shares of R*, {len(apart)} penalties",
                exact(float(apart.max())),
                Criterion(high=1e-6),
                shown=".1e",
            ),
        ]

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        """Combinations of halved levels."""
        table = []
        for row in selected(rows, form="combination"):
            prices = {f"price of {a}": f"{row[f'dual {a}']:,.4g}" for a in LEVELS}
            share = {"share of R*": f"{row['share']:.4f}"}
            alone = {"sum of single losses": f"{_sum_of_losses(rows, row):.4f}"}
            halved = {"halved": row["level"].replace("+", ", ")}
            table.append(halved | share | {"loss": f"{1 - row['share']:.4f}"} | alone | prices)
        return table

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Revenue above, price below, over each limit."""
        figure.set_size_inches(10.0, 5.6)
        axes = figure.subplots(2, 3, sharex="col")
        for k, level in enumerate(LEVELS):
            revenue, price = axes[:, k]
            limits = selected(rows, form="limit", level=level)
            at, unit = _axis(level, column(limits, "limit"))
            revenue.plot(at, column(limits, "share"), label="limit")
            penalties = selected(rows, form="penalty", level=level)
            attained, _ = _axis(level, column(penalties, "attained"))
            revenue.plot(attained, column(penalties, "share"), "o", markersize=4, label="penalty")
            revenue.set(title=level, ylabel="revenue, share of R*")
            price.step(at, column(limits, "dual"), where="mid")
            price.set(xlabel=f"limit {SYMBOLS[level]}, {unit}", ylabel="shadow price")
            price.set_yscale("symlog", linthresh=1e4 if level == TIME else 10.0)
            if level == TIME:
                least, _ = _axis(level, np.array([resolve_instance(INSTANCE).hardware.tau_solo]))
                price.axvline(float(least[0]), color="0.6", linestyle=":")
        axes[0, 0].legend()

    def settings(self, rows: list[Row]) -> str:
        """Instance and grid."""
        instance = resolve_instance(INSTANCE)
        ways = []
        for level in LEVELS:
            least, free = attainable(instance, level)
            factor, unit = (1e3, "ms") if level == TIME else (1.0, "per GPU")
            ways.append(f"{level} {factor * least:.4g} to {factor * free:.4g} {unit}")
        count = len(selected(rows, form="limit", level=PREFILL))
        return (
            f"`{INSTANCE}`, bundled, linear programs only. Each level alone: {count} limits on the "
            f"way from the least attainable to the free plan's ({'; '.join(ways)}), and penalties "
            "in place of limits; together: limits half way. Prices are in currency per "
            "GPU-second and unit of the indicator (requests per GPU, seconds)."
        )


def attainable(instance: Instance, level: str) -> tuple[float, float]:
    """The least level that any plan attains, and that of the plan without service levels."""
    least = instance.hardware.tau_solo if level == TIME else 0.0
    free = SERVICE_LEVELS[level](price=0.0).value(instance, planned(plan(instance)))
    return least, free


def planned(fluid: FluidPlan) -> np.ndarray:
    """A plan's occupancy as indicators read it; shape (4, I)."""
    return np.array([getattr(fluid, row) for row in PLANNED])


def limited(instance: Instance, level: str, fraction: float) -> Row:
    """A plan under a limit, with difference quotients of its revenue on both sides."""
    least, free = attainable(instance, level)
    limit, step = least + fraction * (free - least), _STEP * (free - least)
    fluid = _solve(instance, level, limit=limit)
    below, above = (_solve(instance, level, limit=limit + h).revenue_rate for h in (-step, step))
    return {
        "fraction": fraction,
        "limit": limit,
        "attained": fluid.slos[level].value,
        "share": fluid.revenue_rate / fluid.value,
        "dual": fluid.slos[level].dual,
        "left quotient": (fluid.revenue_rate - below) / step,
        "right quotient": (above - fluid.revenue_rate) / step,
        "scale": fluid.value / (free - least),
    }


def penalised(instance: Instance, level: str, multiple: float) -> Row:
    """Compare a plan that pays a price for a level with the one limited to what it attains."""
    least, free = attainable(instance, level)
    price = multiple * plan(instance).value / (free - least)
    fluid = _solve(instance, level, price=price)
    attained = fluid.slos[level].value
    limit = attained + _ROUNDING * (free - least)
    frontier = _solve(instance, level, limit=limit).revenue_rate
    return {
        "price": price,
        "attained": attained,
        "share": fluid.revenue_rate / fluid.value,
        "frontier": frontier / fluid.value,
    }


def combined(instance: Instance, levels: Sequence[str]) -> Row:
    """A plan with some levels limited half way."""
    limits: list[ServiceLevel] = []
    for level in levels:
        least, free = attainable(instance, level)
        limits.append(SERVICE_LEVELS[level](limit=least + HALF * (free - least)))
    fluid = plan(instance, slos=limits)
    duals = {a: fluid.slos[a].dual if a in levels else 0.0 for a in LEVELS}
    return {"share": fluid.revenue_rate / fluid.value} | {f"dual {a}": duals[a] for a in LEVELS}


def price_of_time_at_its_end(instance: Instance) -> float:
    """The price of the time per token as its limit falls to 1/gamma.

    The last mixed GPUs then prefill the class that earns most per second of prefill, whose decodes
    find room; revenue per X is that class's w mu_p, and the indicator's slope at X = 0 is
    ``(B - 1) (tau_mix - 1/gamma) / B``.
    """
    hardware = instance.hardware
    slots = hardware.batch_slots
    slope = (slots - 1) * (hardware.tau_mixed - hardware.tau_solo) / slots
    return float((instance.bundled_revenues * instance.prefill_rates).max() / slope)


def outside(row: Row) -> float:
    """How far a dual lies outside the difference quotients, as a share of R* for the whole way."""
    below, above = row["right quotient"], row["left quotient"]
    return float(max(below - row["dual"], row["dual"] - above, 0.0) / row["scale"])


def _solve(instance: Instance, level: str, **setting: float) -> FluidPlan:
    return plan(instance, slos=[SERVICE_LEVELS[level](**setting)])


def _share_at(rows: list[Row], level: str, fraction: float) -> float:
    return float(selected(rows, form="limit", level=level, fraction=fraction)[0]["share"])


def _sum_of_losses(rows: list[Row], combination: Row) -> float:
    """What the levels of a combination lose one by one."""
    single = combination["level"].split("+")
    return sum(1.0 - _share_at(rows, level, HALF) for level in single)


def _axis(level: str, values: np.ndarray) -> tuple[Any, str]:
    """Values on the axis of a figure, and their unit."""
    return (1e3 * values, "ms") if level == TIME else (values, "per GPU")
