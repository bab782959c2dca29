"""Write docs/reuse.md from the measured rows (``make reuse`` measures them first)."""

from __future__ import annotations

import statistics
import sys
import textwrap
from pathlib import Path

from llm_sched_env.files.atomic import write_whole
from llm_sched_env.model.block_lists import BLOCK_TOKENS
from llm_sched_env.model.drawn_conversations import SAMPLED_CONVERSATIONS
from llm_sched_env.planning.reuse_bound import PARTS
from research.pages.result_rows import read_results, write_results
from research.setups.reuse_runs import (
    ALONE_SIZE,
    BUSY,
    CACHES,
    HARDWARE,
    RESULTS,
    SEEDS,
    SIZES,
    STALE_SIZE,
    measure,
)

DOCS = Path(__file__).parents[2] / "docs"
OURS, THEIRS = "reuse-bid", "weighted"
Rows = list[dict[str, str]]


def main(*words: str) -> None:
    """Write the page; with ``--measure`` run everything first."""
    if "--measure" in words:
        write_results(measure(), RESULTS)
    rows = read_results(RESULTS)
    facts = next(row for row in rows if row["part"] == "trace")
    template = (Path(__file__).parent / "reuse_page.md").read_text(encoding="utf-8")
    small, large = CACHES
    page = template.format(
        block=BLOCK_TOKENS,
        sample=SAMPLED_CONVERSATIONS,
        parts=PARTS,
        requests=int(facts["requests"]),
        prompt=float(facts["prompt_tokens"]),
        blocks=float(facts["request_blocks"]),
        infinite=float(facts["cached"]),
        talks=int(facts["conversations"]),
        hardware=HARDWARE,
        small=small,
        large=large,
        seeds=SEEDS,
        alone=ALONE_SIZE,
        busy=BUSY,
        stale_size=STALE_SIZE,
        finding=_finding(rows),
        piling=_piling(rows),
        alone_table=_alone_table(rows),
        recorded_small=_by(rows, "recorded", "n_gpus", str(small)),
        recorded_large=_by(rows, "recorded", "n_gpus", str(large)),
        busy_table=_by(rows, "busy", "n_gpus", str(small)),
        load_table=_by(rows, "load", "speed", str(small)),
        stale_table=_by(rows, "stale", "refresh", str(small)),
        losses=_losses(rows),
    )
    write_whole(DOCS / "reuse.md", page)


def _table(header: list[str], lines: list[list[str]]) -> str:
    text = [f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*text, *(f"| {' | '.join(line)} |" for line in lines)])


def _part(rows: Rows, part: str, blocks: str) -> Rows:
    return [row for row in rows if (row["part"], row["blocks"]) == (part, blocks)]


def _alone_table(rows: Rows) -> str:
    own = [row for row in rows if row["part"] == "alone"]
    sizes = list(dict.fromkeys(row["blocks"] for row in own))
    header = ["policy", *(f"{what}, {b} blocks" for b in sizes for what in ("TTFT", "cached"))]
    lines = []
    for name in dict.fromkeys(row["policy"] for row in own):
        cells = [f"`{name}`"]
        for blocks in sizes:
            row = next(r for r in own if (r["policy"], r["blocks"]) == (name, blocks))
            cells += [_ttft(row), f"{float(row['cached_blocks']):.3f}"]
        lines.append(cells)
    return _table(header, lines)


def _ttft(row: dict[str, str]) -> str:
    return f"{float(row['ttft']):.3f}±{float(row['ttft_half']):.3f}"


def _by(rows: Rows, part: str, column: str, blocks: str) -> str:
    """A line a policy, mean TTFT and cached share for each value of a column."""
    own = _part(rows, part, blocks)
    values = list(dict.fromkeys(row[column] for row in own))
    words = {"n_gpus": "n = {}", "speed": "{} x", "refresh": "{} s"}[column]
    shown = [words.format(value.removesuffix(".0")) for value in values]
    header = ["policy", *(f"TTFT, {v}" for v in shown), *(f"cached, {v}" for v in shown)]
    lines = []
    for name in dict.fromkeys(row["policy"] for row in own):
        cells = [
            next(r for r in own if (r["policy"], r[column]) == (name, value)) for value in values
        ]
        shares = [f"{100 * float(row['cached']):.1f}" for row in cells]
        lines.append([f"`{name}`", *map(_ttft, cells), *shares])
    return _table(header, lines)


def _pairs(rows: Rows) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Ours beside llm-d's default, wherever both ran on the same."""
    keys = ("part", "n_gpus", "blocks", "speed", "refresh")
    theirs = {tuple(row[k] for k in keys): row for row in rows if row["policy"] == THEIRS}
    ours = [row for row in rows if row["policy"] == OURS]
    return [(row, theirs[tuple(row[k] for k in keys)]) for row in ours]


def _finding(rows: Rows) -> str:
    """What the tables say, in words."""
    gains = [1.0 - float(own["ttft"]) / float(other["ttft"]) for own, other in _pairs(rows)]
    size = str(SIZES[0])
    busy = {r["policy"]: r for r in _part(rows, "busy", str(CACHES[0])) if r["n_gpus"] == size}
    best = min(busy.values(), key=lambda row: float(row["ttft"]))
    most = max(busy.values(), key=lambda row: float(row["cached"]))
    seconds = [float(r["seconds"]) for r in rows if r["n_gpus"] == "64" and r["seconds"]]
    better = sum(gain > 0 for gain in gains)
    text = (
        f"`{OURS}` has a shorter mean TTFT than llm-d's default weights in {better} of "
        f"{len(gains)} comparisons at equal staleness, by {min(gains):.0%} to {max(gains):.0%}. "
        f"Busy and at {size} GPUs the shortest is that of `{best['policy']}`, "
        f"{float(best['ttft']):.3f} s, where `random` has {float(busy['random']['ttft']):.3f} s, "
        f"`join-shortest-queue` {float(busy['join-shortest-queue']['ttft']):.3f} s and `{THEIRS}` "
        f"{float(busy[THEIRS]['ttft']):.3f} s. The most tokens are cached by `{most['policy']}`, "
        f"{float(most['cached']):.1%}: sending a request where most of it is cached is not what "
        "makes it start early. A run of the whole trace on 64 GPUs takes "
        f"{statistics.median(seconds):.2f} s after loading (median)."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _piling(rows: Rows) -> str:
    """Why the default weights do worse with more GPUs."""
    own = {row["policy"]: row for row in rows if row["part"] == "spread"}
    size, unused = own[THEIRS]["n_gpus"], {name: float(row["unused"]) for name, row in own.items()}
    text = (
        f"With more GPUs `{THEIRS}` gets worse: busy and at {size} GPUs it never uses "
        f"{unused[THEIRS]:.0f} of them, `earliest-finish` {unused['earliest-finish']:.0f}, "
        f"`{OURS}` {unused[OURS]:.0f}. All prompts begin with the same block, so a GPU that has "
        "served nobody matches a block less than the others, which the scorer of matches "
        "stretches to the whole of its scale; it is not chosen, and goes on without that "
        "block. The price of what has to "
        f"go is what brings `{OURS}` to such GPUs."
    )
    return textwrap.fill(text, 118, break_on_hyphens=False)


def _losses(rows: Rows) -> str:
    """Where another policy has the shorter TTFT, or more cached tokens."""
    lines = ["Differences of means above both half intervals together:", ""]
    for part, column, words in (
        ("recorded", "n_gpus", "as recorded on {} GPUs with {} blocks"),
        ("busy", "n_gpus", "busy on {} GPUs with {} blocks"),
        ("load", "speed", "at speed {} with {} blocks"),
        ("stale", "refresh", "with signals of {} s and {} blocks"),
    ):
        cases = dict.fromkeys((r[column], r["blocks"]) for r in rows if r["part"] == part)
        for value, blocks in cases:
            own = [r for r in _part(rows, part, blocks) if r[column] == value]
            ours = next(r for r in own if r["policy"] == OURS)
            other = min((r for r in own if r is not ours), key=lambda r: float(r["ttft"]))
            ahead = float(ours["ttft"]) / float(other["ttft"]) - 1.0
            if float(ours["ttft"]) - float(other["ttft"]) > sum(
                float(row["ttft_half"]) for row in (ours, other)
            ):
                where = words.format(value.removesuffix(".0"), blocks)
                lines.append(f"- TTFT {where}: `{other['policy']}` is {ahead:.1%} shorter.")
    pairs = [(o, t) for o, t in _pairs(rows) if float(o["cached"]) < float(t["cached"])]
    least = min(float(o["cached"]) - float(t["cached"]) for o, t in pairs) if pairs else 0.0
    lines.append(
        f"- Cached tokens: `{THEIRS}` finds more of them in {len(pairs)} of {len(_pairs(rows))} "
        f"comparisons, by {-100 * least:.1f} points at most: it goes for the match even where the "
        "queue is longer than what it saves."
    )
    return "\n".join(textwrap.fill(line, 118, subsequent_indent="  ") for line in lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
