"""``llmsched watch``: a cluster in the terminal, live."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llm_sched_env.commands.options import (
    BillingOption,
    PricingOption,
    RevenueOption,
    SeedOption,
)
from llm_sched_env.commands.several_policies import PoliciesOption, PolicyOption, chosen_policies
from llm_sched_env.commands.static_priority import PriorityOption, ReserveOption, ordered_policy
from llm_sched_env.commands.trace_options import (
    KeepInstanceOption,
    PlanWindowOption,
    TraceReading,
    reads_traces,
)
from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number

if TYPE_CHECKING:
    from llm_sched_env.watching.session import Session

_DEFAULT_POLICIES = "trunk-reservation,fcfs-immediate,gate-and-route"
# Instance and size, of generated and of recorded requests.
_GENERATED, _RECORDED = ("overload", 20), ("azure2023", 5)
_HORIZON = 600.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched watch --instance overload --gpus 20; "
        "llmsched watch --instance bursts --gpus 100 --policies learned,fcfs-immediate --speed 16; "
        "llmsched watch AzureLLMInferenceTrace_conv.csv AzureLLMInferenceTrace_code.csv --speed 30"
    )
    @partial(reads_traces, speed_option="--trace-speed")
    def watch(
        reading: TraceReading,
        traces: Annotated[
            list[Path] | None,
            typer.Argument(metavar="[TRACE]...", help="Recorded requests, as `replay` takes them."),
        ] = None,
        instance: Annotated[
            str | None,
            typer.Option(help="Preset name or instance file (overload; with a trace azure2023)."),
        ] = None,
        gpus: Annotated[
            int | None, typer.Option(help="Cluster size n (20; with a trace 5).")
        ] = None,
        policy: PolicyOption = None,
        policies: PoliciesOption = None,
        priority: PriorityOption = None,
        reserve: ReserveOption = None,
        pricing: PricingOption = "bundled",
        revenue: RevenueOption = "all",
        horizon: Annotated[
            float | None,
            typer.Option(help="Simulated seconds (600; with a trace until the last arrival)."),
        ] = None,
        keep_instance: KeepInstanceOption = False,
        plan_window: PlanWindowOption = None,
        billing: BillingOption = None,
        speed_shown: Annotated[
            float, typer.Option("--speed", help="Simulated seconds per second.")
        ] = 4.0,
        every: Annotated[
            float | None,
            typer.Option(
                help="Print a frame each so many simulated seconds and wait for no key, as it is "
                "done without a terminal (60)."
            ),
        ] = None,
        seed: SeedOption = 0,
    ) -> None:
        """Watch a cluster: queues by class, GPUs with their slots, what it has earned of R*.

        Several policies run side by side on the same requests, generated or of a trace, and a key
        switches between them. Keys: space pauses, + and - change the speed, tab or 1-9 the policy,
        . goes on for a second, q ends.
        """
        from rich.console import Console

        from llm_sched_env.watching.screen import print_frames, watch_live

        times = (("--horizon", horizon), ("--speed", speed_shown), ("--every", every))
        for option, value in times:
            if value is not None and not is_finite_number(value, positive=True):
                raise ConfigurationError(option, value, "a finite number > 0")
        files = traces or []
        if not files and (reading != TraceReading() or keep_instance or plan_window is not None):
            raise ConfigurationError("Options of a trace need one; name its files first.")
        wanted = chosen_policies(policy, policies or (None if policy else _DEFAULT_POLICIES), None)
        usual = _RECORDED if files else _GENERATED
        served: dict[str, Any] = {
            "instance": usual[0] if instance is None else instance,
            "n_gpus": usual[1] if gpus is None else gpus,
            "pricing": pricing,
            "revenue": revenue,
            "horizon": _HORIZON if horizon is None and not files else horizon,
            "warmup": 0.0,
            "seed": checked_integer("--seed", seed, least=0),
            "billing": billing,
        }
        if files:
            served["trace"] = reading.load(files)
            served["match_trace"] = not keep_instance
            served["planned_on"] = reading.planned_on(plan_window, files)
        named = [ordered_policy(name, priority, reserve) for name in wanted]
        session = _session(named, wanted, served, speed_shown)
        console = Console(highlight=False)
        if every is None and console.is_terminal and sys.stdin.isatty():
            watch_live(session, console)
        else:
            print_frames(session, console, every if every is not None else 60.0)


def _session(
    policies: list[Any], names: list[str], served: dict[str, Any], speed: float
) -> Session:
    """Clusters of all policies, on the same requests over the same time."""
    from llm_sched_env.evaluation.preparation import prepared_run
    from llm_sched_env.watching.live_cluster import live_run
    from llm_sched_env.watching.session import Session

    prepared = [prepared_run(policy, **served) for policy in policies]
    # Times are whole intervals of policies in Python: who acts at the longest sets them for all.
    longest = max(prepared, key=lambda found: found.runs.interval or 0.0)
    horizon = longest.run.horizon
    if any(found.run.horizon != horizon for found in prepared):
        prepared = [prepared_run(policy, **{**served, "horizon": horizon}) for policy in policies]
    clusters = [
        # A rule with an order of its own keeps the name that it was called by.
        live_run(found.name if isinstance(policy, str) else name, found.runs, found.run)
        for policy, name, found in zip(policies, names, prepared, strict=True)
    ]
    first = prepared[0]
    return Session(
        first.run.cluster,
        clusters,
        horizon,
        speed,
        bound=first.bound(),
        revenue=served["revenue"],
    )
