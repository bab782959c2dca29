"""The scorers of the router ``weighted``: names, defaults and weights that are allowed."""

from __future__ import annotations

from collections.abc import Mapping

from llm_sched_env.errors import ConfigurationError, is_finite_number

SCORERS = (
    "precise-prefix-cache",
    "prefix-affinity",
    "queue-depth",
    "kv-utilization",
    "active-requests",
    "load-aware",
    "no-hit-lru",
)
"""What the router ``weighted`` weighs, named as in llm-d's scheduler."""
(
    PRECISE_PREFIX_CACHE,
    PREFIX_AFFINITY,
    QUEUE_DEPTH,
    KV_UTILIZATION,
    ACTIVE_REQUESTS,
    LOAD_AWARE,
    NO_HIT_LRU,
) = range(len(SCORERS))
DEFAULT_SCORERS = (("precise-prefix-cache", 2.0), ("queue-depth", 1.0), ("kv-utilization", 1.0))
"""llm-d's default."""

Scorers = Mapping[str, float] | tuple[tuple[str, float], ...]


def checked_pairs(field: str, given: Scorers) -> tuple[tuple[str, float], ...]:
    """A table of numbers by name as pairs, so that who has it can be hashed.

    Raises:
        ConfigurationError: for what is no such table; numbers are not looked at.
    """
    try:
        pairs = tuple(dict(given).items())
    except (TypeError, ValueError):
        pairs = ((None, None),)  # type: ignore[assignment]
    if not all(isinstance(name, str) for name, _ in pairs):
        raise ConfigurationError(field, given, "a table of numbers by name")
    return pairs


def checked_scorers(router: str, given: Scorers) -> tuple[tuple[str, float], ...]:
    """Scorers as pairs, those of the default where the router ``weighted`` has none.

    Raises:
        ConfigurationError: for another router, a name that does not exist or weights < 0.
    """
    scorers = checked_pairs("scorers", given)
    if router != "weighted":
        if scorers:
            raise ConfigurationError("scorers", scorers, f"none with the router {router}")
        return ()
    for name, weight in scorers:
        if name not in SCORERS:
            raise ConfigurationError("scorer", name, f"one of {', '.join(SCORERS)}")
        if not is_finite_number(weight):
            raise ConfigurationError(f"weight of {name}", weight, "a finite number >= 0")
    if scorers and not any(weight > 0 for _, weight in scorers):
        raise ConfigurationError("weights of the scorers", scorers, "at least one > 0")
    return scorers or DEFAULT_SCORERS


def weights_of(scorers: tuple[tuple[str, float], ...]) -> tuple[float, ...]:
    """Of all scorers in the order of :data:`SCORERS`; empty without any."""
    known = dict(scorers)
    return tuple(float(known.get(name, 0.0)) for name in SCORERS) if known else ()
