"""Section 6.4: the effect of prices on revenue and on the schedule.

Demand does not answer to prices here. With c_p + c_d = k, R* is the greatest of revenues that are
linear in the price, one for each plan, so it is convex and greatest at an end: what a price changes
is what the same tokens are billed, and a little through the schedule that it leads to. Every run is
billed at all prices from its tokens, which keeps the two apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate, Evaluation
from llm_sched_env.model.instance import Instance
from llm_sched_env.planning import PRICINGS, FluidPlan, plan
from llm_sched_env.presets import PAPER_PRICES, resolve_instance
from research.framework.claims import Claim, Criterion, Findings, exact
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.changed_instances import with_prices
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTANCES = ("base", "dolly15k")
TOTAL = PAPER_PRICES.prefill + PAPER_PRICES.decode
# c_p / k by which is scheduled and billed; the paper's is 1/3.
PAPER_RATIO = PAPER_PRICES.prefill / TOTAL
RATIOS = (0.0, 0.1, 0.2, PAPER_RATIO, 0.5, 0.65, 0.8, 0.9, 1.0)
QUICK_RATIOS = (0.0, PAPER_RATIO, 1.0)
# Policies with the pricing of their plan.
RULES = (
    ("gate-and-route", "bundled"),
    ("trunk-reservation", "bundled"),
    ("prioritize-and-route", "separate"),
    ("trunk-reservation", "separate"),
)
BUNDLED_RULES, SEPARATE_RULES = RULES[:2], RULES[2:]
# Sizes at every price, and further ones at the paper's.
SIZES = {"base": (20, 200), "dolly15k": (20,)}
LARGER_SIZES = {"base": (2000,), "dolly15k": (200,)}


class Pricing(Study):
    """Schedules by several prices and both pricings, each billed at all prices."""

    name = "pricing"
    title = "Prices, and scheduling by them"
    source = "Section 6.4"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """Plans and runs by price; at the paper's prices also larger clusters."""
        ratios = QUICK_RATIOS if quick else RATIOS
        plans = [
            {"instance": name, "ratio": ratio, "pricing": pricing}
            for name in INSTANCES
            for pricing in PRICINGS
            for ratio in ratios
        ]
        points = [
            (name, ratio, n)
            for name in INSTANCES
            for ratio in ratios
            for n in (SIZES[name][:1] if quick else SIZES[name])
        ]
        if not quick:
            points += [(name, PAPER_RATIO, n) for name in INSTANCES for n in LARGER_SIZES[name]]
        horizon, warmup, runs = (400.0, 200.0, 2) if quick else (900.0, 300.0, 6)
        simulations = [
            {"instance": name, "ratio": ratio, "pricing": pricing}
            | {
                "run": simulated_cell(
                    policy,
                    priced(name, ratio).to_dict(),
                    n,
                    run,
                    horizon=horizon,
                    warmup=warmup,
                    pricing=pricing,
                )
            }
            for name, ratio, n in points
            for policy, pricing in RULES
            for run in seeds(seed, runs)
        ]
        return [*plans, *simulations]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds; a linear program costs little compared with them."""
        return simulation_cost(cell["run"]) if "run" in cell else 1.0

    def compute(self, cell: Cell) -> list[Row]:
        """Tokens that are billed, per GPU and second, and the decode queue."""
        row = {key: cell[key] for key in ("instance", "ratio", "pricing")}
        instance = priced(cell["instance"], cell["ratio"])
        if "run" not in cell:
            return [row | {"policy": "plan"} | planned_tokens(plan(instance, cell["pricing"]))]
        result = simulate(cell["run"])
        about = {"policy": result.policy, "n_gpus": result.n_gpus, "seed": result.seed}
        queue = {"q_decode": float(result.occupancy["q_decode"].sum())}
        return [row | about | served_tokens(instance, result) | queue]

    def findings(self, rows: list[Row]) -> Findings:
        """No price between the ends is best; the schedule hardly asks; bundled objectives serve."""
        claims = []
        for name in INSTANCES:
            claims += [self._findings_on_ends(rows, name), *_best_end_claims(rows, name)]
        for name in INSTANCES:
            claims += _advice_claims(rows, name)
        return Findings(claims, self._findings_table(rows), _remarks(rows))

    def _findings_on_ends(self, rows: list[Row], name: str) -> Claim:
        """The best ratio of the programs, and why it is an end."""
        values = {p: _plan_values(rows, name, p) for p in PRICINGS}
        ratios = sorted({row["ratio"] for row in rows})
        best = {p: ratios[int(np.argmax(v))] for p, v in values.items()}
        inner = max(min(b, 1.0 - b) for b in best.values())
        ends = ", ".join(f"{p}: c_p/k = {b:g}" for p, b in best.items())
        return Claim(
            f"The best c_p/c_d at c_p + c_d = k is an end of the range, on {name}",
            "this project, on section 6.4",
            "distance of the program's best c_p/k from the nearer end",
            exact(inner),
            Criterion(0.0, 0.0),
            {
                "agrees": f"{ends}. Demand does not answer to prices, so R* is convex in c_p: "
                "the price is put on the tokens of which more are served"
            },
            ".2f",
        )

    def _findings_table(self, rows: list[Row]) -> list[Row]:
        """Billing separately at the paper's prices, by rule and size."""
        table = []
        for name in INSTANCES:
            at_paper = _at_paper_prices(rows, name)
            bound = plan(name, "separate").value
            for n in sorted({row["n_gpus"] for row in at_paper}):
                for policy, pricing in RULES:
                    found = selected(
                        at_paper, instance=name, n_gpus=n, policy=policy, pricing=pricing
                    )
                    revenue = {p: billed(found, p, PAPER_RATIO) for p in PRICINGS}
                    shares = Estimate.of(revenue["separate"] / bound)
                    queue = Estimate.of(column(found, "q_decode"))
                    table.append(
                        {"instance": name, "n": n, "scheduled by": pricing, "policy": policy}
                        | {"separate, share of R*": _with_half_width(shares)}
                        | {"bundled, same unit": f"{revenue['bundled'].mean() / bound:.4f}"}
                        | {"q_decode per GPU": _with_half_width(queue)}
                    )
        return table

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Revenue over the price; what scheduling by it adds."""
        figure.set_size_inches(10.0, 6.4)
        for (left, right), name in zip(figure.subplots(2, 2), INSTANCES, strict=True):
            ratios = sorted({row["ratio"] for row in rows})
            for c, (policy, pricing) in enumerate(RULES):
                n, label = SIZES[name][0], f"{policy}, {pricing}"
                runs = [_runs(rows, name, n, policy, pricing, ratio) for ratio in ratios]
                means = [billed(f, pricing, r).mean() for f, r in zip(runs, ratios, strict=True)]
                left.plot(ratios, means, ".", color=f"C{c}", label=f"{label}, n = {n}")
                gains = [_gain_by_scheduling(rows, name, n, policy, pricing, r) for r in ratios]
                right.plot(ratios, [100 * g.mean for g in gains], ".-", color=f"C{c}", label=label)
            for pricing, style in zip(PRICINGS, ("-", "--"), strict=True):
                values = _plan_values(rows, name, pricing)
                left.plot(ratios, values, style, color="0.4", label=f"R*, {pricing}")
                fixed = [_fixed_plan_value(rows, name, pricing, r) for r in ratios]
                gain = 100 * (values / np.array(fixed) - 1.0)
                right.plot(ratios, gain, style, color="0.4", label=f"plan, {pricing}")
            left.set(xlabel="c_p / k", ylabel="revenue per GPU-second", title=name)
            right.set(xlabel="c_p / k", ylabel="gain, %", title=f"{name}: scheduled by own prices")
            right.set_yscale("symlog", linthresh=1.0)
        figure.axes[0].legend(fontsize="x-small")

    def settings(self, rows: list[Row]) -> str:
        """Instances, prices, runs."""
        runs = len({row["seed"] for row in rows if "seed" in row})
        sizes = sorted({row["n_gpus"] for row in rows if "n_gpus" in row})
        ratios = sorted({row["ratio"] for row in rows})
        return (
            f"`{'`, `'.join(INSTANCES)}` at k = {TOTAL:g}, scheduled by c_p/k = "
            f"{', '.join(f'{r:.3g}' for r in ratios)} (the paper's: {PAPER_RATIO:.3f}); n = "
            f"{', '.join(map(str, sizes))} (the largest at the paper's prices only), {runs} seeds "
            "on the same requests, started empty, warm-up 300 of 900 s (quick: 200 of 400 s). "
            "Class means are billed; a run is billed at every price and in both ways. On the "
            "figure, right: revenue less that of the schedule by the paper's prices billed alike."
        )


def priced(instance: str, ratio: float) -> Instance:
    """A preset with c_p = ratio k and c_d = (1 - ratio) k."""
    return with_prices(resolve_instance(instance), ratio * TOTAL, (1.0 - ratio) * TOTAL)


def planned_tokens(fluid: FluidPlan) -> Row:
    """Tokens per GPU and second that a plan bills, as :func:`served_tokens`."""
    instance = fluid.instance
    decoded = (
        instance.mixed_decode_rates * fluid.y_mixed + instance.solo_decode_rates * fluid.y_solo
    )
    return _tokens(instance, instance.prefill_rates * fluid.x, decoded)


def served_tokens(instance: Instance, result: Evaluation) -> Row:
    """Tokens per GPU and second that a run bills, in class means.

    Prompt tokens when the prefill ends (separate charging), and of completed requests (bundled);
    output tokens of completed requests.
    """
    gpu_seconds = result.n_gpus * (result.horizon - result.warmup) * result.replications
    prefilled, completed = (
        np.array([getattr(c, name) for c in result.classes]) / gpu_seconds
        for name in ("prefilled", "completed")
    )
    return _tokens(instance, prefilled, completed)


def _tokens(instance: Instance, prefilled: np.ndarray, completed: np.ndarray) -> Row:
    return {
        "prefilled prompt tokens": float(prefilled @ instance.prompt_tokens),
        "completed prompt tokens": float(completed @ instance.prompt_tokens),
        "completed output tokens": float(completed @ instance.output_tokens),
    }


def billed(rows: list[Row], pricing: str, ratio: float) -> np.ndarray:
    """What rows earn per GPU and second at a price in a pricing, (22) or (23); shape (N,)."""
    prompts = "completed" if pricing == "bundled" else "prefilled"
    tokens = column(rows, f"{prompts} prompt tokens"), column(rows, "completed output tokens")
    revenue: np.ndarray = TOTAL * (ratio * tokens[0] + (1.0 - ratio) * tokens[1])
    return revenue


def _runs(rows: list[Row], name: str, n: int, policy: str, pricing: str, ratio: float) -> list[Row]:
    return selected(rows, instance=name, n_gpus=n, policy=policy, pricing=pricing, ratio=ratio)


def _at_paper_prices(rows: list[Row], name: str) -> list[Row]:
    """Runs at the prices of the paper."""
    return [r for r in selected(rows, instance=name, ratio=PAPER_RATIO) if r["policy"] != "plan"]


def _plan_values(rows: list[Row], name: str, pricing: str) -> np.ndarray:
    """R* by ratio; shape (R,)."""
    found = selected(rows, instance=name, policy="plan", pricing=pricing)
    found.sort(key=lambda row: float(row["ratio"]))
    return np.array([billed([row], pricing, row["ratio"])[0] for row in found])


def _fixed_plan_value(rows: list[Row], name: str, pricing: str, ratio: float) -> float:
    """What the plan by the paper's prices earns when it is billed at others."""
    found = selected(rows, instance=name, policy="plan", pricing=pricing, ratio=PAPER_RATIO)
    return float(billed(found, pricing, ratio)[0])


def _gain_by_scheduling(
    rows: list[Row], name: str, n: int, policy: str, pricing: str, ratio: float
) -> Estimate:
    """What scheduling by the billed prices adds to scheduling by the paper's, a share."""
    own, paper = (
        billed(_runs(rows, name, n, policy, pricing, by), pricing, ratio)
        for by in (ratio, PAPER_RATIO)
    )
    return Estimate.of((own - paper) / paper.mean())


def _best_end_claims(rows: list[Row], name: str) -> list[Claim]:
    """Whether clusters earn most at the program's best price."""
    ratios = sorted({row["ratio"] for row in rows})
    claims = []
    free = selected(rows, instance=name, ratio=0.0, policy=RULES[0][0])
    for n in sorted({row["n_gpus"] for row in free}):
        for policy, pricing in (RULES[1], RULES[2]):
            best = ratios[int(np.argmax(_plan_values(rows, name, pricing)))]
            revenue = {
                r: billed(_runs(rows, name, n, policy, pricing, r), pricing, r) for r in ratios
            }
            others = [r for r in ratios if r != best]
            second = max(others, key=lambda r: float(revenue[r].mean()))
            claims.append(
                Claim(
                    f"Clusters too earn most at the program's best price, on {name}",
                    "this project, on section 6.4",
                    f"{pricing} revenue at c_p/k = {best:g} less that at {second:.3g}, the next "
                    f"best, per GPU and second, {policy}, n = {n}",
                    Estimate.of(revenue[best] - revenue[second]),
                    Criterion(low=0.0),
                    shown=".2f",
                )
            )
    return claims


def _advice_claims(rows: list[Row], name: str) -> list[Claim]:
    """Schedule by bundled prices, bill separately: what it costs in clusters."""
    claims = []
    at_paper = _at_paper_prices(rows, name)
    bound = plan(name, "separate").value
    planned = selected(rows, instance=name, policy="plan", pricing="bundled", ratio=PAPER_RATIO)
    in_plan = float(billed(planned, "separate", PAPER_RATIO)[0]) / bound - 1.0
    for n in sorted({row["n_gpus"] for row in at_paper}):
        for bundled, separate in zip(BUNDLED_RULES, SEPARATE_RULES, strict=True):
            first, second = (
                billed(_runs(at_paper, name, n, *rule, PAPER_RATIO), "separate", PAPER_RATIO)
                for rule in (bundled, separate)
            )
            claims.append(
                Claim(
                    "Bundled prices serve as the objective of scheduling while one bills "
                    f"separately, on {name} (in the plan: {in_plan:+.2%})",
                    "section 6.4",
                    f"separate revenue of {bundled[0]} by the bundled plan less that of "
                    f"{separate[0]} by the separate one, share of R*, n = {n}",
                    Estimate.of((first - second) / bound),
                    Criterion(low=-0.01),
                    {"differs": _what_the_loss_buys(at_paper, n, bundled, separate)},
                )
            )
    return claims


def _what_the_loss_buys(
    rows: list[Row], n: int, bundled: tuple[str, str], separate: tuple[str, str]
) -> str:
    """Decode queues and bundled revenue under both schedules."""
    runs = [selected(rows, n_gpus=n, policy=p, pricing=by) for p, by in (bundled, separate)]
    queues = [column(found, "q_decode").mean() for found in runs]
    revenue = [billed(found, "bundled", PAPER_RATIO).mean() for found in runs]
    gain = revenue[0] / revenue[1] - 1.0
    return (
        "prompts that are charged pay also when their requests abandon before they decode; "
        f"scheduled by bundled prices {queues[0]:.1f} in place of {queues[1]:.1f} prefilled "
        f"requests wait per GPU, and completed requests are worth {gain:+.1%}"
    )


def _remarks(rows: list[Row]) -> list[str]:
    """How much of a price's effect is the schedule's."""
    remarks = []
    for name in INSTANCES:
        for pricing in PRICINGS:
            values = _plan_values(rows, name, pricing)
            ratios = sorted({row["ratio"] for row in rows})
            fixed = np.array([_fixed_plan_value(rows, name, pricing, r) for r in ratios])
            gains = values / fixed - 1.0
            spread = values.max() / values.min() - 1.0
            remarks.append(
                f"On `{name}`, {pricing}: from the worst to the best price R* grows by "
                f"{spread:.1%}; with the plan kept at the paper's prices the best price would "
                f"earn {fixed.max():.2f} in place of {values.max():.2f}. Planning anew adds at "
                f"most {gains.max():.2%}, at c_p/k = {ratios[int(np.argmax(gains))]:.3g}."
            )
    return remarks


def _with_half_width(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f}±{estimate.ci95[1] - estimate.mean:.4f}"
