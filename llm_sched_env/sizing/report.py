"""Sizes in a sentence, a table and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_sched_env.files.atomic import save_figure
from llm_sched_env.sizing.judged import GpuKind, Judged, best_of
from llm_sched_env.sizing.size import KindSize, MaxRate, Sizing

COLUMNS = (
    "gpu",
    "n_gpus",
    "policy",
    "rate",
    "verdict",
    "share",
    "share_low",
    "share_high",
    "good",
    "ttft_p50",
    "ttft_p99",
    "tpot_p50",
    "tpot_p99",
    "falls_behind",
    "good_rate",
    "cost_per_hour",
    "cost_per_million_tokens",
)
# Okabe and Ito: told apart by everybody.
_STYLES = ("o-", "s--", "^:", "D-.")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def answer(found: Sizing) -> str:
    """The answer in a sentence."""
    what = f"{found.rate:.3g} requests/s of {found.workload!r} with {found.asked}"
    cheapest = found.cheapest
    if cheapest is None or cheapest.best is None:
        none = "no number of GPUs is enough" if not _any_possible(found) else "no size was found"
        return f"For {what} {none}."
    best = cheapest.best
    money = _money(cheapest.kind, best)
    return (
        f"For {what}, take {best.n_gpus} {cheapest.kind.name} under {best.policy} ({money}): "
        f"{percent(best.judged.mean)} in time, at least {percent(best.judged.low)} with "
        f"{found.requirement.confidence:.0%} confidence."
    )


def _any_possible(found: Sizing) -> bool:
    return any(kind.possible for kind in found.kinds)


def kind_lines(found: Sizing) -> list[str]:
    """A sentence on each kind: the bound, and what the fewest GPUs turn on."""
    return [_kind_line(kind, found) for kind in found.kinds]


def _kind_line(size: KindSize, found: Sizing) -> str:
    name, bound, best = size.kind.name, size.bound, size.best
    if not size.possible:
        text = (
            f"{name}: no number of GPUs can: {bound.reason}; {percent(bound.possible_share)} of "
            f"them could be in time, and as many as asked for have their first token in "
            f"{bound.least_ttft:.3g} s at the earliest."
        )
        if best is not None:
            level = size.requirement.text_of_level()
            text += (
                f" {best.n_gpus} GPUs under {best.policy} give {level} in place of what was asked."
            )
        return text
    text = f"{name}: fewer than {bound.n_gpus:.0f} are ruled out ({bound.reason})"
    if bound.n_gpus == 1:
        text = f"{name}: one GPU is not ruled out"
    if best is None:
        return f"{text}; no size that was tried meets it."
    measured = size.as_measured
    if measured is not None and measured.n_gpus < best.n_gpus:
        text += (
            f"; {measured.n_gpus} met it on these very requests ({percent(measured.judged.mean)} "
            f"under {measured.policy}), without {found.requirement.confidence:.0%} confidence"
        )
    return f"{text}; {best.n_gpus} meet it under {best.policy}."


def rate_answer(found: MaxRate) -> str:
    """The highest rate in a sentence."""
    cluster = f"{found.n_gpus} {found.kind.name}"
    bound = f"no scheduler sustains more than {found.bound:.4g}"
    if found.best is None:
        return f"{cluster} meet {found.asked} at no rate that was tried; {bound} requests/s."
    best = found.best
    return (
        f"{cluster} sustain {best.rate:.4g} requests/s with {found.asked} under {best.policy} "
        f"({_money(found.kind, best)}); {found.missed:.4g} is too much, {bound}."
    )


def table(rows: Sequence[Judged], *, by_rate: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows, the best policy of each size, or of each rate."""
    header = ["req/s" if by_rate else "GPUs", "policy", "verdict", "in time", "at least"]
    header += ["TTFT p99", "TPOT p99", "per 1M tokens"]
    body = [
        [
            f"{row.rate:.4g}" if by_rate else str(row.n_gpus),
            row.policy,
            row.verdict,
            percent(row.judged.mean),
            percent(row.judged.low),
            _latency(row.ttft[-1], 1.0, "s"),
            _latency(row.tpot[-1], 1e3, "ms"),
            f"{row.cost_per_million_tokens:.3g}",
        ]
        for row in best_rows(rows)
    ]
    return header, body


def best_rows(rows: Sequence[Judged]) -> list[Judged]:
    """The best policy of each kind, size and rate."""
    groups: dict[tuple[str, int, float], list[Judged]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.n_gpus, row.rate), []).append(row)
    return [best_of(group) for group in groups.values()]


def csv_rows(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """All rows with the columns of the file."""
    return [
        {
            "gpu": row.kind,
            "n_gpus": row.n_gpus,
            "policy": row.policy,
            "rate": row.rate,
            "verdict": row.verdict,
            "share": row.judged.mean,
            "share_low": row.judged.low,
            "share_high": row.judged.high,
            "good": row.good.mean,
            "ttft_p50": row.ttft[0],
            "ttft_p99": row.ttft[-1],
            "tpot_p50": row.tpot[0],
            "tpot_p99": row.tpot[-1],
            "falls_behind": row.falls_behind,
            "good_rate": row.good_rate,
            "cost_per_hour": row.cost_per_hour,
            "cost_per_million_tokens": row.cost_per_million_tokens,
        }
        for row in rows
    ]


def write_size_figure(found: Sizing, path: Path) -> None:
    """Share in time and cost over n, a line per kind under its best policy (needs matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    shares, costs = figure.subplots(1, 2)
    for k, (colour, size) in enumerate(zip(_colours(len(found.kinds)), found.kinds, strict=True)):
        style = _STYLES[k % len(_STYLES)]
        rows = best_rows(size.rows)
        if not rows:
            continue
        n = [row.n_gpus for row in rows]
        shares.plot(n, [row.judged.mean for row in rows], style, color=colour, label=size.kind.name)
        low, high = ([getattr(r.judged, end) for r in rows] for end in ("low", "high"))
        shares.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
        costs.plot(n, [row.cost_per_million_tokens for row in rows], style, color=colour)
        if size.best is not None:
            chosen = size.best
            costs.plot(
                chosen.n_gpus, chosen.cost_per_million_tokens, "o", color=colour, ms=11, mfc="none"
            )
        if size.possible:
            shares.axvline(size.bound.n_gpus, color=colour, linestyle=":", linewidth=1.2)
    required = found.requirement.share(found.rate)
    shares.axhline(required, color="0.4", linewidth=0.9)
    shares.set(xlabel="GPUs", ylabel="share in time", title=found.asked)
    unit = "GPU hours" if found.kinds[0].kind.price is None else "currency"
    costs.set(xlabel="GPUs", ylabel=f"{unit} per million good tokens", title="cost")
    ticks = sorted({row.n_gpus for size in found.kinds for row in size.rows})
    for axis in (shares, costs):
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(n) for n in ticks])
        axis.minorticks_off()
    figure.legend(loc="outside lower center", ncols=3)
    save_figure(figure, path, dpi=150)


def write_rate_figure(found: MaxRate, required: float, path: Path) -> None:
    """Share in time over the arrival rate, a line per policy (needs matplotlib)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    policies = list(dict.fromkeys(row.policy for row in found.rows))
    for colour, policy in zip(_colours(len(policies)), policies, strict=True):
        rows = [row for row in found.rows if row.policy == policy]
        rates = [row.rate for row in rows]
        axis.plot(rates, [row.judged.mean for row in rows], "o-", color=colour, label=policy)
        low, high = ([getattr(r.judged, end) for r in rows] for end in ("low", "high"))
        axis.fill_between(rates, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.axhline(required, color="0.4", linewidth=0.9)
    if math.isfinite(found.bound):
        axis.axvline(found.bound, color="0.4", linestyle=":", label="no scheduler sustains more")
    axis.set(xlabel="requests/s", ylabel="share in time", xscale="log")
    axis.set_title(f"{found.n_gpus} {found.kind.name}: {found.asked}")
    axis.legend()
    save_figure(figure, path, dpi=150)


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def _money(kind: GpuKind, row: Judged) -> str:
    per = f"{row.cost_per_million_tokens:.3g} per million good tokens"
    if kind.price is None:
        return f"{row.cost_per_million_tokens:.3g} GPU hours per million good tokens"
    return f"{row.cost_per_hour:.4g} an hour, {per}"


def percent(share: float) -> str:
    """A share in percent, cut and not rounded: 99.99% is not all."""
    return "-" if math.isnan(share) else f"{100.0 * math.floor(share * 1e4) / 1e4:.2f}%"


def _latency(seconds: float, factor: float, unit: str) -> str:
    return f"{seconds * factor:.3g} {unit}" if math.isfinite(seconds) else "never"
