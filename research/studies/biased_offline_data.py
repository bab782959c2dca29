"""Ellipsoidal-MINUCB and its family on biased offline data: regret, and which certificates hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.bandits import (
    Bandit,
    Certificate,
    DiscountedUCB,
    EllipsoidalMinUCB,
    EmpiricalBayes,
    LearnedCertificate,
    LinUCB,
    PooledUCB,
    StagedUCB,
    min_ucb,
)
from llm_sched_env.evaluation.results import Estimate
from research.framework.claims import DIFFERS, Claim, Criterion, Findings
from research.framework.estimates import jackknifed, share_of
from research.framework.row_selection import column
from research.framework.study import Cell, Row, Study, seeds
from research.setups.biased_bandits import DIMENSION, N_ACTIONS, NOISE, POOR, WELL, BiasedBandit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS, OFFLINE_PAIRS, RUNS = 3000, 2000, 20
CASES = ((POOR, 0.0), (POOR, 0.5), (POOR, 1.0), (WELL, 0.5), (WELL, 1.0))
MARKS = (10, 30, 100, 300, 1000, 3000)
ONLINE, POOLED, EUCLIDEAN, KNOWN = "LinUCB", "pooled", "MIN-UCB", "Ellipsoidal, known"
LEARNED, CAPPED, BAYES = (
    "Ellipsoidal, learned",
    "Ellipsoidal, learned with a cap",
    "Ellipsoidal, empirical Bayes (no guarantee)",
)
DISCOUNTED, STAGED, STAGED_ONLINE = "discounted", "staged, known", "staged (SupLinUCB)"
POLICIES = (
    ONLINE,
    POOLED,
    EUCLIDEAN,
    KNOWN,
    DISCOUNTED,
    LEARNED,
    CAPPED,
    BAYES,
    STAGED_ONLINE,
    STAGED,
)
# Set before the full runs: the most that a guard may cost; the part of a gain that is "much less".
COST_LIMIT, MUCH_LESS = 2.0, 0.5
PROMISED = 0.95
"""Probability with which all three confidence sets hold."""
_DRAWN = (ONLINE, POOLED, EUCLIDEAN, KNOWN, DISCOUNTED, BAYES)


class BiasedOfflineData(Study):
    """Every policy on the same instances: bias in a poorly or a well covered direction."""

    name = "biased-offline-data"
    title = "Biased offline data"
    source = "arXiv 2604.24016, abstracts; this project"
    names_its_policies = True  # no registered one plays

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell a case and seed; all policies in it."""
        rounds, runs = (300, 3) if quick else (ROUNDS, RUNS)
        return [
            {"direction": direction, "bias": bias, "seed": run, "rounds": rounds}
            | {"offline_pairs": OFFLINE_PAIRS}
            for direction, bias in CASES
            for run in seeds(seed, runs)
        ]

    def compute(self, cell: Cell) -> list[Row]:
        """A row a policy and number of rounds."""
        bandit = BiasedBandit(cell["bias"], cell["direction"], cell["offline_pairs"], cell["seed"])
        shared = {key: cell[key] for key in ("direction", "bias", "seed")}
        rows = []
        for name in POLICIES:
            watch = _Watch(policy_of(name, bandit, cell["rounds"]), bandit)
            regret = bandit.regret(watch.policy, cell["rounds"], watch.look)
            rows += [
                shared
                | {"policy": name, "rounds": mark, "regret": float(regret[mark - 1])}
                | {"held": watch.held.get(mark), "width_ratio": watch.width_ratio.get(mark)}
                for mark in MARKS
                if mark <= cell["rounds"]
            ]
        return rows

    def findings(self, rows: list[Row]) -> Findings:
        """The four claims."""
        return Findings(
            [
                *(_cost_claim(rows, *case) for case in CASES),
                *(_gain_claim(rows, bias) for bias in (0.0, 0.5, 1.0)),
                _middle_claim(rows),
                *(_euclidean_claim(rows, bias) for bias in (0.5, 1.0)),
                *_learned_claims(rows),
            ],
            table=_table(rows),
        )

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """Regret by round, a panel a case."""
        figure.set_size_inches(13.0, 3.6)
        axes = figure.subplots(1, len(CASES), sharey=True)
        for axis, (direction, bias) in zip(axes, CASES, strict=True):
            for name in _DRAWN:
                marks = _marks(rows)
                means = [_regrets(rows, direction, bias, name, mark).mean() for mark in marks]
                axis.plot(marks, means, label=name, marker=".")
            axis.set(xscale="log", yscale="log", xlabel="round")
            axis.set_title(_case_name(direction, bias), fontsize=9)
        axes[0].set_ylabel("regret")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)

    def settings(self, rows: list[Row]) -> str:
        """The instance."""
        runs = len({row["seed"] for row in rows})
        return (
            f"d = {DIMENSION}, K = {N_ACTIONS} Gaussian actions of length about 1 a round, "
            f"T = {_marks(rows)[-1]}, N = {OFFLINE_PAIRS} offline pairs, sigma = {NOISE:g}, "
            f"{runs} seeds; the parameter has length 1, lambda = 1."
        )


class _Watch:
    """Looks at certificates and widths at some rounds."""

    def __init__(self, policy: Bandit, bandit: BiasedBandit) -> None:
        self.policy = policy
        self._difference = bandit.difference
        self.held: dict[int, float] = {}
        self.width_ratio: dict[int, float] = {}

    def look(self, mark: int, actions: np.ndarray) -> None:
        """Whether the certificate holds, and the least pooled width over the online one."""
        if mark in MARKS and isinstance(self.policy, EllipsoidalMinUCB):
            self.held[mark] = float(self.policy.certificate.holds_for(self._difference))
            ratios = self.policy.pooled_widths(actions) / self.policy.widths(actions)
            self.width_ratio[mark] = float(ratios.min())


def policy_of(name: str, bandit: BiasedBandit, rounds: int) -> Bandit:
    """A policy at its start; certificates are those of the instance."""
    offline, assumed = bandit.offline, bandit.assumptions
    unit = bandit.biased_direction
    # No difference but along the biased direction, and there at most the bias.
    known = Certificate.of_inverse(np.outer(unit, unit), bandit.bias)
    cap = max(bandit.bias, 1e-6)
    staged = (DIMENSION, rounds, N_ACTIONS)
    policies: dict[str, Bandit] = {
        ONLINE: LinUCB(DIMENSION, assumed),
        POOLED: PooledUCB(offline, assumed),
        EUCLIDEAN: min_ucb(offline, bandit.bias, assumed),
        KNOWN: EllipsoidalMinUCB(offline, known, assumed),
        DISCOUNTED: DiscountedUCB(offline, known, assumed),
        LEARNED: EllipsoidalMinUCB(offline, LearnedCertificate(offline, assumed), assumed),
        CAPPED: EllipsoidalMinUCB(offline, LearnedCertificate(offline, assumed, cap), assumed),
        BAYES: EllipsoidalMinUCB(offline, EmpiricalBayes(offline, assumed), assumed),
        STAGED_ONLINE: StagedUCB(*staged, assumptions=assumed),
        STAGED: StagedUCB(*staged, offline, known, assumed),
    }
    return policies[name]


def _marks(rows: list[Row]) -> list[int]:
    return sorted({row["rounds"] for row in rows})


def _regrets(
    rows: list[Row], direction: str, bias: float, policy: str, mark: int | None = None
) -> np.ndarray:
    """Regret of each seed up to a round; default the last."""
    mark = _marks(rows)[-1] if mark is None else mark
    chosen = {"direction": direction, "bias": bias, "policy": policy, "rounds": mark}
    return column(rows, "regret", **chosen)


def _ratio(above: np.ndarray, below: np.ndarray) -> Estimate:
    """Ratio of the means of paired samples."""
    return jackknifed(lambda means: float(means[0] / means[1]), np.stack([above, below], axis=1))


def _case_name(direction: str, bias: float) -> str:
    return "no bias" if bias == 0 else f"bias {bias:g}, {direction}"


def _cost_claim(rows: list[Row], direction: str, bias: float) -> Claim:
    known, online = (_regrets(rows, direction, bias, name) for name in (KNOWN, ONLINE))
    return Claim(
        "The regret is never worse than the online branch's by more than a constant factor",
        "abstract",
        f"regret over LinUCB's, {_case_name(direction, bias)}",
        _ratio(known, online),
        Criterion(high=COST_LIMIT),
        {
            DIFFERS: "the guarantee is on the bound of the regret: widths of LinUCB are nearly "
            "the same for all actions and cancel, those of the pooled branch are not"
        },
        ".2f",
    )


def _gain_claim(rows: list[Row], bias: float) -> Claim:
    known, online = (_regrets(rows, POOR, bias, name) for name in (KNOWN, ONLINE))
    return Claim(
        "The regret is less where the offline data cover directions of small bias",
        "abstract",
        f"regret over LinUCB's, {_case_name(POOR, bias)}",
        _ratio(known, online),
        Criterion(high=1.0),
        shown=".2f",
    )


def _middle_claim(rows: list[Row]) -> Claim:
    """What is gained between rounds 30 and 1000."""
    marks = _marks(rows)
    first, last = 30, min(1000, marks[-1])

    def gain(mark: int) -> np.ndarray:
        online, known = (_regrets(rows, POOR, 0.5, name, mark) for name in (ONLINE, KNOWN))
        gained: np.ndarray = online - known
        return gained

    return Claim(
        "Most of the gain is made at middle horizons",
        "abstract",
        f"share of the gain made between rounds {first} and {last}, {_case_name(POOR, 0.5)}",
        _ratio(gain(last) - gain(first), gain(marks[-1])),
        Criterion(low=0.5),
        shown=".2f",
    )


def _euclidean_claim(rows: list[Row], bias: float) -> Claim:
    online, euclidean, known = (
        _regrets(rows, POOR, bias, name) for name in (ONLINE, EUCLIDEAN, KNOWN)
    )
    return Claim(
        "A Euclidean bound of the same size gains much less when one direction is badly biased",
        "abstract",
        f"its gain over that of the ellipsoid, {_case_name(POOR, bias)}",
        _ratio(online - euclidean, online - known),
        Criterion(high=MUCH_LESS),
        shown=".2f",
    )


def _learned_claims(rows: list[Row]) -> list[Claim]:
    """Validity and use of the certificates that are learned."""
    width = Estimate(*_least(column(rows, "width_ratio", policy=LEARNED)))
    held = {name: _held(rows, name) for name in (LEARNED, BAYES)}
    bayes, online = (_regrets(rows, POOR, 0.0, name) for name in (BAYES, ONLINE))
    return [
        Claim(
            "The pooled width of the learned certificate is never below the online one",
            "this project, proved",
            "least pooled width over the online one, all cases, marked rounds and actions",
            width,
            Criterion(low=1.0),
        ),
        Claim(
            "The learned certificate holds with the probability that it promises",
            "this project, proved",
            "share of runs in which it holds at all marked rounds",
            held[LEARNED],
            Criterion(low=PROMISED),
            shown=".3f",
        ),
        Claim(
            "Empirical Bayes has no guarantee",
            "this project",
            "share of runs in which it holds at all marked rounds",
            held[BAYES],
            Criterion(high=PROMISED),
            shown=".3f",
        ),
        Claim(
            "Empirical Bayes gains without bias",
            "this project",
            f"regret over LinUCB's, {_case_name(POOR, 0.0)}",
            _ratio(bayes, online),
            Criterion(high=1.0),
            shown=".2f",
        ),
    ]


def _least(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    least = float(values.min())
    return least, (least, least)


def _held(rows: list[Row], policy: str) -> Estimate:
    """Share of runs, with bias, in which a certificate holds at every marked round."""
    runs: dict[tuple[str, float, int], bool] = {}
    for row in rows:
        if row["policy"] == policy and row["bias"] > 0:
            key = (row["direction"], row["bias"], row["seed"])
            runs[key] = runs.get(key, True) and row["held"] == 1.0
    return share_of(sum(runs.values()), len(runs))


def _table(rows: list[Row]) -> list[dict[str, str]]:
    """Regret of each policy in each case, with half of its 95% interval."""
    found = []
    for name in POLICIES:
        line = {"policy": name}
        for direction, bias in CASES:
            estimate = Estimate.of(_regrets(rows, direction, bias, name))
            half = estimate.ci95[1] - estimate.mean
            line[_case_name(direction, bias)] = f"{estimate.mean:.1f} ± {half:.1f}"
        found.append(line)
    return found
