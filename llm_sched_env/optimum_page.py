"""The page and figure of the study of exact optima (extra ``report`` for the figure)."""

from __future__ import annotations

from pathlib import Path

from llm_sched_env.optimum_study import EXACT, OPTIMUM, SIMULATED, TRUNK, Row

Case = tuple[str, int, str]
_INTRODUCTION = """# The exact optimum of tiny systems

`llmsched optimum` solves the Markov decision process of the model for a few GPUs: full information
on counts, exponential lengths and patience, every order of admissions and placements, waiting
included. It says how much room there is above a policy, which R\\* alone does not: at this size
most of the distance to R\\* is the bound's.

Instances are `base` with fewer slots at the same load: with s = B/16, outputs of s D tokens at a
price of c_d/s, so arrivals, prefills, requests finished per GPU and second and revenue per request
are those of `base`; "x1.5" multiplies the arrival rates; "gamma20" makes decodes slower alone than
beside a prefill, gamma tau_mix = 0.67 < (B-1)/B.

How to read the numbers: revenue per GPU and second. **Exact** numbers are two certified ends: no
policy (of those that let at most as many prefilled requests wait as stated) earns more than the
upper one, and a policy that earns the lower one is known; nothing is sampled. **Simulated** ones
are 95% intervals. "% of optimum" divides the middle by the middle of the optimum.
"""


def write_page(rows: list[Row], folder: Path) -> None:
    """Write ``exact_optimum.md`` and ``exact_optimum.png`` into a folder."""
    parts = [_INTRODUCTION, _overview(rows)]
    cases: dict[Case, list[Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), []).append(row)
    shown = _region_case(cases)
    if shown is not None:
        _draw(cases[shown], shown, folder / "exact_optimum.png")
        parts.append(
            f"## Where it admits\n\n![Admission region](exact_optimum.png)\n\n{_title(shown)}: the "
            "class of the lower bid, where it alone waits. Left: share of the instants at which "
            "the optimum admits it; right: trunk reservation. Shades between 0 and 1 are states "
            "in which it matters who occupies the slots, not only how many are free.\n"
        )
    parts += [_case_part(case, own) for case, own in cases.items()]
    (folder / "exact_optimum.md").write_text("\n".join(parts), encoding="utf-8")


def _case(row: Row) -> Case:
    return row["instance"], row["n_gpus"], row["pricing"]


def _title(case: Case) -> str:
    instance, n_gpus, pricing = case
    return f"{instance}, {n_gpus} GPU{'s' if n_gpus > 1 else ''}, {pricing}"


def _table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _ends(row: Row) -> str:
    return f"{row['lower']:.2f} to {row['upper']:.2f}"


def _middle(row: Row) -> float:
    return float(row["lower"] + row["upper"]) / 2


def _named(rows: list[Row], kind: str, name: str = "") -> Row:
    return next(r for r in rows if r["kind"] == kind and name in {"", r["name"]})


def _overview(rows: list[Row]) -> str:
    cases: dict[Case, list[Row]] = {}
    for row in rows:
        cases.setdefault(_case(row), []).append(row)
    body = []
    for case, own in cases.items():
        system, best = _named(own, "system"), _named(own, "policy", OPTIMUM)
        exact = [r for r in own if r["kind"] == "policy" and r["method"] == EXACT]
        rules = [r for r in exact if r["name"].startswith(TRUNK)]
        plain, first = rules[0], _named(exact, "policy", f"{TRUNK}, admits first")
        cells = [f"{100 * _middle(r) / _middle(best):.2f}" for r in (plain, first)]
        greatest = 100 * max(map(_middle, rules)) / _middle(best)
        share = f"{100 * _middle(best) / system['upper']:.1f}"
        row_text = [_title(case), f"{system['upper']:.2f}", _ends(best), share, *cells]
        body.append([*row_text, f"{greatest:.2f}"])
    header = ["system", "R\\*", "optimum", "optimum in % of R\\*", f"{TRUNK}, % of optimum"]
    header += ["admits first, % of optimum", "with the best reserve tried, %"]
    return "## In short\n\n" + _table(header, body)


def _case_part(case: Case, rows: list[Row]) -> str:
    system, best = _named(rows, "system"), _named(rows, "policy", OPTIMUM)
    policies = [r for r in rows if r["kind"] == "policy"]
    exact = [r for r in policies if r["method"] == EXACT]
    simulated = sorted((r for r in policies if r["method"] == SIMULATED), key=lambda r: -_middle(r))
    body = [
        [r["name"], r["method"], _ends(r), f"{100 * _middle(r) / _middle(best):.2f}"]
        for r in (*exact, *simulated)
    ]
    shares = {r["name"]: r for r in rows if r["kind"] == "shares"}
    differ = shares["decisions that differ"]["share"]
    holds = shares["time in which the optimum holds back"]["share"]
    gap = shares["gap"]["lower"]
    differences = [
        [
            *r["name"].split(" | "),
            f"{r['per_second']:.4f}",
            f"{r['lower']:.3f}",
            f"{r['share']:.0%}",
        ]
        for r in rows
        if r["kind"] == "difference"
    ]
    text = f"## {_title(case)}\n\nR\\* = {system['upper']:.4f}; {system['name']}"
    if system["lower"] < system["upper"]:
        text += f"; no policy with any buffer of prefilled requests exceeds {system['lower']:.4f}"
    text += ".\n\n" + _table(["policy", "method", "revenue", "% of optimum"], body)
    text += (
        f"\n{TRUNK} and the optimum over the same actions (random GPU): the optimum is "
        f"{gap:.3f} higher; {differ:.1%} of the rule's decisions differ; {holds:.1%} of the "
        "optimum's time is spent waiting where the rule would act.\n\n"
    )
    header = ["optimum", TRUNK, "per second", "revenue lost", "share"]
    return text + _table(header, differences)


def _region_case(cases: dict[Case, list[Row]]) -> Case | None:
    """The largest system with four slots a GPU at load 1.5."""
    fitting = [
        case
        for case, own in cases.items()
        if own[0]["slots"] == 4 and own[0]["load"] == 1.5 and own[0]["gamma"] is None
    ]
    return max(fitting, key=lambda case: (case[1], case[2] == "bundled"), default=None)


def _draw(rows: list[Row], case: Case, path: Path) -> None:
    """Two maps of busy slots and queue, coloured by the share of admissions."""
    import numpy as np
    from matplotlib.figure import Figure

    points = [r for r in rows if r["kind"] == "region"]
    most_busy = max(r["busy_slots"] for r in points)
    most_waiting = max(r["waiting"] for r in points)
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2, sharey=True), (OPTIMUM, TRUNK), strict=True):
        shares = np.full((most_waiting, most_busy + 1), np.nan)
        for r in points:
            if r["name"] == name:
                shares[r["waiting"] - 1, r["busy_slots"]] = r["share"]
        extent = (-0.5, most_busy + 0.5, 0.5, most_waiting + 0.5)
        image = axis.imshow(
            shares, origin="lower", aspect="auto", extent=extent, vmin=0, vmax=1, cmap="viridis"
        )
        axis.set(title=name, xlabel="slots in use")
    figure.axes[0].set_ylabel("waiting requests of the class")
    figure.colorbar(image, ax=figure.axes, label="share admitted")
    figure.suptitle(_title(case))
    figure.savefig(path, dpi=150)
