"""Routers that look at prefix caches, and one that looks at nothing, by name and options.

``weighted:precise-prefix-cache=2,queue-depth=1,refresh_seconds=0.05`` weighs scorers, and sees
signals that are refreshed every so often; ``weighted`` alone has llm-d's weights and true signals.
"""

from __future__ import annotations

from llm_sched_env.errors import ConfigurationError, one_of
from llm_sched_env.simulation.scheduling.rules import DispatchRule

DESCRIPTIONS = {
    "random": "each request to a random GPU, where it waits and stays",
    "weighted": "greatest weighted sum of llm-d's scorers (weighted:NAME=W,...)",
    "session-affinity": "each conversation to one GPU, by consistent hashing",
    "earliest-finish": "to the GPU where its prefill ends first, after reuse",
    "reuse-bid": "to the GPU where a request costs least: its prefill after reuse, and waiting",
}
_REFRESH = "refresh_seconds"


def is_reuse_policy(text: str) -> bool:
    """Whether a text names one of these policies, with options or without."""
    return text.partition(":")[0] in DESCRIPTIONS


def reuse_policy(text: str) -> DispatchRule:
    """The rule of a name with options.

    Raises:
        ConfigurationError: for options that are no numbers by name, or that it does not have.

    Example:
        >>> reuse_policy("weighted:prefix-affinity=2,queue-depth=1").scorers
        (('prefix-affinity', 2.0), ('queue-depth', 1.0))
    """
    router, _, rest = text.partition(":")
    options = dict(_option(text, item) for item in rest.split(",")) if rest else {}
    refresh = options.pop(_REFRESH, 0.0)
    if options and router != "weighted":
        raise ConfigurationError(f"policy {router} option", one_of(options), _REFRESH)
    return DispatchRule(
        gate="fcfs", router=router, pools="dynamic", scorers=options, refresh_seconds=refresh
    )


def _option(text: str, item: str) -> tuple[str, float]:
    name, _, value = item.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise ConfigurationError(
            "policy", text, "options as in weighted:precise-prefix-cache=2,queue-depth=1"
        ) from None
