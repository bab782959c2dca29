"""``python -m research train-rule``: train the priority network of a rule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_sched_env.commands.options import (
    BackendOption,
    JsonOption,
    RayAddressOption,
    TraceOption,
    WorkersOption,
    messages,
    output_folder,
    print_json,
    trace_paths,
    warn_former_option,
    will_be_kept,
)
from llm_sched_env.commands.trace_options import TraceReading, reads_traces
from llm_sched_env.errors import ConfigurationError, checked_integer
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.presets import resolve_instance
from llm_sched_env.tasks.task import CONTROLS
from llm_sched_env.workloads.trace import Trace
from llm_sched_env.workloads.traces import instance_from_trace

if TYPE_CHECKING:
    from research.rule_training.trainer import RuleTraining


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "train-rule",
        epilog="Example: python -m research train-rule --instance overload --gpus 5 "
        "--initial learned --out runs/overload-5",
    )
    @reads_traces
    def train_rule_command(
        out: Annotated[Path, typer.Option(help="Folder of the run; the rule is rule.json in it.")],
        reading: TraceReading,
        instance: Annotated[
            str | None,
            typer.Option(help="Preset name or instance file; default: random ones, a generalist."),
        ] = None,
        gpus: Annotated[
            int | None, typer.Option(help="Cluster size, with --instance or --trace.")
        ] = None,
        trace: TraceOption = None,
        task: Annotated[
            str | None,
            typer.Option(help="Task to train on, in the place of --instance, --trace and --gpus."),
        ] = None,
        generations: Annotated[
            int | None,
            typer.Option(help="Steps [60]."),
        ] = None,
        initial: Annotated[
            str | None,
            typer.Option(help="Rule to start from: a path or `learned`; default: the plan's."),
        ] = None,
        look_ahead: Annotated[
            float, typer.Option(help="Seconds over which rate functions are known in advance.")
        ] = 10.0,
        foresight: Annotated[float | None, typer.Option(hidden=True)] = None,
        reacting: Annotated[
            bool,
            typer.Option(
                "--reacting",
                help="Reserves may react to load, arrivals and backlog: for traffic that is not "
                "known in advance. With --instance or --trace.",
            ),
        ] = False,
        seconds: Annotated[
            float | None,
            typer.Option(
                help="Simulated seconds of a scenario, a minute of warm-up included, with "
                "--instance [360]."
            ),
        ] = None,
        seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
        jobs: WorkersOption = None,
        backend: BackendOption = "joblib",
        ray_address: RayAddressOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Train a rule by evolution; a run that was stopped resumes when started again."""
        from llm_sched_env.agents.learned_rule import SHIPPED, LearnedRule
        from research.rule_training.trainer import STATE_NAME, train_rule

        executor = Executor(jobs, backend, ray_address)
        recorded = reading.load_if_given(trace_paths(trace))
        instance, recorded, gpus, of_task = _scenarios(task, instance, recorded, gpus)
        if foresight is not None:
            warn_former_option("--foresight", "--look-ahead")
            look_ahead = foresight
        chosen: dict[str, Any] = {
            "seed": checked_integer("--seed", seed, 0),
            "initial": initial,
            "foresight": look_ahead,
            **of_task,
        }
        if generations is not None:
            chosen["generations"] = checked_integer("--generations", generations)
        if reacting:
            chosen["reacting"] = True
        if seconds is not None:
            chosen["horizon"] = seconds
        configuration = _configuration(instance, recorded, gpus, chosen)
        network = None
        if initial is not None:
            shipped = SHIPPED / f"{initial}.json"
            network = LearnedRule.load(shipped if shipped.exists() else initial).network
        executor.connect()
        folder = output_folder(out)
        will_be_kept("the generations up to the last validation", folder / STATE_NAME)
        columns = (
            TextColumn(
                "{task.completed:,.0f}/{task.total:,.0f} generations, gain {task.fields[gain]}"
            ),
            BarColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=messages) as progress:
            bar = progress.add_task("", total=configuration.generations, gain="-")

            def show(row: dict[str, float]) -> None:
                progress.update(bar, completed=row["generation"])
                if "gain" in row:
                    gain = f"{100 * row['gain']:+.3f}±{196 * row['gain_error']:.3f} % of R*"
                    progress.update(bar, gain=gain)

            path = train_rule(
                configuration,
                folder,
                initial=network,
                trace=recorded,
                executor=executor,
                on_generation=show,
            )
        trained = LearnedRule.load(path)
        last = trained.curve[-1] if trained.curve else {}
        if as_json:
            print_json(
                {
                    "rule": str(path),
                    "generations": trained.generations,
                    "seconds": trained.seconds,
                    "gain": last.get("gain"),
                    "gain_error": last.get("gain_error"),
                    "versions": trained.versions,
                }
            )
        else:
            print(f"{path}: {trained.generations} generations in {trained.seconds:.0f} s")


def _scenarios(
    name: str | None, instance: str | None, trace: Trace | None, gpus: int | None
) -> tuple[str | None, Trace | None, int | None, dict[str, Any]]:
    """Instance, trace, size and other settings: as given, or of a task at intervals."""
    if name is None:
        return instance, trace, gpus, {}
    if instance is not None or trace is not None or gpus is not None:
        raise ConfigurationError(
            "`--task` cannot be combined with `--instance`, `--trace` and `--gpus`."
        )
    from llm_sched_env.tasks import task
    from llm_sched_env.tasks.hidden_hardware import HiddenHardware
    from llm_sched_env.tasks.replays import Replay

    chosen = task(name)
    if CONTROLS[chosen.environment] != "interval":
        raise ConfigurationError("--task", name, "a task at intervals", "use train-router")
    more = {"revenue": chosen.revenue, "drop_late": chosen.settings.get("drop_late", False)}
    form, n_gpus = chosen.form, chosen.n_gpus
    if isinstance(form, HiddenHardware):
        more["hidden"] = (form.mixed_seconds, form.solo_seconds)
    if isinstance(form, Replay):
        return None, form.halves[0].at_speed(form.speed_on(n_gpus)), n_gpus, more
    return str(chosen.settings["instance"]), None, n_gpus, more


def _configuration(
    instance: str | None, recorded: Trace | None, gpus: int | None, chosen: dict[str, Any]
) -> RuleTraining:
    """Of a generalist or, with an instance or a trace and a size, of a specialist."""
    from research.rule_training.replayed_scenarios import fingerprint
    from research.rule_training.trainer import RuleTraining

    if instance is not None and recorded is not None:
        raise ConfigurationError(
            "`--instance` cannot be combined with `--trace`, whose requests are planned for."
        )
    if (instance is None and recorded is None) != (gpus is None):
        raise ConfigurationError(
            "`--gpus` is needed with `--instance` or `--trace`, and cannot be given without them."
        )
    if instance is None and "horizon" in chosen:
        raise ConfigurationError("`--seconds` needs `--instance`.")
    if gpus is None:
        if "reacting" in chosen:
            raise ConfigurationError("`--reacting` needs `--instance` or `--trace`.")
        return RuleTraining(**chosen)
    n_gpus = checked_integer("--gpus", gpus)
    if recorded is None:
        return RuleTraining.specialist(resolve_instance(str(instance)), n_gpus, **chosen)
    known = instance_from_trace(recorded, n_gpus)
    return RuleTraining.specialist(known, n_gpus, trace=fingerprint(recorded), **chosen)
