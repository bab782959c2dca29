"""``llmsched replay``: replay recorded requests under a policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llm_sched_env.commands.evaluate import print_evaluation
from llm_sched_env.commands.options import (
    BillingOption,
    JsonOption,
    PricingOption,
    RevenueOption,
    SeedOption,
    print_note,
)
from llm_sched_env.commands.several_policies import (
    PoliciesOption,
    PolicyOption,
    chosen_policies,
    print_results,
    run_all,
)
from llm_sched_env.commands.static_priority import PriorityOption, ReserveOption, with_order
from llm_sched_env.commands.trace_options import (
    KeepInstanceOption,
    PlanWindowOption,
    TraceReading,
    reads_traces,
)
from llm_sched_env.evaluation.evaluate import evaluate

DEFAULT_POLICY = "trunk-reservation"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched replay AzureLLMInferenceTrace_conv.csv "
        "AzureLLMInferenceTrace_code.csv --gpus 5 --policy trunk-reservation"
    )
    @reads_traces
    def replay(
        traces: Annotated[
            list[Path], typer.Argument(help="Trace files of a known format, plain or gzip.")
        ],
        reading: TraceReading,
        policy: PolicyOption = None,
        policies: PoliciesOption = None,
        priority: PriorityOption = None,
        reserve: ReserveOption = None,
        gpus: Annotated[int, typer.Option(help="Cluster size n.")] = 5,
        instance: Annotated[
            str, typer.Option(help="Hardware, prices and patience: azure2023, a preset, a file.")
        ] = "azure2023",
        pricing: PricingOption = "bundled",
        revenue: RevenueOption = "all",
        horizon: Annotated[
            float | None, typer.Option(help="Seconds to replay (default: until the last arrival).")
        ] = None,
        keep_instance: KeepInstanceOption = False,
        plan_window: PlanWindowOption = None,
        billing: BillingOption = None,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Replay trace files at their own timestamps and token counts.

        The policy is trunk-reservation unless one is named.
        """
        wanted = chosen_policies(policy, policies, DEFAULT_POLICY)
        planned_on = reading.planned_on(plan_window, traces)
        evaluate_one = partial(
            evaluate,
            instance=instance,
            n_gpus=gpus,
            pricing=pricing,
            revenue=revenue,
            replications=1,
            seed=seed,
            trace=reading.load(traces),
            match_trace=not keep_instance,
            planned_on=planned_on,
            billing=billing,
        )
        results = run_all(wanted, with_order(evaluate_one, priority, reserve), horizon=horizon)
        print_results(results, print_evaluation, as_table=policies is not None, as_json=as_json)
        for result in results:
            account = result.requests
            whose = f"{result.policy}: " if policies is not None else ""
            print_note(
                f"{whose}{account['arrived']:,} requests: {account['completed']:,} completed, "
                f"{account['abandoned']:,} abandoned, {account['inside']:,} still inside"
            )
