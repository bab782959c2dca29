"""``llmsched``: one command per question; bad input is one clear line and exit code 2."""

from __future__ import annotations

import sys

import typer

from llm_sched_env.commands import (
    bench,
    calibrate,
    compare,
    evaluate,
    experiment,
    instances,
    lengths,
    optimum,
    path,
    plan,
    policies,
    replay,
    strip,
    sweep,
    trace,
    train,
    train_rule,
    train_study,
)
from llm_sched_env.errors import LLMSchedError

try:  # newer releases of Typer carry their own Click
    from typer._click.exceptions import ClickException
except ImportError:
    # With and without Click there is another error here.
    from click.exceptions import ClickException  # type: ignore[import-not-found, no-redef, assignment, unused-ignore]

app = typer.Typer(
    help="Scheduling of LLM inference with prefill-decode contention.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    plan,
    path,
    optimum,
    evaluate,
    compare,
    experiment,
    train,
    train_rule,
    train_study,
    sweep,
    strip,
    replay,
    trace,
    lengths,
    calibrate,
    instances,
    policies,
    bench,
)
for module in COMMANDS:
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 0, or 2 for bad input."""
    try:
        code = app(arguments or sys.argv[1:] or ["--help"], standalone_mode=False)
    except LLMSchedError as error:
        _fail(str(error))
    except ClickException as error:
        _fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", code=130)
    sys.exit(code or 0)


def _fail(message: str, code: int = 2) -> None:
    print(f"llmsched: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
