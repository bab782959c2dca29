"""``llmsched watch``: a cluster in the terminal, live."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llm_sched_env.commands.options import PricingOption, SeedOption
from llm_sched_env.commands.several_policies import PoliciesOption, PolicyOption, chosen_policies
from llm_sched_env.errors import ConfigurationError, checked_integer, is_finite_number

_DEFAULT_POLICIES = "trunk-reservation,fcfs-immediate,gate-and-route"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched watch --instance overload --gpus 20; "
        "llmsched watch --instance bursts --gpus 100 --policies learned,fcfs-immediate --speed 16"
    )
    def watch(
        instance: Annotated[str, typer.Option(help="Preset name or instance file.")] = "overload",
        gpus: Annotated[int, typer.Option(help="Cluster size n.")] = 20,
        policy: PolicyOption = None,
        policies: PoliciesOption = None,
        pricing: PricingOption = "bundled",
        horizon: Annotated[float, typer.Option(help="Simulated seconds.")] = 600.0,
        speed: Annotated[float, typer.Option(help="Simulated seconds per second.")] = 4.0,
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

        Several policies run side by side on the same requests, and a key switches between them.
        Keys: space pauses, + and - change the speed, tab or 1-9 the policy, . goes on for a
        second, q ends.
        """
        from rich.console import Console

        from llm_sched_env.planning.cluster import Cluster
        from llm_sched_env.watching.live_cluster import live_cluster
        from llm_sched_env.watching.screen import print_frames, watch_live
        from llm_sched_env.watching.session import Session

        for option, value in (("--horizon", horizon), ("--speed", speed), ("--every", every)):
            if value is not None and not is_finite_number(value, positive=True):
                raise ConfigurationError(option, value, "a finite number > 0")
        chosen = None if policies or policy else _DEFAULT_POLICIES
        wanted = chosen_policies(policy, policies or chosen, None)
        seed = checked_integer("--seed", seed, least=0)
        cluster = Cluster.of(instance, gpus, pricing)
        clusters = [live_cluster(name, cluster, horizon, seed) for name in wanted]
        session = Session(cluster, clusters, horizon, speed)
        console = Console(highlight=False)
        if every is None and console.is_terminal and sys.stdin.isatty():
            watch_live(session, console)
        else:
            print_frames(session, console, every if every is not None else 60.0)
