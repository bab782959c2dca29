"""Write docs/deadlines.md from the measured rows (``make deadlines`` measures them first)."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from llm_sched_env.planning import plan
from llm_sched_env.presets import resolve_instance
from research.pages.result_rows import read_results, write_results
from research.setups.deadline_runs import (
    HORIZON,
    INSTANCE,
    OTHERS,
    RESULTS,
    RUNS,
    SEED,
    SERVING,
    SIZES,
    WARMUP,
    class_names,
    measure,
)

DOCS = Path(__file__).parents[2] / "docs"
SHOWN_SIZE = 20
"""GPUs at which the page says who is good."""
_REASONS = {
    "good": "good",
    "late_first_token": "late first token",
    "slow_tokens": "slow tokens",
    "late_and_slow": "both",
    "abandoned": "abandoned",
    "rejected": "dropped",
}
_SHOWN = ("slo-reserve", "earliest-deadline-first", "fcfs-immediate", "trunk-reservation")

Rows = list[dict[str, str]]


def main(cache: str | None = None) -> None:
    """Write the page; with a folder for finished evaluations, measure first."""
    if cache is not None:
        write_results(measure(Path(cache)), RESULTS)
    rows = read_results(RESULTS)
    template = (Path(__file__).parent / "deadlines_page.md").read_text(encoding="utf-8")
    page = template.format(
        largest=SIZES[-1],
        sections="\n\n".join(_section(rows, name) for name in (INSTANCE, *OTHERS)),
        size=SHOWN_SIZE,
        horizon=f"{HORIZON:g}",
        warmup=f"{WARMUP:g}",
        runs=RUNS,
        seed=SEED,
    )
    write_whole(DOCS / "deadlines.md", page)


def _section(rows: Rows, name: str) -> str:
    own = [row for row in rows if row["instance"] == name]
    about = (
        f"R* is {plan(resolve_instance(name)).value:.2f} per GPU and second. {_finding(own)}"
        if name != "deadlines-bursts"
        else f"The same classes in bursts: each of them at four times its quiet rate for 30 s now "
        f"and then; the means, and so R*, are those of `deadlines`. {_finding(own)}"
    )
    parts = [f"### {name}", textwrap.fill(about, 118, break_on_hyphens=False)]
    if name != "deadlines-bursts":
        parts.append(_classes(name))
    parts.append(_goodput(own))
    parts.append(f"Shares of the decided requests at n = {SHOWN_SIZE}:")
    parts.append(_attainment(own, name))
    return "\n\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _classes(name: str) -> str:
    header = ["class", "prompt", "output", "arrivals", "patience", "first token", "a token"]
    return _table(
        header,
        [
            [
                c.name,
                f"{c.prompt_tokens:g} tokens",
                f"{c.output_tokens:g} tokens",
                f"{c.arrival_rate:g} /s",
                f"{1 / c.patience_rate:g} s",
                *(_seconds(limit) for limit in resolve_instance(name).deadlines[:, i]),
            ]
            for i, c in enumerate(resolve_instance(name).classes)
        ],
    )


def _seconds(limit: float) -> str:
    return "-" if limit == float("inf") else f"{limit:g} s"


def _policies(rows: Rows) -> list[str]:
    """By what they earn at the largest size, the best first."""
    own = [row for row in rows if row["class"] == "all" and row["n_gpus"] == str(SIZES[-1])]
    return [row["policy"] for row in sorted(own, key=lambda row: -float(row["goodput"]))]


def _row(rows: Rows, policy: str, n_gpus: int, name: str) -> dict[str, str]:
    wanted = (policy, str(n_gpus), name)
    return next(row for row in rows if (row["policy"], row["n_gpus"], row["class"]) == wanted)


def _finding(rows: Rows) -> str:
    """What the tables say, in words."""
    own = {policy: _row(rows, policy, SHOWN_SIZE, "all") for policy in _policies(rows)}
    share = {policy: f"{float(row['goodput']):.1%}" for policy, row in own.items()}
    paid = float(own["trunk-reservation"]["all_revenue"])
    best = _best(rows)
    other = _best([row for row in rows if row["policy"] in SERVING])
    return (
        f"At n = {SHOWN_SIZE} `trunk-reservation` would earn {paid:.1%} of R* if every completed "
        f"request were paid, but its good ones bring {share['trunk-reservation']}. "
        f"`slo-reserve`, which is the same but drops who would be late, has "
        f"{share['slo-reserve']}; the most, {share[best]}, is of `{best}`, and of what serving "
        f"systems do the best is `{other}` with {share[other]}."
    )


def _best(rows: Rows) -> str:
    """The policy of the greatest goodput at the size shown."""
    policies = _policies(rows)
    return max(policies, key=lambda p: float(_row(rows, p, SHOWN_SIZE, "all")["goodput"]))


def _goodput(rows: Rows) -> str:
    header = ["policy", *(f"goodput, n = {n}" for n in SIZES), f"all revenue, n = {SIZES[-1]}"]
    lines = []
    for policy in _policies(rows):
        own = [_row(rows, policy, n, "all") for n in SIZES]
        every = f"{100 * float(own[-1]['all_revenue']):.1f}"
        lines.append([f"`{policy}`", *map(_with_interval, own), every])
    return _table(header, lines)


def _with_interval(row: dict[str, str]) -> str:
    mean, high = float(row["goodput"]), float(row["goodput_high"])
    return f"{100 * mean:.1f}±{100 * (high - mean):.1f}"


def _attainment(rows: Rows, instance: str) -> str:
    header = ["policy", "class", *_REASONS.values()]
    lines = []
    for policy in dict.fromkeys((*_SHOWN, _best(rows))):
        for name in class_names(instance):
            row = _row(rows, policy, SHOWN_SIZE, name)
            lines.append([f"`{policy}`", name, *(f"{float(row[part]):.1%}" for part in _REASONS)])
    return _table(header, lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
