"""A cluster as text."""

from __future__ import annotations

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.simulation.layout import OCCUPANCIES, EngineState


def describe(state: EngineState, configuration: IntervalConfiguration) -> str:
    """One line per class with its requests at every station."""
    header = f"t = {float(state.clock['time'][0]):.1f} s, {configuration.n_gpus} GPUs, "
    header += f"{int(state.clock['mixed_pool_size'][0])} in the mixed pool"
    width = max(len(c.name) for c in configuration.instance.classes)
    titles = " ".join(f"{name:>9}" for name in OCCUPANCIES)
    lines = [header, " " * width + titles]
    for request_class, counts in zip(configuration.instance.classes, state.classes, strict=True):
        row = " ".join(f"{int(counts[name]):9d}" for name in OCCUPANCIES)
        lines.append(f"{request_class.name:<{width}}{row}")
    return "\n".join(lines)
