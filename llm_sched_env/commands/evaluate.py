"""``llmsched evaluate``: one policy, or several, on one instance."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from llm_sched_env.commands.options import (
    BillingOption,
    FormerSloOption,
    JobsOption,
    JsonOption,
    PricingOption,
    RayAddressOption,
    ReplicationsOption,
    RevenueOption,
    SeedOption,
    SloOption,
    TraceOption,
    given_command,
    objectives,
    output_folder,
    print_lines,
    print_note,
    print_table,
    require_extra,
    trace_paths,
)
from llm_sched_env.commands.several_policies import (
    PoliciesOption,
    PolicyOption,
    chosen_policies,
    print_results,
    run_all,
    share_text,
)
from llm_sched_env.commands.static_priority import (
    PriorityOption,
    ReserveOption,
    ordered_policy,
    with_order,
)
from llm_sched_env.commands.trace_options import KeepInstanceOption, TraceReading, reads_traces
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.comparison import write_csv
from llm_sched_env.evaluation.deadline_attainment import REASONS
from llm_sched_env.evaluation.evaluate import evaluate as run
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.preparation import PreparedRun, prepared_run
from llm_sched_env.evaluation.results import Evaluation
from llm_sched_env.files.atomic import require_writable, write_whole
from llm_sched_env.workloads.generated import requests_of_run

_ENDS = (("least", min), ("most", max))


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched evaluate --instance overload --policy token-bucket --gpus 20; "
        "llmsched evaluate --policies token-bucket,trunk-reservation"
    )
    @reads_traces
    def evaluate(
        reading: TraceReading,
        policy: PolicyOption = None,
        policies: PoliciesOption = None,
        priority: PriorityOption = None,
        reserve: ReserveOption = None,
        instance: Annotated[
            str | None,
            typer.Option(help="Preset name or instance file; default base, or the trace's own."),
        ] = None,
        gpus: Annotated[int, typer.Option(help="Cluster size n.")] = 20,
        pricing: PricingOption = "bundled",
        revenue: RevenueOption = "all",
        slo: SloOption = None,
        sli: FormerSloOption = None,
        horizon: Annotated[
            float | None,
            typer.Option(help="Simulated seconds, warm-up included (900, whole periods or trace)."),
        ] = None,
        warmup: Annotated[
            float | None, typer.Option(help="Seconds not measured (300, or 0 with a trace).")
        ] = None,
        replications: ReplicationsOption = 4,
        seed: SeedOption = 0,
        trace: TraceOption = None,
        keep_instance: KeepInstanceOption = False,
        billing: BillingOption = None,
        save_requests: Annotated[
            Path | None,
            typer.Option(
                help="Write what arrives in the first replication as a trace (.csv[.gz])."
            ),
        ] = None,
        jobs: JobsOption = None,
        backend: Annotated[
            str | None,
            typer.Option(help="joblib or ray: replications in processes, also of Python policies."),
        ] = None,
        ray_address: RayAddressOption = None,
        out: Annotated[
            Path | None, typer.Option(help="Folder for report.html, results.csv and results.json.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Run a policy: its share of R*, occupancies, latencies, abandonment."""
        if save_requests is not None and trace:
            raise ConfigurationError(
                "`--save-requests` cannot be combined with `--trace`; "
                "`llmsched trace` saves the requests of a trace."
            )
        wanted = chosen_policies(policy, policies, None)
        if save_requests is not None:
            require_writable(save_requests)
        if out is not None:
            require_extra("report", "matplotlib", "jinja2")
            output_folder(out)
        spread = backend is not None or ray_address is not None
        served: dict[str, Any] = {
            "instance": instance,
            "n_gpus": gpus,
            "pricing": pricing,
            "revenue": revenue,
            "slos": objectives(slo, sli),
            "seed": seed,
            "trace": reading.load_if_given(trace_paths(trace)),
            "match_trace": not keep_instance,
            "billing": billing,
        }
        evaluate_one = partial(
            run,
            **served,
            replications=replications,
            jobs=jobs,
            executor=Executor(jobs, backend or "joblib", ray_address) if spread else None,
        )
        results = run_all(
            wanted, with_order(evaluate_one, priority, reserve), horizon=horizon, warmup=warmup
        )
        if save_requests is not None:
            requests_of_run(instance or "base", gpus, results[0].horizon, seed).save(save_requests)
        print_results(results, print_evaluation, as_table=policies is not None, as_json=as_json)
        if results[0].note:
            print_note(f"note: {results[0].note}")
        if out is not None:
            policies_run = [ordered_policy(name, priority, reserve) for name in wanted]
            _write(results, policies_run, served, out)


def _write(
    results: list[Evaluation], policies: list[Any], served: dict[str, Any], out: Path
) -> None:
    """report.html, results.csv and results.json."""
    from llm_sched_env.reports.comparison_page import write_comparison

    labelled = [(result.policy, result) for result in results]
    by_label = dict(zip([label for label, _ in labelled], policies, strict=True))
    times: dict[str, Any] = {"horizon": results[0].horizon, "warmup": results[0].warmup}

    def prepare(label: str, *_: Any) -> PreparedRun:
        return prepared_run(by_label[label], **served, **times)

    write_csv(labelled, out / "results.csv")
    plain = {"results": [result.to_dict() for result in results]}
    write_whole(out / "results.json", json.dumps(plain, indent=2, allow_nan=False) + "\n")
    notes = [result.note for result in results[:1] if result.note]
    write_comparison(labelled, prepare, notes, given_command(), out / "report.html")
    print_note(f"wrote report.html, results.csv, results.json to {out}")


def print_evaluation(result: Evaluation) -> None:
    """The result as a table by class."""
    low, high = result.score.ci95
    interval = f" [{low:.4f}, {high:.4f}]" if math.isfinite(low) else ""
    print_lines(
        f"{result.policy} on {result.instance}, {result.n_gpus} GPUs: score "
        f"{result.score.mean:.4f}{interval} of R* = {result.bound:.4f} "
        f"({result.paid_for}), {result.replications} x {result.horizon:g} s, "
        f"warm-up {result.warmup:g} s, seed {result.seed}"
    )
    print_lines(result.coverage)
    print_table(
        (
            "class",
            "arrived",
            "done",
            "abandoned",
            "inside",
            "TTFT p50, s",
            "TTFT p99, s",
            "TPOT p99, s",
        ),
        [
            (
                c.name,
                *map(str, (c.arrived, c.completed, c.abandoned_prefill + c.abandoned_decode)),
                str(c.inside),
                *(f"{v:.3f}" for v in (c.ttft.p50, c.ttft.p99, c.tpot.p99)),
            )
            for c in result.classes
        ],
    )
    if result.deadlines is not None:
        _print_deadlines(result)
    if result.caches is not None:
        _print_caches(result)
    if result.slos:
        _print_service_levels(result)
    print_lines(
        f"{result.events:,} events in {result.simulation_seconds:.3f} s of simulation "
        f"({result.events_per_second:,.0f} per second), {result.wall_seconds:.2f} s in all"
    )
    if result.decision_milliseconds:
        cost = result.decision_milliseconds
        print_lines(f"a decision takes {cost.median:.2f} ms (median), {cost.p99:.2f} ms (p99)")


def _print_deadlines(result: Evaluation) -> None:
    """The share of the requests of each class that was good, and why the others were not."""
    columns = ("late first token", "slow tokens", "late and slow", "abandoned", "rejected")
    found = [(c.name, c.deadlines) for c in result.classes]
    print_table(
        ("class", "decided", "good", *columns),
        [
            (
                name,
                f"{of.decided:,}",
                *(share_text(of.share(part)) for part in ("good", *REASONS)),
            )
            for name, of in [*found, ("all", result.deadlines)]
            if of is not None
        ],
        title="deadlines, shares of the requests completed, abandoned or rejected",
    )


def _print_caches(result: Evaluation) -> None:
    """The share of prompt tokens that needed no prefill, by class and GPU, and evictions."""
    assert result.caches is not None
    found = [(c.name, c.cached_token_share) for c in result.classes]
    known = [share for share in result.caches.by_gpu if share is not None]
    shares = [*found, ("all", result.caches.cached_token_share)]
    shares += [(f"{word} of a GPU", pick(known)) for word, pick in _ENDS if known]
    print_table(
        ("prompt tokens cached", "share"),
        [(name, "-" if share is None else f"{share:.4f}") for name, share in shares],
    )
    print_lines(f"{result.caches.evictions:.4g} blocks evicted per GPU and second")


def _print_service_levels(result: Evaluation) -> None:
    """Each service level as measured, and what is left of the revenue."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.5g}"

    print_table(
        ("service level", "planned", "measured", "95% from", "to", "limit", "met", "penalty"),
        [
            (
                name,
                *map(number, (level.planned, level.measured.mean, *level.measured.ci95)),
                number(level.limit),
                {True: "yes", False: "no", None: "-"}[level.met],
                number(level.penalty.mean),
            )
            for name, level in result.slos.items()
        ],
    )
    print_lines(
        f"revenue {result.revenue_rate.mean:.4f} less penalties: {result.objective.mean:.4f} per "
        "GPU and second"
    )
