"""Write docs/disaggregation.md from the measured rows (``make disaggregation`` measures first)."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_sched_env.files.atomic import save_figure, write_whole
from research.pages.result_rows import read_results, write_results
from research.setups.disaggregation_runs import (
    COLOCATED,
    DEADLINES,
    HORIZON,
    LINKS,
    LOAD,
    N_GPUS,
    POLICIES,
    PREFILL_GPUS,
    RESULTS,
    RUNS,
    SEED,
    WARMUP,
    WORKLOADS,
    measure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[2] / "docs"
Rows = list[dict[str, str]]


def main(cache: str | None = None) -> None:
    """Write page and figure; with a folder for finished evaluations, measure first."""
    if cache is not None:
        write_results(measure(Path(cache)), RESULTS)
    rows = read_results(RESULTS)
    assert DEADLINES.ttft_seconds is not None
    assert DEADLINES.tpot_seconds is not None
    template = (Path(__file__).parent / "disaggregation_page.md").read_text(encoding="utf-8")
    page = template.format(
        n_gpus=N_GPUS,
        load=LOAD,
        ttft=DEADLINES.ttft_seconds,
        tpot=1e3 * DEADLINES.tpot_seconds,
        first=PREFILL_GPUS[0],
        last=PREFILL_GPUS[-1],
        policies=", ".join(f"`{policy}`" for policy in POLICIES),
        horizon=f"{HORIZON:g}",
        warmup=f"{WARMUP:g}",
        runs=RUNS,
        seed=SEED,
        findings="\n".join(_finding(rows, workload) for workload in WORKLOADS),
        tables=_splits_table(rows),
        rules=_rules_table(rows),
    )
    write_whole(DOCS / "disaggregation.md", page)
    draw(rows, DOCS / "disaggregation.png")


def _of(rows: Rows, workload: str, link: str | None = None, split: str | None = None) -> Rows:
    return [
        row
        for row in rows
        if row["workload"] == workload
        and (link is None or row["link"] == link)
        and (row["prefill_gpus"] == split if split else row["prefill_gpus"] != COLOCATED)
    ]


def _revenue(row: dict[str, str]) -> float:
    return float(row["score"]) * float(row["bound"])


def _goodput(row: dict[str, str]) -> float:
    return float(row["goodput_share"]) * float(row["bound"])


def _bound(row: dict[str, str]) -> float:
    return float(row["bound"])


def _colocated_bound(rows: Rows, workload: str) -> float:
    return _bound(_of(rows, workload, split=COLOCATED)[0])


def _finding(rows: Rows, workload: str) -> str:
    """What the best split gains or loses against the colocated cluster."""
    scale = _colocated_bound(rows, workload)
    together = max(_goodput(row) for row in _of(rows, workload, split=COLOCATED)) / scale
    parts = []
    for link in LINKS:
        best = max(_of(rows, workload, link), key=_goodput)
        share = int(best["prefill_gpus"]) / N_GPUS
        parts.append(f"{_goodput(best) / scale:.3f} over {link} ({share:.0%} prefill GPUs)")
    bound = max(_bound(row) for row in _of(rows, workload)) / scale
    text = (
        f"- **{workload}**: a split can earn at most {bound:.3f} of what colocated GPUs can. "
        f"Goodput is {together:.3f} colocated, {' and '.join(parts)}."
    )
    return textwrap.fill(text, 118, subsequent_indent="  ", break_on_hyphens=False)


def _splits_table(rows: Rows) -> str:
    header = ("workload", "link", "by R*", "R*", "by revenue", "revenue", "by goodput", "goodput")
    lines = [f"| {' | '.join(header)} |", "|---|---|" + "---:|" * 6]
    for workload in WORKLOADS:
        scale = _colocated_bound(rows, workload)
        for link in LINKS:
            own = _of(rows, workload, link)
            lines.append(_line(workload, link, own, scale))
        own = _of(rows, workload, split=COLOCATED)
        lines.append(_line(workload, COLOCATED, own, scale))
    return "\n".join(lines)


def _line(workload: str, link: str, own: Rows, scale: float) -> str:
    by_bound, by_revenue, by_goodput = (
        max(own, key=value) for value in (_bound, _revenue, _goodput)
    )
    error = (float(by_revenue["score_high"]) - float(by_revenue["score"])) * _bound(by_revenue)
    cells = [workload, link]
    for row, text in (
        (by_bound, f"{_bound(by_bound) / scale:.3f}"),
        (by_revenue, f"{_revenue(by_revenue) / scale:.3f}±{error / scale:.3f}"),
        (by_goodput, f"{_goodput(by_goodput) / scale:.3f}"),
    ):
        cells += ["" if row["prefill_gpus"] == COLOCATED else row["prefill_gpus"], text]
    return f"| {' | '.join(cells)} |"


def _rules_table(rows: Rows) -> str:
    lines = [f"| workload | link | {' | '.join(f'`{p}`' for p in POLICIES)} |"]
    lines.append("|---|---|" + "---:|" * len(POLICIES))
    for workload in WORKLOADS:
        for link in (*LINKS, COLOCATED):
            if link == COLOCATED:
                own = _of(rows, workload, split=COLOCATED)
            else:
                best = max(_of(rows, workload, link), key=_bound)["prefill_gpus"]
                own = _of(rows, workload, link, best)
            scores = {row["policy"]: row for row in own}
            cells = [_with_interval(scores[policy]) for policy in POLICIES]
            lines.append(f"| {' | '.join([workload, link, *cells])} |")
    return "\n".join(lines)


def _with_interval(row: dict[str, str]) -> str:
    mean, high = float(row["score"]), float(row["score_high"])
    return f"{mean:.3f}±{high - mean:.3f}"


def draw(rows: Rows, path: Path) -> None:
    """A panel for each workload."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.9), layout="constrained")
    panels = figure.subplots(1, len(WORKLOADS), sharey=True)
    for panel, workload in zip(panels, WORKLOADS, strict=True):
        _draw_panel(panel, rows, workload)
    panels[0].set_ylabel("share of the colocated R*")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path, dpi=110, metadata={"Software": None})


def _draw_panel(panel: Axes, rows: Rows, workload: str) -> None:
    scale = _colocated_bound(rows, workload)
    shares = [100 * n / N_GPUS for n in PREFILL_GPUS]
    # Blue and vermilion of Okabe and Ito; told apart by line style, too.
    for link, colour, style in zip(LINKS, ("#0072B2", "#D55E00"), ("-", "--"), strict=True):
        cells = [_of(rows, workload, link, str(n)) for n in PREFILL_GPUS]
        kinds: tuple[tuple[Callable[[dict[str, str]], float], dict[str, Any], str], ...] = (
            (_bound, {"linestyle": style, "linewidth": 1.2}, "R*"),
            (_revenue, {"linestyle": "", "marker": "o", "markersize": 4}, "best revenue"),
            (_goodput, {"linestyle": "", "marker": "x", "markersize": 5}, "best goodput"),
        )
        for value, how, name in kinds:
            heights = [max(map(value, cell)) / scale for cell in cells]
            panel.plot(shares, heights, color=colour, label=f"{name}, {link}", **how)
    together = _of(rows, workload, split=COLOCATED)
    for value, style, name in ((_revenue, "-", "revenue"), (_goodput, ":", "goodput")):
        level = max(map(value, together)) / scale
        panel.axhline(level, color="0.35", linestyle=style, label=f"colocated, best {name}")
    panel.set_title(workload)
    panel.set_xlabel("prefill GPUs, %")
    panel.set_ylim(0.0, 1.05)
    panel.grid(alpha=0.25)


if __name__ == "__main__":
    main(*sys.argv[1:])
