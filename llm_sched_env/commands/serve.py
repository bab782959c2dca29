"""``llmsched serve``: the same policies on a real engine, in real time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from llm_sched_env.commands.evaluate import print_evaluation
from llm_sched_env.commands.options import (
    JsonOption,
    PricingOption,
    SeedOption,
    given_command,
    has_extra,
    output_folder,
    print_json,
    print_lines,
    print_note,
    print_table,
    require_extra,
    will_be_kept,
)
from llm_sched_env.commands.several_policies import (
    PoliciesOption,
    PolicyOption,
    chosen_policies,
    print_results,
)
from llm_sched_env.commands.trace_options import KeepInstanceOption, TraceReading, reads_traces
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.preparation import prepared_run
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.state.layout import DECODE_START
from llm_sched_env.validation.report import figure_rows, write_validation
from llm_sched_env.validation.validate import Validation, validate


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        epilog="Example: llmsched serve --instance chat.toml --hardware mine/hardware.toml "
        "--policies fcfs-immediate,gate-and-route --shape tiny --device cpu --seconds 30 --out run"
    )
    @reads_traces
    def serve(
        reading: TraceReading,
        out: Annotated[Path, typer.Option(help="Folder for requests, iterations and decisions.")],
        traces: Annotated[
            list[Path] | None, typer.Argument(metavar="[TRACE]...", help="Recorded requests.")
        ] = None,
        instance: Annotated[
            str, typer.Option(help="Preset name or instance file: what arrives, or its hardware.")
        ] = "base",
        hardware: Annotated[
            str | None,
            typer.Option(help="Hardware file (`llmsched profile`) or preset; else the instance's."),
        ] = None,
        policy: PolicyOption = None,
        policies: PoliciesOption = None,
        shape: Annotated[
            str, typer.Option(help="llama3-8b, qwen3-4b, tiny, or a config.json.")
        ] = "llama3-8b",
        device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda",
        workers: Annotated[
            int, typer.Option(help="Engines, each a GPU in a process of its own.")
        ] = 1,
        seconds: Annotated[float, typer.Option(help="Of real time, for each policy.")] = 60.0,
        clock: Annotated[
            str,
            typer.Option(help="wall; or processor, for one engine on a CPU that others use."),
        ] = "wall",
        pricing: PricingOption = "bundled",
        keep_instance: KeepInstanceOption = False,
        compare: Annotated[
            bool, typer.Option("--validate", help="Simulate each run and show both side by side.")
        ] = False,
        seed: SeedOption = 0,
        as_json: JsonOption = False,
    ) -> None:
        """Serve requests with a decoder of random weights, scheduled by any policy."""
        require_extra("serving", "torch")
        if compare:
            require_extra("report", "matplotlib")
        wanted = chosen_policies(policy, policies, None)
        named = [(name, *resolve_policy(name)) for name in wanted]
        for name, label, rule in named:
            if compare and not isinstance(rule, DispatchRule):
                raise ConfigurationError(
                    "--validate with the policy", name, f"compiled rules ({label} is none)"
                )
        output_folder(out)
        from llm_sched_env.serving.serve import Server

        server = Server(
            shape,
            device,
            instance=instance,
            hardware=hardware,
            trace=reading.load_if_given(traces or ()),
            match_trace=not keep_instance,
            workers=workers,
            seconds=seconds,
            seed=seed,
            clock=clock,
        )
        results, found, requests = [], [], {}
        with server, _stopped_by_signals():
            for name, label, _ in named:
                folder = out if len(named) == 1 else out / label
                file = folder / "requests.csv"
                will_be_kept("requests served so far", file, "another run starts anew")
                served = _serve_one(server, name, pricing, folder)
                if served.evaluation is None:
                    raise served.error or KeyboardInterrupt
                results.append(served.evaluation)
                requests[label] = served
                _print_replay(server, served, name)
                if compare:
                    found.append((label, _validated(server, served, name, folder)))
        matched = bool(traces) and not keep_instance
        _write_report(server, requests, pricing, found, out / "report.html", matched=matched)
        if as_json:
            plain = [
                {**result.to_dict(), **({"validation": found[k][1].to_dict()} if found else {})}
                for k, result in enumerate(results)
            ]
            print_json(plain[0] if policies is None else {"results": plain})
            return
        print_results(results, print_evaluation, as_table=policies is not None, as_json=False)
        for label, validation in found:
            print_table(
                ("", "measured", "simulated", "error"),
                figure_rows(validation),
                title=f"{label}: {len(validation.measured_run)} requests",
            )


def _serve_one(server: Any, policy: str, pricing: str, folder: Path) -> Any:
    """Serve under a policy and write what there is of the run."""
    from llm_sched_env.serving.served import write_served

    served = server.serve(
        policy,
        pricing=pricing,
        begun=lambda: print_note(f"serving under {policy} for {server.seconds:g} s"),
    )
    names = write_served(folder, served.run, served.iterations, served.decisions)
    print_note(f"wrote {', '.join(str(folder / name) for name in names)}")
    return served


def _write_report(
    server: Any,
    served: dict[str, Any],
    pricing: str,
    validations: list[tuple[str, Validation]],
    path: Path,
    *,
    matched: bool,
) -> None:
    """One page of all policies' runs, where the extra ``report`` is installed."""
    if not has_extra("matplotlib", "jinja2"):
        return
    from llm_sched_env.reports.served_page import served_requests, write_served_page

    planned = prepared_run(
        "fcfs-immediate",  # all policies plan for the same cluster
        server.instance,
        server.workers,
        pricing=pricing,
        horizon=server.seconds,
        warmup=0.0,
        trace=server.trace,
        match_trace=matched,
    )
    requests = {}
    for label, run in served.items():
        begun = np.full(len(run.run), np.nan)
        starts = run.decisions.kind == DECODE_START
        begun[run.decisions.request[starts]] = run.decisions.seconds[starts]
        requests[label] = served_requests(run.run, begun)
    results = [(label, run.evaluation) for label, run in served.items()]
    cluster = planned.run.cluster
    write_served_page(results, requests, cluster, validations, given_command(), path)
    print_note(f"wrote {path}")


def _print_replay(server: Any, served: Any, policy: str) -> None:
    first = server.replayed(served, policy)
    count = len(served.decisions)
    if first is None:
        print_note(f"replayed with the logged iteration times: the same {count:,} decisions")
    else:
        print_note(
            f"replayed with the logged iteration times: decision {first + 1:,} of {count:,} "
            "differs; does the policy depend on more than what it is shown?"
        )


def _validated(server: Any, served: Any, policy: str, folder: Path) -> Validation:
    hardware = server.instance.only_hardware
    horizon = min(server.seconds, served.run.last_event)
    result = validate(
        served.run,
        hardware,
        server.workers,
        policy,
        horizon=horizon,
        prices=server.instance.prices,
        seed=server.seed,
    )
    write_validation(result, folder / "validation")
    print_lines(f"wrote {folder / 'validation'}")
    return result


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """A polite kill ends a run as Ctrl-C does: what there is of it is written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
