"""``llmsched``: the command line; bad input is one clear line and exit code 2."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated, NoReturn

import typer

from llm_sched_env.commands import (
    adapt,
    bench,
    calibrate,
    compare,
    dataset,
    evaluate,
    export,
    import_logs,
    instances,
    lengths,
    optimum,
    path,
    plan,
    policies,
    profile,
    replay,
    serve,
    size,
    sweep,
    trace,
    train,
    tune,
    validate,
    watch,
)
from llm_sched_env.commands.options import interruption_text, remember_command
from llm_sched_env.errors import LLMSchedError
from llm_sched_env.evaluation.versions import version_line
from llm_sched_env.plugins.user_code import user_error_line

try:  # newer releases of Typer carry their own Click
    from typer._click.exceptions import ClickException
except ImportError:
    # With and without Click there is another error here.
    from click.exceptions import ClickException  # type: ignore[import-not-found, no-redef, assignment, unused-ignore]

DEBUG = "--debug"
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    plan,
    path,
    optimum,
    evaluate,
    compare,
    train,
    sweep,
    export,
    dataset,
    replay,
    serve,
    size,
    tune,
    trace,
    lengths,
    calibrate,
    validate,
    import_logs,
    instances,
    policies,
    profile,
    bench,
    adapt,
    watch,
)
for module in COMMANDS:
    module.register(app)


@app.callback(invoke_without_command=True)
def global_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the versions of this package and its libraries.", is_eager=True
        ),
    ] = False,
    debug: Annotated[  # noqa: ARG001 - taken out of the arguments before, wherever it stands
        bool, typer.Option(DEBUG, help="Show the whole traceback of an error.")
    ] = False,
) -> None:
    """Scheduling of LLM inference with prefill-decode contention."""
    if version:
        print(version_line())
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run ``llmsched``; exits with 0, or 2 for bad input.

    Args:
        arguments: after the name of the program; default: those of the process.
    """
    run(app, "llmsched", arguments)


def run(commands: typer.Typer, program: str, arguments: list[str] | None = None) -> NoReturn:
    """Run a command line: whatever a user can cause is one line on stderr and exit code 2.

    Ctrl-C is one line, too, with exit code 130.

    Args:
        commands: of the program.
        program: its name.
        arguments: after its name; default: those of the process.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in words[: words.index("--")] if "--" in words else DEBUG in words
    try:
        given = [word for word in words if word != DEBUG] or ["--help"]
        remember_command(program, given)
        code = commands(given, standalone_mode=False)
        sys.stdout.flush()  # a full disk may show only now
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        sys.exit(1)
    except (Exception, SystemExit) as error:
        if (line := _error_line(error)) is None:
            raise
        if debug:
            traceback.print_exc()
        _fail(program, line)
    if code == INTERRUPTED:  # some releases of Typer return it, others raise
        _fail(program, interruption_text(), code)
    sys.exit(code or 0)


def _error_line(error: BaseException) -> str | None:
    """What a user can do something about, in a line; None for an error of this package."""
    if line := user_error_line(error):
        return line
    if isinstance(error, LLMSchedError):
        return str(error)
    if isinstance(error, ClickException):
        return str(error.format_message())
    if isinstance(error, MemoryError):
        return (
            f"not enough memory ({error or 'nothing more is known'}); take fewer GPUs, slots, "
            "jobs, replications or environments"
        )
    if isinstance(error, OSError):
        if error.filename is None:
            _forget_output()
            return f"the output cannot be written ({error.strerror or error})"
        return f"{error.filename}: {error.strerror}; check the path, its rights and the space left"
    return None


def _forget_output() -> None:
    """Do not try again to write what is left when the process ends."""
    with suppress(OSError, ValueError):  # it may be no file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(program: str, message: str, code: int = 2) -> NoReturn:
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
