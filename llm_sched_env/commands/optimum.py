"""``llmsched optimum``: certified bounds on the optimum of a tiny system."""

from __future__ import annotations

from typing import Annotated

import typer

from llm_sched_env.commands.options import (
    InstanceOption,
    JsonOption,
    PricingOption,
    print_json,
    print_lines,
    print_note,
)
from llm_sched_env.exact import Bounds, Optimum
from llm_sched_env.exact import optimum as solve
from llm_sched_env.exact.count_rules import trunk_reservation
from llm_sched_env.exact.optimum import rule_bounds
from llm_sched_env.exact.shrunk import merged_halves, shrunk
from llm_sched_env.model.slot_ranks import SlotRanks
from llm_sched_env.planning import plan
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.presets import resolve_instance


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched optimum --instance overload --slots 4 --gpus 2 --json")
    def optimum(
        gpus: Annotated[int, typer.Option(help="Cluster size n, 1 to 3 in practice.")],
        instance: InstanceOption = "base",
        slots: Annotated[
            int | None,
            typer.Option(help="Fewer slots per GPU at the same load: shorter, dearer outputs."),
        ] = None,
        halves: Annotated[
            bool,
            typer.Option(
                "--halves", help="Two classes: those that write more than they read, others."
            ),
        ] = False,
        pricing: PricingOption = "bundled",
        queue_limit: Annotated[
            int, typer.Option(help="Requests of a class that may wait for prefill.")
        ] = 10,
        decode_limit: Annotated[
            int, typer.Option(help="Prefilled requests that may wait for a slot, in all.")
        ] = 1,
        gpu_choice: Annotated[str, typer.Option(help="free or random.")] = "free",
        tolerance: Annotated[
            float, typer.Option(help="Relative width at which an iteration stops.")
        ] = 1e-7,
        as_json: JsonOption = False,
    ) -> None:
        """Solve the Markov decision process: certified bounds of the optimum, trunk-reservation."""
        problem = resolve_instance(instance)
        if halves:
            problem = merged_halves(problem)
        if slots is not None:
            problem = shrunk(problem, slots)
        best = solve(
            problem,
            gpus,
            pricing,
            queue_limit=queue_limit,
            decode_limit=decode_limit,
            gpu_choice=gpu_choice,
            tolerance=tolerance,
        )
        ranks = slot_ranks(plan(problem, pricing), gpus)
        rule = rule_bounds(best.system, trunk_reservation(best.system, ranks), tolerance=tolerance)
        if as_json:
            print_json(best.to_dict() | {"trunk_reservation": [rule.lower, rule.upper]})
        else:
            _print(best, rule, ranks)
        print_note(
            f"{best.system.n_states:,} states, {best.sweeps} sweeps; bounds hold for policies "
            f"that let at most {decode_limit} prefilled requests wait"
        )


def _print(best: Optimum, rule: Bounds, ranks: SlotRanks) -> None:
    system = best.system
    lower, upper = best.bounds.lower, best.bounds.upper
    print_lines(
        f"optimum {lower:.4f} to {upper:.4f} per GPU and second ({system.instance.name}, "
        f"{system.n_gpus} GPUs, {system.pricing}, GPU choice {best.gpu_choice})",
        f"R* = {best.fluid_bound:.4f}; the optimum is {lower / best.fluid_bound:.4f} to "
        f"{upper / best.fluid_bound:.4f} of it; no policy with any buffer of prefilled requests "
        f"exceeds {best.any_buffer:.4f}",
        f"trunk-reservation {rule.lower:.4f} to {rule.upper:.4f}, at least "
        f"{rule.lower / upper:.4f} of the optimum (reserves "
        f"{', '.join(f'{r:.2f}' for r in ranks.reserve)} slots)",
    )
