"""Study: every rule under the KV-aware law, against the bound and the two-speed analogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.policies.registry import registered_policies
from research.framework.claims import DIFFERS, UNDECIDED, Claim, Criterion, Findings
from research.framework.row_selection import selected
from research.framework.study import Cell, Row, Study, seeds
from research.setups.kv_aware_instances import KV_AWARE, LAWS, TWO_SPEED, pairs
from research.setups.simulated_runs import simulate, simulated_cell, simulation_cost

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (5, 20, 200)
HORIZON, WARMUP, RUNS = 300.0, 60.0, 4
# The target: at this size the best rule earns so much of R* where the analogue's best does.
TARGET_SIZE, TARGET = 20, 0.97


class KvAwareRules(Study):
    """Shares of R* on six instances at three sizes, under both laws."""

    name = "kv-aware-rules"
    title = "Rules under the KV-aware law"
    source = "This project"

    def cells(self, *, quick: bool, seed: int) -> list[Cell]:
        """One cell an instance, law, size and policy."""
        instances = pairs()
        names = ("base", "h100-overload") if quick else tuple(instances)
        return [
            {"pair": name, "law": law}
            | simulated_cell(
                policy,
                instances[name][law].to_dict(),
                n_gpus,
                seeds(seed, 1)[0],
                horizon=180.0 if quick else HORIZON,
                warmup=60.0 if quick else WARMUP,
                replications=2 if quick else RUNS,
            )
            for name in names
            for law in LAWS
            for n_gpus in ((5,) if quick else SIZES)
            for policy in _policies(n_gpus)
        ]

    def cost(self, cell: Cell) -> float:
        """Simulated GPU-seconds."""
        return simulation_cost(cell)

    def compute(self, cell: Cell) -> list[Row]:
        """A row a replication."""
        arguments = {key: value for key, value in cell.items() if key not in {"pair", "law"}}
        result = simulate(arguments)
        shared = {key: cell[key] for key in ("pair", "law", "n_gpus", "policy")}
        return [
            shared | {"run": k, "bound": result.bound, "share": share}
            for k, share in enumerate(result.scores)
        ]

    def findings(self, rows: list[Row]) -> Findings:
        """The best rule of each instance against the target."""
        claims = []
        for pair in dict.fromkeys(row["pair"] for row in rows):
            best, shares = _best(rows, pair, KV_AWARE, TARGET_SIZE)
            analogue = _best(rows, pair, TWO_SPEED, TARGET_SIZE)[1]
            if shares is None or analogue is None or analogue.mean() < TARGET:
                continue
            claims.append(
                Claim(
                    f"the best rule reaches {TARGET} of R* at {TARGET_SIZE} GPUs",
                    "this project",
                    f"share of R* of {best}, {pair}",
                    Estimate.of(shares),
                    Criterion(low=TARGET),
                    dict.fromkeys((DIFFERS, UNDECIDED), _SHORT),
                    ".4f",
                )
            )
        return Findings(claims, _table(rows), [_NOTE])

    def draw(self, rows: list[Row], figure: Figure) -> None:
        """The best rule's share against n, a panel an instance, a line a law."""
        names = list(dict.fromkeys(row["pair"] for row in rows))
        figure.set_size_inches(12.0, 3.2 * -(-len(names) // 3))
        panels = np.ravel(figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False))
        for axis, pair in zip(panels, names, strict=False):
            for law in LAWS:
                sizes = sorted({row["n_gpus"] for row in selected(rows, pair=pair, law=law)})
                best = [_best(rows, pair, law, n)[1] for n in sizes]
                axis.plot(sizes, [s.mean() for s in best if s is not None], marker="o", label=law)
            axis.axhline(1.0, color="black", linewidth=0.8)
            axis.set(title=pair, xscale="log", xlabel="GPUs n", ylabel="share of R*, best rule")
            axis.set_xticks(sizes, [str(n) for n in sizes])
            axis.minorticks_off()
        for axis in panels[len(names) :]:
            axis.set_axis_off()
        panels[0].legend(fontsize="small")

    def settings(self, rows: list[Row]) -> str:
        """Instances, sizes, replications."""
        runs = 1 + max(row["run"] for row in rows)
        return (
            "`base`, `overload` and `dolly15k` with the KV-aware law that has their two iteration "
            "times at a full batch, and an H100 with a Llama-3-8B at half, full and six tenths of "
            "6 chats (300 + 500 tokens) and 18 summaries (900 + 120) a second and GPU, the last "
            "with gamma lengths (coefficient of variation 1.5). All start requests at iteration "
            f"boundaries. {runs} runs of {HORIZON:g} s, warm-up {WARMUP:g} s (quick: less), the "
            "same requests for all policies. Bundled."
        )


_SHORT = "the interval reaches across; as much is missing at 200 GPUs: see the last remark"
_NOTE = (
    "What is missing at 200 GPUs, 1 to 3% of R*, is no matter of size: R* chooses where context is "
    "read apart from where tokens are made, and so has the cheaper iterations read more of it than "
    "any cluster can; and a request that is sent to a busy GPU holds its slot until the next "
    "iteration begins. Below that size slots are also empty by chance, as under two speeds."
)


def _policies(n_gpus: int) -> list[str]:
    """All that run everywhere; replanning every second costs minutes on large clusters."""
    slow = ("fluid-mpc", "fluid-mpc-estimated")
    return [name for name in registered_policies() if n_gpus <= TARGET_SIZE or name not in slow]


def _best(rows: list[Row], pair: str, law: str, n_gpus: int) -> tuple[str, np.ndarray | None]:
    """The policy of the greatest mean share, and its shares by run."""
    own = selected(rows, pair=pair, law=law, n_gpus=n_gpus)
    shares = {
        policy: np.array([row["share"] for row in selected(own, policy=policy)])
        for policy in dict.fromkeys(row["policy"] for row in own)
    }
    if not shares:
        return "", None
    best = max(shares, key=lambda policy: shares[policy].mean())
    return best, shares[best]


def _table(rows: list[Row]) -> list[Row]:
    """A line an instance, law and size: the rules that matter and the best of all."""
    table: list[Row] = []
    cases = dict.fromkeys((row["pair"], row["law"], row["n_gpus"]) for row in rows)
    for pair, law, n_gpus in cases:
        own = selected(rows, pair=pair, law=law, n_gpus=n_gpus)
        best, shares = _best(rows, pair, law, n_gpus)
        assert shares is not None
        line: Row = {"instance": pair, "law": law, "n": n_gpus, "R*": round(own[0]["bound"], 2)}
        for policy in ("gate-and-route", "token-bucket", "trunk-reservation", "fcfs-immediate"):
            values = [row["share"] for row in selected(own, policy=policy)]
            line[policy] = round(float(np.mean(values)), 4) if values else None
        table.append(line | {"best": best, "its share": round(float(shares.mean()), 4)})
    return table
