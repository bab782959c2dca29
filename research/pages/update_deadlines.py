"""Write docs/deadlines.md from the measured rows (``make deadlines`` measures them first)."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from llm_sched_env.planning import plan
from llm_sched_env.presets import resolve_instance
from research.setups.deadline_runs import (
    HORIZON,
    INSTANCE,
    RUNS,
    SEED,
    SIZES,
    WARMUP,
    class_names,
    measure,
    read_results,
    write_results,
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
}
_FIRST = ("earliest-deadline-first", "fcfs-immediate", "trunk-reservation")

Rows = list[dict[str, str]]


def main(cache: str | None = None) -> None:
    """Write the page; with a folder for finished evaluations, measure first."""
    if cache is not None:
        write_results(measure(Path(cache)))
    rows = read_results()
    template = (Path(__file__).parent / "deadlines_page.md").read_text(encoding="utf-8")
    page = template.format(
        instance=INSTANCE,
        largest=SIZES[-1],
        classes=_classes(),
        finding=_finding(rows),
        bound=f"{plan(resolve_instance(INSTANCE)).value:.2f}",
        goodput=_goodput(rows),
        attainment=_attainment(rows),
        size=SHOWN_SIZE,
        horizon=f"{HORIZON:g}",
        warmup=f"{WARMUP:g}",
        runs=RUNS,
        seed=SEED,
    )
    write_whole(DOCS / "deadlines.md", page)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _classes() -> str:
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
                *(_seconds(limit) for limit in resolve_instance(INSTANCE).deadlines[:, i]),
            ]
            for i, c in enumerate(resolve_instance(INSTANCE).classes)
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
    goodput = {policy: f"{float(row['goodput']):.0%}" for policy, row in own.items()}
    best = _best(rows)
    chat, summaries = (_row(rows, _FIRST[0], SHOWN_SIZE, name) for name in class_names())
    every = float(own["trunk-reservation"]["all_revenue"])
    in_time, left = float(chat["good"]), float(summaries["abandoned"])
    text = (
        f"More arrives than can be served, so somebody must wait too long or leave. At n = "
        f"{SHOWN_SIZE} `trunk-reservation` would earn {every:.0%} of R* if every completed request "
        f"were paid, but good requests bring {goodput['trunk-reservation']}: it serves all "
        "summaries, as the plan does, and lets chats wait. `fcfs-immediate` has "
        f"{goodput['fcfs-immediate']}. `earliest-deadline-first` has {goodput[_FIRST[0]]}: "
        f"{in_time:.0%} of its chats are in time, and {left:.0%} of the summaries abandon. The "
        f"most at this size, {goodput[best]}, is of `{best}`."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


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


def _attainment(rows: Rows) -> str:
    header = ["policy", "class", *_REASONS.values()]
    lines = []
    for policy in dict.fromkeys((*_FIRST, _best(rows))):
        for name in class_names():
            row = _row(rows, policy, SHOWN_SIZE, name)
            lines.append([f"`{policy}`", name, *(f"{float(row[part]):.1%}" for part in _REASONS)])
    return _table(header, lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
