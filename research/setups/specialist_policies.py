"""Policies trained for one instance, and their labels in result rows."""

from __future__ import annotations

SPECIALIST = "specialist"
"""Every one of them, in rows and tables."""
_MODULE = "research.rule_training.specialists:"


def specialist(instance: str, n_gpus: int) -> str:
    """The import path of the rule trained for an instance, or a traffic, at a size."""
    return f"{_MODULE}{instance.replace('-', '_')}_{n_gpus}"


def shown_name(policy: str) -> str:
    """A policy's name in rows.

    Not by the specialists that there are: cells are kept when another one is trained.
    """
    return SPECIALIST if policy.startswith(_MODULE) else policy
