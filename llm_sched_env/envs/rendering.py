"""Render a cluster as text or as a picture."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.event_configuration import EventConfiguration
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.planning.cluster import Cluster
from llm_sched_env.simulation.state.layout import OCCUPANCIES, EngineState

RENDER_MODES = ("ansi", "rgb_array")
WINDOW = "human"
"""The mode that shows pictures in a window, in the single environments."""
FRAMES_PER_SECOND = 8
RENDER_METADATA = {"render_modes": [*RENDER_MODES], "render_fps": FRAMES_PER_SECOND}
"""What Gymnasium's wrappers ask an environment's metadata for."""


def checked_render_mode(mode: Any, modes: tuple[str, ...] = RENDER_MODES) -> str | None:
    """The mode, if it is one of these or None; raises ConfigurationError."""
    if mode is None or mode in modes:
        chosen: str | None = mode
        return chosen
    remedy = 'wrap "rgb_array" in Gymnasium\'s HumanRendering' if mode == WINDOW else ""
    raise ConfigurationError("render_mode", mode, f"None or one of {', '.join(modes)}", remedy)


def warn_no_mode() -> None:
    """Say that there is nothing to render, as Gymnasium's environments do."""
    gym.logger.warn("render() does nothing without a render_mode")


def show(
    state: EngineState,
    configuration: IntervalConfiguration | EventConfiguration | RoutingConfiguration,
    mode: str,
) -> str | np.ndarray:
    """A cluster in one of ``RENDER_MODES``."""
    if mode == "ansi":
        return describe(state, configuration.cluster)
    from llm_sched_env.envs.picture import draw_cluster  # loads Pillow

    return draw_cluster(state, configuration.cluster, configuration.rule.pools)


def describe(state: EngineState, cluster: Cluster) -> str:
    """One line per class with its requests at every station."""
    header = f"t = {float(state.clock['time'][0]):.1f} s, {cluster.n_gpus} GPUs, "
    header += f"{int(state.groups['mixed_pool_size'].sum())} in the mixed pool"
    width = max(len(c.name) for c in cluster.instance.classes)
    titles = " ".join(f"{name:>9}" for name in OCCUPANCIES)
    lines = [header, " " * width + titles]
    by_class = state.classes.reshape(cluster.instance.n_classes, -1)
    for request_class, own in zip(cluster.instance.classes, by_class, strict=True):
        counts = {name: own[name].sum() for name in OCCUPANCIES}
        row = " ".join(f"{int(counts[name]):9d}" for name in OCCUPANCIES)
        lines.append(f"{request_class.name:<{width}}{row}")
    return "\n".join(lines)


def revenue_share(state: EngineState, cluster: Cluster) -> float:
    """What the requests completed since measuring began have earned, as a share of R*."""
    names: tuple[str, ...] = ("bundled_revenue",)
    if cluster.pricing != "bundled":
        names = ("prefill_revenue", "decode_revenue")
    revenue = sum(float(state.totals[name].sum()) for name in names)
    seconds = float(state.clock["time"][0] - state.clock["metrics_start"][0])
    return revenue / (cluster.plan.value * cluster.n_gpus * seconds) if seconds > 0 else 0.0
