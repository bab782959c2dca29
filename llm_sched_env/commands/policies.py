"""``llmsched policies``: list the names that ``--policy`` accepts."""

from __future__ import annotations

import typer

from llm_sched_env.commands.options import JsonOption, print_json, print_table
from llm_sched_env.policies.registry import registered_policies
from llm_sched_env.policies.reuse_policies import DESCRIPTIONS


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog="Example: llmsched policies")
    def policies(as_json: JsonOption = False) -> None:
        """List the registered policies and where they come from."""
        entries = [
            (name, list(entry.aliases), entry.description, entry.source)
            for name, entry in registered_policies().items()
        ]
        entries += [
            (name, list[str](), description, "docs/reuse.md")
            for name, description in DESCRIPTIONS.items()
        ]
        if as_json:
            print_json(
                {
                    name: {"description": description, "aliases": aliases, "source": source}
                    for name, aliases, description, source in entries
                }
            )
            return
        print_table(
            ("policy", "alias", "what it does", "source"),
            [
                (name, ", ".join(aliases), description, source)
                for name, aliases, description, source in entries
            ],
        )
