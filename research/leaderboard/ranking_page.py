"""Write the leaderboard page: ranking, paired comparisons, and a table per instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llm_sched_env.evaluation.results import Estimate
from research.framework.paper_page import table_lines
from research.framework.study import Row
from research.leaderboard.differences import (
    BEST,
    FALSE_DISCOVERIES,
    REFERENCES,
    Difference,
    Differences,
    Tally,
    outcome,
)
from research.leaderboard.standings import (
    Place,
    Standings,
    instance_table,
    percent,
    ranking,
)

FULL, UNFIT = "<!-- leaderboard -->", "<!-- leaderboard, not for the documentation -->"
END = "<!-- end of leaderboard -->"
_CAPTION = (
    r"*What to see: which lines fall fastest to the right, that is whose gap to R\* closes as "
    "clusters grow.*"
)
_FIGURE = ("![gap to R* by size](leaderboard.png)", _CAPTION)
_TABLES = (
    "By size: score in % of R*, ± half a 95% interval; then, size by size, 99th percentiles and "
    "the share of requests that abandoned."
)
_DIFFERENCES = (
    "Differences of scores in percentage points of R*, paired over the same requests, ± half a 95% "
    "interval: above or below where it leaves out 0. The best rule is chosen in each case by the "
    "very scores with which it is compared: chance favours it. Gap closed: (score - "
    "token-bucket's) / (1 - token-bucket's) in %, where that gap stands out of the noise."
)


def ranking_text(standings: Standings, versions: Mapping[str, str]) -> str:
    """The ranking as a table, with what its numbers are."""
    numbers = ", ".join(f"{name} {number}" for name, number in versions.items())
    notes = (
        f"Mean score in % of R* over {len(standings.instances)} instances, ± half a 95% interval "
        "of the mean over them (their runs are the randomness, the instances are given); "
        "99th percentiles: the median over all cases; abandoned: mean share of requests. With "
        f"{numbers}."
    )
    return "\n".join([*table_lines(ranking(standings)), "", notes])


def page(
    standings: Standings,
    differences: Differences,
    challengers: Sequence[str],
    settings: str,
    versions: Mapping[str, str],
    command: str,
    *,
    publishable: bool,
) -> str:
    """The leaderboard between its marks; the same rows give the same text.

    Args:
        standings: the scores.
        differences: the comparisons.
        challengers: policies that are compared with the rules on the page.
        settings: what was computed, in sentences.
        versions: of what computed it.
        command: that computes it again.
        publishable: whether it is the full leaderboard of every registered policy.
    """
    lines = [FULL if publishable else UNFIT, "## Ranking", "", settings, ""]
    lines += [ranking_text(standings, versions), "", *_FIGURE, ""]
    lines += _challenges(standings, differences, challengers)
    for instance in standings.instances:
        lines += [f"## `{instance}`", "", *table_lines(instance_table(standings, instance)), ""]
    lines += [_TABLES, "", f"`{command}`; all rows: [CSV](results.csv).", END]
    return "\n".join(lines) + "\n"


def _challenges(
    standings: Standings, differences: Differences, challengers: Sequence[str]
) -> list[str]:
    """What trained and outside entrants add to the rules."""
    lines = ["## Against the rules", ""]
    if not challengers:
        return [*lines, "No trained policy, agent or entrant from outside competes.", ""]
    for policy in challengers:
        lines += [f"### `{policy}`", "", *_by_size(standings, differences, policy), ""]
    lines += [*_tallies(standings, differences, challengers), ""]
    for policy in challengers:
        lines += [f"### `{policy}`, case by case", ""]
        lines += [*_by_case(standings, differences, policy), ""]
    return [*lines, _DIFFERENCES, ""]


def _by_size(standings: Standings, differences: Differences, policy: str) -> list[str]:
    """Mean differences over the instances of each size, and over all."""
    groups: list[tuple[str, list[Place]]] = [
        (str(n_gpus), standings.at(n_gpus=n_gpus)) for n_gpus in standings.sizes
    ]
    rows: list[Row] = []
    for words, places in (*groups, ("all", standings.places)):
        here = [place for place in places if standings.row(place, policy)]
        if not here:
            continue
        means = {
            f"less {against}": _signed(differences.mean(here, policy, against))
            for against in REFERENCES
        }
        closed = differences.gap_closed(here, policy)
        share = "-" if closed is None else _gap(closed)
        rows.append({"n": words, "cases": str(len(here))} | means | {"gap closed, %": share})
    return table_lines(rows)


def _tallies(
    standings: Standings, differences: Differences, challengers: Sequence[str]
) -> list[str]:
    """How many comparisons came out how, and how many would by chance."""
    rows: list[Row] = []
    everything: list[Difference] = []
    for policy in challengers:
        for against in REFERENCES:
            found = differences.over(standings.places, policy, against)
            everything += found
            rows.append(_tally_row(policy, against, found))
    rows.append(_tally_row("all", "", everything))
    count = len(everything)
    honesty = (
        f"{count} comparisons: were all means equal, about {0.05 * count:.0f} of their 95% "
        "intervals would still leave out 0. The last two columns count those that remain when at "
        f"most {FALSE_DISCOVERIES:.0%} of them are expected to be false (Benjamini-Yekutieli over "
        "the comparisons of the line)."
    )
    return [*table_lines(rows), "", honesty]


def _tally_row(policy: str, against: str, found: Sequence[Difference]) -> Row:
    tally = Tally.of(found)
    return {
        "entrant": policy,
        "less": against,
        "cases": len(found),
        "above": tally.above,
        "within noise": tally.noise,
        "below": tally.below,
        "by chance": f"{tally.by_chance:.1f}",
        "above, controlled": tally.above_controlled,
        "below, controlled": tally.below_controlled,
    }


def _by_case(standings: Standings, differences: Differences, policy: str) -> list[str]:
    rows: list[Row] = []
    for place in standings.places:
        if standings.row(place, policy) is None:
            continue
        best = differences.at(place, policy, BEST)
        found = [differences.at(place, policy, against) for against in REFERENCES]
        closed = differences.gap_closed([place], policy)
        rows.append(
            {"instance": place[0], "n": place[1], "best rule": best.reference if best else "-"}
            | {
                f"less {against}": _signed(one.estimate if one else None)
                for against, one in zip(REFERENCES, found, strict=True)
            }
            | {"gap closed, %": "-" if closed is None else _gap(closed)}
        )
    return table_lines(rows)


def _signed(estimate: Estimate | None) -> str:
    """A difference in percentage points with its outcome."""
    if estimate is None:
        return "-"
    sign = "+" if estimate.mean >= 0 else ""
    return f"{sign}{percent(estimate)}, {outcome(estimate)}"


def _gap(estimate: Estimate) -> str:
    low, high = estimate.ci95
    return f"{100 * estimate.mean:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
