"""Rules trained for one instance and size, by attribute: ``specialists:phased_5``.

``llmsched evaluate --policy llm_sched_env.agents.specialists:phased_5 --instance phased --gpus 5``
"""

from __future__ import annotations

from llm_sched_env.agents.learned_rule import SHIPPED, load_rule
from llm_sched_env.simulation.scheduling.rules import DispatchRule

_FOLDER = SHIPPED / "specialists"


def names() -> list[str]:
    """INSTANCE_SIZE of every specialist that is shipped."""
    return sorted(file.stem for file in _FOLDER.glob("*.json"))


def __getattr__(name: str) -> DispatchRule:
    """The rule of a specialist."""
    if name not in names():
        raise AttributeError(f"got no specialist {name!r}, allowed is one of {', '.join(names())}")
    return load_rule(_FOLDER / f"{name}.json")
