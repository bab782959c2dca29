"""``llmsched size``: the fewest GPUs for a workload, or the highest rate of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    SeedOption,
    given_command,
    names,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.commands.sized_workload import (
    DEFAULT_GPUS,
    ConfidenceOption,
    GoodputOption,
    GpuOption,
    GrowthOption,
    HorizonOption,
    KvTokensOption,
    PatienceOption,
    PercentileOption,
    SamplesOption,
    ShareOption,
    SizingJobsOption,
    TermsOption,
    TpotOption,
    TracesArgument,
    TtftOption,
    WarmupOption,
    case_runs,
    deadlines_of,
    gpu_kinds,
    rate_as_given,
    required,
    sized_workload,
)
from llm_sched_env.commands.trace_options import TraceReading, reads_traces
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.files.atomic import write_rows, write_whole
from llm_sched_env.sizing.extrapolation import extrapolation_notes
from llm_sched_env.sizing.judged import GpuKind, Judged
from llm_sched_env.sizing.report import (
    COLUMNS,
    answer,
    csv_rows,
    kind_lines,
    rate_answer,
    table,
    write_rate_figure,
    write_size_figure,
)
from llm_sched_env.sizing.size import POLICIES, MaxRate, Sizing, max_rate
from llm_sched_env.sizing.size import size as fewest
from llm_sched_env.sizing.workload import Workload


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched size AzureLLMInferenceTrace_conv.csv "
        "AzureLLMInferenceTrace_code.csv --gpu h100-llama3-8b=2.5 --ttft 2 --tpot 0.05; "
        "llmsched size --instance chat-deadlines --rate 40 --gpu h100-llama3-8b-b64 --share 0.95; "
        "llmsched size conversation_trace.jsonl --gpu h100-llama3-8b-b64 --gpus 8 --ttft 20 "
        "--max-rate"
    )
    @reads_traces
    def size(
        reading: TraceReading,
        traces: TracesArgument = None,
        instance: TermsOption = None,
        gpu: GpuOption = [DEFAULT_GPUS],  # noqa: B006 - Typer copies it
        policies: Annotated[
            str, typer.Option(help="Compiled rules, comma-separated; the best of them counts.")
        ] = ",".join(POLICIES),
        ttft: TtftOption = None,
        tpot: TpotOption = None,
        percentile: PercentileOption = None,
        share: ShareOption = None,
        goodput: GoodputOption = None,
        confidence: ConfidenceOption = 0.95,
        growth: GrowthOption = 1.0,
        patience: PatienceOption = None,
        kv_tokens: KvTokensOption = None,
        highest_rate: Annotated[
            bool,
            typer.Option(
                "--max-rate", help="Of --gpus GPUs of one kind, the highest rate instead."
            ),
        ] = False,
        gpus: Annotated[int | None, typer.Option(help="Cluster size of --max-rate.")] = None,
        most_gpus: Annotated[int, typer.Option(help="No more are tried.")] = 1024,
        horizon: HorizonOption = 900.0,
        warmup: WarmupOption = 300.0,
        replications: SamplesOption = 4,
        seed: SeedOption = 0,
        jobs: SizingJobsOption = 1,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        out: Annotated[
            Path | None,
            typer.Option(
                help="Folder for report.html, answer.md, rows.csv and figure.png; a run resumes "
                "there."
            ),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Say how many GPUs a workload needs to meet its deadlines, and what that costs.

        The bound comes first: a size below which no scheduler can. Then sizes are bracketed, on
        the same requests for all.
        """
        executor = Executor(jobs, backend, ray_address)
        kinds = gpu_kinds(gpu, kv_tokens)
        asked = required(percentile, share, goodput, confidence)
        workload = sized_workload(
            traces,
            instance,
            reading,
            deadlines_of(ttft, tpot),
            growth=growth,
            patience=patience,
            horizon=horizon,
            warmup=warmup,
            replications=replications,
            seed=seed,
            default_rate=rate_as_given(instance, gpus) if highest_rate else None,
        )
        if out is not None:
            require_extra("report", "matplotlib", "jinja2")
            output_folder(out)
        wanted = names("--policies", policies)
        _check_cluster(kinds, gpus, highest_rate=highest_rate)
        found: Sizing | MaxRate
        with case_runs(executor, out, "size") as runs:
            if highest_rate:
                found = max_rate(
                    workload, kinds[0], gpus or 1, asked, policies=wanted, seed=seed, runs=runs
                )
            else:
                found = fewest(
                    workload,
                    kinds,
                    asked,
                    policies=wanted,
                    most_gpus=most_gpus,
                    seed=seed,
                    runs=runs,
                )
        notes = _notes(kinds, workload)
        if out is not None:
            share = asked.share(workload.rate)
            _write(found, notes, share, out)
            _write_report(found, workload, notes, share, seed, out)
        if as_json:
            print_json({**found.to_dict(), "notes": notes})
        else:
            _print(found, notes)


def _check_cluster(kinds: list[GpuKind], gpus: int | None, *, highest_rate: bool) -> None:
    if highest_rate and (gpus is None or len(kinds) != 1):
        raise ConfigurationError("`--max-rate` needs `--gpus` and one kind in `--gpu`.")
    if not highest_rate and gpus is not None:
        raise ConfigurationError("`--gpus` needs `--max-rate`: without it GPUs are looked for.")


def _notes(kinds: list[GpuKind], workload: Workload) -> list[str]:
    """What was extrapolated, and what was assumed."""
    notes = [f"{k.name}: {note}." for k in kinds for note in extrapolation_notes(k, workload)]
    if len(workload.samples) == 1:
        notes.append(
            "The requests are those of the trace; intervals take its twentieths for independent."
        )
    return notes


def _lines(found: Sizing | MaxRate) -> list[str]:
    return (
        [rate_answer(found)] if isinstance(found, MaxRate) else [answer(found), *kind_lines(found)]
    )


def _rows_by_kind(found: Sizing | MaxRate) -> dict[str, tuple[Judged, ...]]:
    if isinstance(found, MaxRate):
        return {found.kind.name: found.rows}
    return {kind.kind.name: kind.rows for kind in found.kinds if kind.rows}


def _print(found: Sizing | MaxRate, notes: list[str]) -> None:
    """The answer, the best policy at each size, and notes on stderr."""
    print_lines(*_lines(found))
    for name, rows in _rows_by_kind(found).items():
        print_table(*table(rows, by_rate=isinstance(found, MaxRate)), title=name)
    for note in notes:
        print_note(note)


def _write(found: Sizing | MaxRate, notes: list[str], share: float, out: Path) -> None:
    """answer.md, rows.csv and figure.png."""
    rows = _rows_by_kind(found)
    text = _lines(found)
    for name, of_kind in rows.items():
        header, shown = table(of_kind, by_rate=isinstance(found, MaxRate))
        cells = [header, ["---:"] * len(header), *shown]
        text += ["", f"## {name}", "", *(f"| {' | '.join(row)} |" for row in cells)]
    write_whole(out / "answer.md", "\n".join([*text, "", *(f"- {n}" for n in notes)]) + "\n")
    write_rows(out / "rows.csv", COLUMNS, csv_rows([r for kind in rows.values() for r in kind]))
    if isinstance(found, MaxRate):
        write_rate_figure(found, share, out / "figure.png")
    else:
        write_size_figure(found, out / "figure.png")
    print_note(f"wrote answer.md, rows.csv, figure.png to {out}")


def _write_report(
    found: Sizing | MaxRate,
    workload: Workload,
    notes: list[str],
    share: float,
    seed: int,
    out: Path,
) -> None:
    """report.html."""
    from llm_sched_env.reports.sizing_page import write_max_rate, write_sizing

    lines, command, path = _lines(found), given_command(), out / "report.html"
    if isinstance(found, MaxRate):
        write_max_rate(found, workload, share, lines, notes, command, seed, path)
    else:
        write_sizing(found, workload, lines, notes, command, seed, path)
    print_note(f"wrote {path}")
