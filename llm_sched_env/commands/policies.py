"""``llmsched policies``: everything that ``--policy`` takes by name."""

from __future__ import annotations

import typer

from llm_sched_env.commands.options import JsonOption, print_json, print_table
from llm_sched_env.policies import registered_policies


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched policies")
    def policies(as_json: JsonOption = False) -> None:
        """List the registered policies, their aliases and where they come from."""
        entries = registered_policies()
        if as_json:
            print_json(
                {
                    name: {
                        "description": entry.description,
                        "aliases": list(entry.aliases),
                        "source": entry.source,
                    }
                    for name, entry in entries.items()
                }
            )
            return
        print_table(
            ("policy", "alias", "what it does", "source"),
            [
                (name, ", ".join(entry.aliases), entry.description, entry.source)
                for name, entry in entries.items()
            ],
        )
