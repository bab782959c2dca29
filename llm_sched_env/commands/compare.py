"""``llmsched compare``: share of R* that each scheduler earns as the cluster grows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from llm_sched_env.commands.options import (
    BackendOption,
    FormerSloOption,
    InstancesOption,
    JsonOption,
    PricingOption,
    RayAddressOption,
    ReplicationsOption,
    RevenueOption,
    SeedOption,
    SloOption,
    TraceOption,
    WorkersOption,
    agent_files,
    given_command,
    integers,
    messages,
    names,
    objectives,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
    trace_paths,
    will_be_kept,
)
from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number, one_of
from llm_sched_env.evaluation.comparison import (
    DEFAULT_HORIZON,
    ComparedWorkload,
    Competitor,
    check_runs,
    compare,
    count_runs,
    markdown_table,
    rows,
    runs_behind,
    settings_notes,
    write_csv,
)
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.files.atomic import write_whole
from llm_sched_env.model.deadlines import REVENUES
from llm_sched_env.planning import PRICINGS
from llm_sched_env.policies.registry import registered_policies, resolve_agent, resolve_policy
from llm_sched_env.presets import resolve_instance
from llm_sched_env.workloads.traces import load_traces

DEFAULT_POLICIES = "gate-and-route,fcfs-immediate,token-bucket,trunk-reservation"
# On this many GPUs the Azure traces at their own speed load the cluster a little beyond capacity.
TRACE_REFERENCE_GPUS = 2
TRACE_INSTANCE = "azure2023"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "compare",
        epilog="Example: llmsched compare --instance base,overload --gpus 5,20 --out results",
    )
    def compare_command(
        out: Annotated[Path, typer.Option(help="Folder for results.csv, figure and report.")],
        instance: InstancesOption = "base,overload",
        gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")] = "5,20,50,200",
        policies: Annotated[
            str, typer.Option(help="Names or package.module:Name, comma-separated.")
        ] = DEFAULT_POLICIES,
        agents: Annotated[
            str | None,
            typer.Option(
                help="Checkpoints, comma-separated: PATH, INSTANCE=PATH, INSTANCE:N=PATH."
            ),
        ] = None,
        trace: TraceOption = None,
        trace_gpus: Annotated[
            str, typer.Option(help="Cluster sizes of the replay, its speed in proportion.")
        ] = "2,5,20",
        pricing: PricingOption = "bundled",
        revenue: RevenueOption = "all",
        slo: SloOption = None,
        sli: FormerSloOption = None,
        horizon: Annotated[
            float | None,
            typer.Option(help="Simulated seconds, warm-up included (1200, or whole periods)."),
        ] = None,
        warmup: Annotated[float | None, typer.Option(help="Seconds not measured (300).")] = None,
        replications: ReplicationsOption = 8,
        seed: SeedOption = 0,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare policies and agents; writes results.csv, table.md, figure.png, report.html.

        An interrupted run resumes: finished parts are cached in cells/.
        """
        executor = Executor(jobs, backend, ray_address)
        require_extra("report", "matplotlib", "jinja2")
        from llm_sched_env.evaluation.report import write_figure
        from llm_sched_env.reports.comparison_page import write_comparison

        _check_runs(pricing, revenue, horizon, warmup, replications, seed)
        workloads = _workloads(instance, gpus, trace_paths(trace), trace_gpus)
        competitors, notes = _competitors(policies, agents, {str(s.instance) for s in workloads})
        check_runs(workloads, competitors)
        executor.connect()
        folder = output_folder(out)
        will_be_kept("finished evaluations", folder / "cells")
        settings: dict[str, Any] = {
            "pricing": pricing,
            "revenue": revenue,
            "slos": objectives(slo, sli),
            "horizon": horizon,
            "warmup": warmup,
            "seed": seed,
        }
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=messages) as progress:
            task = progress.add_task("", total=count_runs(workloads, competitors))
            results = compare(
                workloads,
                competitors,
                **settings,
                replications=replications,
                executor=executor,
                cache=folder / "cells",
                on_result=lambda text: progress.update(task, advance=1, description=text),
            )
        notes += [f"{r.instance}: {r.note}" for _, r in results if r.note]
        notes += settings_notes(results)
        write_csv(results, folder / "results.csv")
        table = markdown_table(results)
        text = table + "\n\n" + "\n".join(f"{note}  " for note in notes) + "\n"
        write_whole(folder / "table.md", text)
        write_figure(rows(results), folder / "figure.png")
        runs = runs_behind(workloads, competitors, results, **settings)
        write_comparison(results, runs, notes, given_command(), folder / "report.html")
        if as_json:
            print_json({"results": rows(results), "notes": notes})
        else:
            _print(table, notes)
        print_note(f"wrote results.csv, table.md, figure.png, report.html to {folder}")


def _check_runs(
    pricing: str,
    revenue: str,
    horizon: float | None,
    warmup: float | None,
    replications: int,
    seed: int,
) -> None:
    """What every evaluation will ask, asked before the folder is made."""
    horizon = DEFAULT_HORIZON if horizon is None else horizon
    warmup = 0.0 if warmup is None else warmup
    if pricing not in PRICINGS:
        raise ConfigurationError("--pricing", pricing, one_of(PRICINGS))
    if revenue not in REVENUES:
        raise ConfigurationError("--revenue", revenue, one_of(REVENUES))
    if not is_finite_number(horizon, positive=True):
        raise ConfigurationError("--horizon", horizon, "a finite number of seconds > 0")
    if not is_finite_number(warmup) or warmup >= horizon:
        raise ConfigurationError(
            "--warmup", warmup, f"seconds >= 0 and less than the horizon of {horizon:g}"
        )
    checked_integer("--replications", replications)
    checked_integer("--seed", seed, 0)


def _workloads(
    instances: str, gpus: str, trace: list[Path], trace_gpus: str
) -> list[ComparedWorkload]:
    sizes = integers("--gpus", gpus)
    wanted = names("--instance", instances)
    for name in wanted:
        resolve_instance(name)
    workloads = [ComparedWorkload(name, n) for name in wanted for n in sizes]
    if trace:
        recorded = load_traces(trace)
        workloads += [
            ComparedWorkload(TRACE_INSTANCE, n, recorded, TRACE_REFERENCE_GPUS)
            for n in integers("--trace-gpus", trace_gpus)
        ]
    return workloads


def _competitors(
    policies: str, agents: str | None, instances: set[str]
) -> tuple[list[Competitor], list[str]]:
    """Columns of the table, and a note on what each is: a rule, or an agent trained so long."""
    competitors = []
    notes = []
    registered = registered_policies()
    for name in names("--policies", policies):
        label, policy = resolve_policy(name)
        competitors.append(Competitor(label, policy))
        if label in registered:
            notes.append(f"{label}: {registered[label].description}.")
    for path, only, size in agent_files(agents, instances):
        label, agent = resolve_agent(path, only)
        competitors.append(Competitor(label, agent, only, size))
        if how := getattr(agent, "description", ""):
            where = f" on {only}" if only else ""
            where += f" at n = {size}" if size else ""
            notes.append(f"{label}{where}: {how}.")
    return competitors, notes


def _print(table: str, notes: list[str]) -> None:
    """The table on the terminal."""
    header, _, *body = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    print_table(header, body, title="Revenue in % of R*")
    print_lines(*notes)
