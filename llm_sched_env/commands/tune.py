"""``llmsched tune``: settings of a cluster that no other setting beats, and flags for engines."""

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
    integers,
    names,
    numbers,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
)
from llm_sched_env.commands.sized_workload import (
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
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.sizing.extrapolation import extrapolation_notes
from llm_sched_env.sizing.settings import POOL_SCALES, RESERVE_SCALES, settings_of
from llm_sched_env.sizing.size import checked_policies
from llm_sched_env.sizing.tune import tune as search
from llm_sched_env.sizing.tune_files import (
    flags_text,
    how_it_was_found,
    tuning_answer,
    tuning_table,
    write_tuning,
)

POLICIES = "fcfs-immediate,gate-prefill-first,gate-and-route,trunk-reservation"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched tune AzureLLMInferenceTrace_conv.csv "
        "AzureLLMInferenceTrace_code.csv --gpu h100-llama3-8b-b128=2.5 --gpus 3,4 --ttft 2 "
        "--tpot 0.05 --out tuned; llmsched tune --instance chat-deadlines --gpus 2 "
        "--gpu h100-llama3-8b-b128 --slots 32,64,128 --chunks 512,1024"
    )
    @reads_traces
    def tune(
        reading: TraceReading,
        gpus: Annotated[str, typer.Option(help="Cluster sizes, comma-separated.")],
        traces: TracesArgument = None,
        instance: TermsOption = None,
        gpu: GpuOption = ["h100-llama3-8b-b128"],  # noqa: B006 - Typer copies it
        slots: Annotated[
            str | None, typer.Option(help="Batch slots, comma-separated (usual ones, as measured).")
        ] = None,
        chunks: Annotated[
            str | None,
            typer.Option(help="Chunk tokens, comma-separated (usual ones, as measured)."),
        ] = None,
        policies: Annotated[str, typer.Option(help="Compiled rules, comma-separated.")] = POLICIES,
        pool_scales: Annotated[
            str, typer.Option("--pools", help="GPUs that prefill, times the plan's (static pools).")
        ] = ",".join(f"{scale:g}" for scale in POOL_SCALES),
        reserve_scales: Annotated[
            str, typer.Option("--reserves", help="Free slots kept, times the plan's.")
        ] = ",".join(f"{scale:g}" for scale in RESERVE_SCALES),
        ttft: TtftOption = None,
        tpot: TpotOption = None,
        percentile: PercentileOption = None,
        share: ShareOption = None,
        goodput: GoodputOption = None,
        confidence: ConfidenceOption = 0.95,
        growth: GrowthOption = 1.0,
        patience: PatienceOption = None,
        kv_tokens: KvTokensOption = None,
        horizon: HorizonOption = 900.0,
        warmup: WarmupOption = 300.0,
        replications: SamplesOption = 8,
        seed: SeedOption = 0,
        jobs: SizingJobsOption = 1,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        out: Annotated[
            Path | None,
            typer.Option(
                help="Folder for report.html, answer.md, chosen.toml, flags.sh, rows.csv and "
                "front.png; a run resumes there."
            ),
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare batch slots, chunks, policies, pools and reserves; choose a setting.

        Settings are halved on more and more of the requests. What is left is judged on all.
        """
        executor = Executor(jobs, backend, ray_address)
        kinds = gpu_kinds(gpu, kv_tokens)
        asked = required(percentile, share, goodput, confidence)
        sizes = integers("--gpus", gpus)
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
            default_rate=rate_as_given(instance, sizes[0]),
        )
        rules = checked_policies(names("--policies", policies))
        ways = [
            setting
            for kind in kinds
            for setting in settings_of(
                kind,
                sizes,
                rules,
                slots=None if slots is None else integers("--slots", slots),
                chunks=None if chunks is None else integers("--chunks", chunks),
                pool_scales=numbers("--pools", pool_scales),
                reserve_scales=numbers("--reserves", reserve_scales),
            )
        ]
        if out is not None:
            require_extra("report", "matplotlib", "jinja2")
            output_folder(out)
        with case_runs(executor, out, "tune") as runs:
            found = search(workload, ways, asked, seed=seed, runs=runs)
        chosen = found.chosen.setting.kind
        notes = [f"{chosen.name}: {note}." for note in extrapolation_notes(chosen, workload)]
        lines = [tuning_answer(found), how_it_was_found(found)]
        if out is not None:
            from llm_sched_env.reports.tuning_page import write_tuning_page

            written = write_tuning(found, workload, lines, notes, out)
            page = out / "report.html"
            write_tuning_page(found, workload, lines, notes, given_command(), seed, page)
            written.append(page.name)
            print_note(f"wrote {', '.join(written)} to {out}")
        if as_json:
            print_json({**found.to_dict(), "flags": flags_text(found.chosen), "notes": notes})
            return
        print_lines(*lines)
        print_table(*tuning_table(found.front), title="settings that no other one beats")
        print(flags_text(found.chosen))
        for note in notes:
            print_note(note)
