"""Study: rules, replanning and learning under time-varying arrivals, against the bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.policies.registry import registered_policies
from research.framework.claims import (
    DIFFERS,
    UNDECIDED,
    Claim,
    Criterion,
    Findings,
)
from research.framework.row_selection import column, selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.specialist_policies import SPECIALIST, shown_name, specialist
from research.setups.traffic_scenarios import (
    REPLAY,
    REPLAY_LOAD,
    scenario_bounds,
    scenario_names,
    simulate_scenario,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BOUND, LEARNED = "hindsight bound", "learned"
REPLANNED = ("fluid-mpc", "fluid-mpc-estimated")
FORESIGHT = "look-ahead alone"
_FORESIGHT_POLICY = "llm_sched_env.agents.learned_rule:FORESIGHT_ALONE"
SIZES, REPLAY_SIZES = (5, 20), (2, 5, 20)
SPECIALISTS = {
    (scenario, n): specialist(scenario, n)
    for scenario, sizes in (
        ("daily", SIZES),
        ("bursts", SIZES),
        ("phased", SIZES),
        (REPLAY, REPLAY_SIZES),
    )
    for n in sizes
}
"""Rules trained for one kind of traffic and size, of the replay on the half that is known."""
HORIZON, WARMUP, RUNS = 1300.0, 100.0, 24
QUICK_SCENARIOS, QUICK_POLICIES = ("phased", "bursts"), ("trunk-reservation", *REPLANNED, LEARNED)


class TimeVaryingArrivals(Study):
    """Every registered policy under days, bursts, shifts, peaks and a replayed trace."""

    name = "time-varying-arrivals"
    title = "Arrivals that change"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell a scenario, size and policy, and one for the bound."""
        policies = [p for p in registered_policies() if not quick or p in QUICK_POLICIES]
        return [
            {
                "scenario": scenario,
                "policy": policy,
                "n_gpus": n_gpus,
                "seed": seeds(seed, 1)[0],
                "horizon": 300.0 if quick else HORIZON,
                "warmup": WARMUP,
                "replications": 2 if quick else RUNS,
            }
            for scenario in (QUICK_SCENARIOS if quick else scenario_names())
            for n_gpus in ((5,) if quick else REPLAY_SIZES if scenario == REPLAY else SIZES)
            for policy in (BOUND, *policies, _FORESIGHT_POLICY, *_specialist(scenario, n_gpus))
        ]

    def cost(self, cell: Cell) -> float:
        """Seconds, roughly: a decision of the replanned policies takes some milliseconds."""
        per_second = 0.005 if cell["policy"] in REPLANNED else 0.0002 * cell["n_gpus"]
        return float(cell["horizon"] * cell["replications"] * per_second)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a replication."""
        shared: Row = {name: cell[name] for name in ("scenario", "n_gpus")}
        shared["policy"] = shown_name(cell["policy"])
        if cell["policy"] == _FORESIGHT_POLICY:
            shared["policy"] = FORESIGHT
        bounds = cell["policy"] == BOUND
        shares = scenario_bounds(cell).tolist() if bounds else simulate_scenario(cell).scores
        return [shared | {"run": k, "share": share} for k, share in enumerate(shares)]

    def findings(self, rows: list[Row]) -> Findings:
        """Gains of what adapts over the best rule, and of learning over replanning, paired."""
        claims = []
        for scenario in dict.fromkeys(row["scenario"] for row in rows):
            own = selected(rows, scenario=scenario)
            claims += [
                _claim(policy, _FIXED, scenario, _mean_gain(own, policy))
                for policy in _present(own, (LEARNED, SPECIALIST, REPLANNED[0]))
            ]
            claims += [
                _claim(policy, REPLANNED[0], scenario, _mean_gain(own, policy, REPLANNED[0]))
                for policy in _present(own, (LEARNED, SPECIALIST))
            ]
        claims += _overall(rows)
        table = [_line(rows, *case) for case in _cases(rows)]
        return Findings(claims, table, [_reached(rows), _CAVEAT])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Shares of R* by scenario and size, a bar a policy, a line for the bound."""
        figure.set_size_inches(13.0, 4.0)
        axis, cases = figure.subplots(), _cases(rows)
        policies = _present(rows, (*_SHOWN, SPECIALIST))
        width = 0.84 / len(policies)
        for k, policy in enumerate(policies):
            places = [
                place
                for place, (name, n) in enumerate(cases)
                if selected(rows, scenario=name, n_gpus=n, policy=policy)
            ]
            estimates = [Estimate.of(_shares(rows, *cases[place], policy)) for place in places]
            axis.bar(
                np.array(places) + width * (k - (len(policies) - 1) / 2),
                [e.mean for e in estimates],
                0.95 * width,
                yerr=[e.ci95[1] - e.mean for e in estimates],
                error_kw={"linewidth": 0.7},
                label=policy,
            )
        bounds = [float(_shares(rows, *case, BOUND).mean()) for case in cases]
        middle = np.arange(len(cases))
        axis.hlines(bounds, middle - 0.46, middle + 0.46, color="black", label=BOUND)
        axis.set_xticks(middle, [f"{name}\nn = {n}" for name, n in cases], fontsize="x-small")
        axis.set(ylabel="share of R*", ylim=(0.5, 1.05))
        axis.legend(fontsize="small", ncols=len(policies) + 1, loc="upper center")

    def settings(self, rows: list[Row]) -> str:
        """Scenarios, sizes, replications."""
        runs = 1 + max(row["run"] for row in rows)
        replay = (
            f" `{REPLAY}` replays the second half hour of the trace at a mean load of "
            f"{REPLAY_LOAD:g}, whole; every policy plans on the first half hour, and R* is that of "
            "what is replayed."
        )
        if REPLAY not in {row["scenario"] for row in rows}:
            replay = f" `{REPLAY}` is left out: a quick run, or its trace files are absent."
        return (
            "The presets whose arrivals change (`llmsched instances`): `daily` and `bursts` are "
            "`base`, `daily-dolly` and `bursts-dolly` are `dolly15k`, both at a mean load of 1 of "
            "what can be served; `phased` has a load of 2.1, `peaks` of 1.2. Plans and R* are "
            f"those of the mean rates; {REPLANNED[0]} and {LEARNED} know profiles in advance, but "
            f"neither bursts nor the trace. *{FORESIGHT}* is {LEARNED} without its network: "
            "trunk-reservation by the plan of the next 10 s (learned.md). A "
            f"*{SPECIALIST}* is a rule trained for the traffic and size, for `{REPLAY}` on the "
            "first half hour. *The agent* of a preset is its specialist or, without one, "
            f"{LEARNED}."
            f"{replay} {runs} runs of {HORIZON:g} s, warm-up {WARMUP:g} s "
            "(quick: less), the same requests for all. Bundled. The *hindsight bound* is the "
            "fluid program that knows all arrivals of a run in advance (model.md), in steps of "
            "4 s, averaged over the runs."
        )


_SHOWN = ("gate-and-route", "token-bucket", "trunk-reservation", *REPLANNED, FORESIGHT, LEARNED)
_FIXED = "every rule of a fixed plan"
_NOTHING_TO_GAIN = {
    "bursts-dolly": "no class is refused there and no slot kept free, and even a policy that sees "
    "the bursts gains next to nothing: see bursty-optimum",
    REPLAY: "a plan of mean rates refuses no class there and keeps no slot free: see learned.md",
}
# Policies that play alike gain exactly nothing: that is not more.
_MORE = 1e-6
_CAVEAT = (
    f"The runs of `{REPLAY}` have the same arrivals and differ in patience and routing only: "
    "their intervals say nothing about other days, and its lengths are not exponential, so its "
    "bound is an estimate, which a policy may exceed."
)


def _claim(policy: str, other: str, scenario: str, gain: np.ndarray) -> Claim:
    reason = _NOTHING_TO_GAIN.get(scenario) if other == _FIXED else None
    return Claim(
        f"{policy} earns more than {other} under changing arrivals",
        "this project",
        f"gain in share of R*, {scenario}, mean over sizes",
        Estimate.of(gain),
        Criterion(low=_MORE),
        {} if reason is None else dict.fromkeys((DIFFERS, UNDECIDED), reason),
        ".5f",
    )


def _overall(rows: list[Row]) -> list[Claim]:
    """Compare the agent of each preset, its specialist if any, with others; mean over presets."""
    presets = [s for s in dict.fromkeys(row["scenario"] for row in rows) if s != REPLAY]
    by_preset = [selected(rows, scenario=scenario) for scenario in presets]
    claims: list[Claim] = []
    if not all(_present(own, (SPECIALIST, LEARNED)) for own in by_preset):
        return claims
    for other in (None, *_present(rows, REPLANNED)):
        gains = [
            _mean_gain(own, _present(own, (SPECIALIST, LEARNED))[0], other) for own in by_preset
        ]
        mean = np.mean(gains, axis=0)
        claims.append(_claim("the agent", other or _FIXED, f"all {len(presets)} presets", mean))
    return claims


def _line(rows: list[Row], scenario: str, n_gpus: int) -> Row:
    """Shares of R* in %, those of what adapts with their paired gain over the best rule."""
    own = selected(rows, scenario=scenario)
    best = _best_rule(own, n_gpus)
    bound = _shares(own, scenario, n_gpus, BOUND).mean()
    rule = Estimate.of(100.0 * _shares(own, scenario, n_gpus, best))
    line: Row = {
        "scenario": scenario,
        "n": n_gpus,
        BOUND: f"{100.0 * bound:.2f}",
        "best rule": best,
        "its share": _with_interval(rule),
        "of the bound": f"{rule.mean / bound:.1f}",
    }
    for policy in _present(rows, (*REPLANNED, FORESIGHT, LEARNED, SPECIALIST)):
        line[policy] = "-"
        if selected(own, n_gpus=n_gpus, policy=policy):
            share = 100.0 * _shares(own, scenario, n_gpus, policy).mean()
            gain = Estimate.of(100.0 * _gain(own, n_gpus, policy, best))
            line[policy] = f"{share:.2f} ({_with_interval(gain, '+.2f')})"
    return line


def _with_interval(estimate: Estimate, shown: str = ".2f") -> str:
    return f"{estimate.mean:{shown}}±{estimate.ci95[1] - estimate.mean:.2f}"


def _reached(rows: list[Row]) -> str:
    """How much of the bound is reached, over all scenarios and sizes."""
    ranges = []
    for policy in _present(rows, _SHOWN):
        parts = [
            float(_shares(rows, *case, policy).mean() / _shares(rows, *case, BOUND).mean())
            for case in _cases(rows)
        ]
        ranges.append(f"{policy} {100 * min(parts):.1f} to {100 * max(parts):.1f}%")
    return f"Share of the hindsight bound that is earned: {', '.join(ranges)}."


def _best_rule(own: list[Row], n_gpus: int) -> str:
    """Of one scenario, the rule that earns most on average among those that do not adapt."""
    others = {BOUND, *REPLANNED, FORESIGHT, LEARNED, SPECIALIST}
    policies: dict[str, float] = {
        row["policy"]: float(column(own, "share", n_gpus=n_gpus, policy=row["policy"]).mean())
        for row in own
        if row["policy"] not in others
    }
    return max(policies, key=policies.__getitem__)


def _gain(own: list[Row], n_gpus: int, policy: str, other: str) -> np.ndarray:
    """By run, of one scenario, shape (K,)."""
    gain: np.ndarray = column(own, "share", n_gpus=n_gpus, policy=policy) - column(
        own, "share", n_gpus=n_gpus, policy=other
    )
    return gain


def _mean_gain(own: list[Row], policy: str, other: str | None = None) -> np.ndarray:
    """By run, of one scenario, mean over sizes; over the best fixed rule by default, shape (K,)."""
    gains = [_gain(own, n, policy, other or _best_rule(own, n)) for n in _sizes(own)]
    return np.asarray(np.mean(gains, axis=0))


def _shares(rows: list[Row], scenario: str, n_gpus: int, policy: str) -> np.ndarray:
    """By run, shape (K,)."""
    return column(rows, "share", scenario=scenario, n_gpus=n_gpus, policy=policy)


def _specialist(scenario: str, n_gpus: int) -> list[str]:
    """Its path, where there is one."""
    return [SPECIALISTS[scenario, n_gpus]] if (scenario, n_gpus) in SPECIALISTS else []


def _present(rows: list[Row], policies: tuple[str, ...]) -> list[str]:
    """Those that are registered where the rows were computed."""
    found = {row["policy"] for row in rows}
    return [policy for policy in policies if policy in found]


def _sizes(own: list[Row]) -> list[int]:
    return list(dict.fromkeys(row["n_gpus"] for row in own))


def _cases(rows: list[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["scenario"], row["n_gpus"]) for row in rows))
