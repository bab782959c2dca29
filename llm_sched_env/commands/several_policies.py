"""``--policy`` and ``--policies``: run one policy, or compare several, on one workload."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import typer

from llm_sched_env.commands.options import names, print_json, print_lines, print_table
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.results import Estimate, Evaluation
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.policies.runs import runs_of

PolicyOption = Annotated[
    str | None,
    typer.Option("--policy", help="Name, package.module:Name, or a checkpoint (.zip)."),
]
PoliciesOption = Annotated[
    str | None,
    typer.Option("--policies", help="Several, comma-separated: one row per policy."),
]


class Run(Protocol):
    """Evaluates a policy on the workload of a command."""

    def __call__(self, policy: Any, *, horizon: float | None, warmup: float | None) -> Evaluation:
        """The result; times as in :func:`llm_sched_env.evaluate`."""


def chosen_policies(policy: str | None, policies: str | None, default: str | None) -> list[str]:
    """Names of what is run.

    Args:
        policy: of ``--policy``.
        policies: of ``--policies``.
        default: what is run when neither is given; None: one of them must be.

    Raises:
        ConfigurationError: for both, for neither without a default, for an empty name or one
            that is given twice.
    """
    if policies is None:
        if (single := policy or default) is None:
            raise ConfigurationError("Give `--policy`, or several policies with `--policies`.")
        return [single]
    if policy is not None:
        raise ConfigurationError(
            "`--policy` cannot be combined with `--policies`; add the policy to the list."
        )
    wanted = _policy_names(policies)
    for name in wanted:
        if wanted.count(name) > 1:
            raise ConfigurationError("--policies", policies, "each policy once")
    return wanted


def _policy_names(text: str) -> list[str]:
    """The list, in which options of a policy follow it: ``weighted:queue-depth=1,load-aware=2``."""
    wanted: list[str] = []
    for item in names("--policies", text):
        if "=" in item and ":" not in item and wanted:
            wanted[-1] += f",{item}"
        else:
            wanted.append(item)
    return wanted


def run_all(
    wanted: list[str], run: Run, *, horizon: float | None, warmup: float | None = None
) -> list[Evaluation]:
    """Evaluate policies on the same requests over the same time, in their order.

    Args:
        wanted: names.
        run: evaluates one.
        horizon: simulated seconds; None: the default of the workload, for all the one of the
            policy that acts at the longest interval.
        warmup: seconds that are not measured; None likewise.

    Raises:
        ConfigurationError: for two names of one policy; nothing has run then.
    """
    if len(wanted) == 1:
        return [run(wanted[0], horizon=horizon, warmup=warmup)]
    resolved = [resolve_policy(name) for name in wanted]
    labels = [label for label, _ in resolved]
    for name, label in zip(wanted, labels, strict=True):
        if labels.count(label) > 1:
            raise ConfigurationError(
                "--policies", name, "each policy once", f"two names stand for {label!r}"
            )
    intervals = [runs_of(policy).interval or 0.0 for _, policy in resolved]
    found: dict[int, Evaluation] = {}
    # Times are rounded to whole intervals: who acts at the longest sets them for the others.
    for k in sorted(range(len(wanted)), key=lambda k: -intervals[k]):
        found[k] = run(wanted[k], horizon=horizon, warmup=warmup)
        horizon, warmup = found[k].horizon, found[k].warmup
    return [found[k] for k in range(len(wanted))]


def print_results(
    results: list[Evaluation],
    print_one: Callable[[Evaluation], None],
    *,
    as_table: bool,
    as_json: bool,
) -> None:
    """One result as it is, or a row of each; as JSON one object, or a list under ``results``.

    Args:
        results: of policies on one workload.
        print_one: shows one result in full.
        as_table: whether they were asked for as a list.
        as_json: whether JSON is asked for.
    """
    if as_json:
        plain = [result.to_dict() for result in results]
        print_json({"results": plain} if as_table else plain[0])
    elif as_table:
        _print_table(results)
    else:
        print_one(results[0])


def _print_table(results: list[Evaluation]) -> None:
    first = results[0]
    columns = ["policy", "score", "revenue", *(["objective"] if first.slos else [])]
    columns += ["good"] if first.deadlines is not None else []
    print_table(
        (*columns, "TTFT p99", "TPOT p99", "abandoned"),
        [
            (
                result.policy,
                _with_interval(result.score),
                f"{result.revenue_rate.mean:.2f}",
                *([f"{result.objective.mean:.2f}"] if first.slos else []),
                *([share_text(of.attainment)] if (of := result.deadlines) is not None else []),
                *(_number(v) for v in (result.ttft.p99, result.tpot.p99)),
                share_text(result.abandoned["share"]),
            )
            for result in results
        ],
    )
    print_lines(
        f"{first.instance}, {first.n_gpus} GPUs: score in shares of R* = {first.bound:.4f} "
        f"({first.paid_for}), revenue per GPU and second, latencies in s; ± is half a 95% interval",
        f"{first.replications} x {first.horizon:g} s, warm-up {first.warmup:g} s, "
        f"seed {first.seed}",
        next((r for r in results if math.isfinite(r.score.ci95[0])), first).coverage,
    )


def _with_interval(estimate: Estimate) -> str:
    """A mean with half of its 95% interval, which one replication does not have."""
    half = estimate.ci95[1] - estimate.mean
    return f"{estimate.mean:.4f}" + (f"±{half:.4f}" if math.isfinite(half) else "")


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def share_text(value: float | None) -> str:
    """A share in percent, or a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.2%}"
