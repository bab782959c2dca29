"""Make the environment of a task, single or native vector: what ``gym.make`` calls."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from llm_sched_env.envs.cluster_env import ClusterEnv
from llm_sched_env.envs.cluster_vector import ClusterVectorEnv, default_threads
from llm_sched_env.envs.configuration import IntervalConfiguration
from llm_sched_env.envs.decision_env import DecisionEnv
from llm_sched_env.envs.decision_space import DecisionSpaces
from llm_sched_env.envs.event_env import LLMSchedEventEnv
from llm_sched_env.envs.event_vector_env import LLMSchedEventVectorEnv
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.envs.interval_env import LLMSchedEnv
from llm_sched_env.envs.routing_configuration import RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.envs.routing_env import LLMSchedRoutingEnv
from llm_sched_env.envs.routing_vector_env import LLMSchedRoutingVectorEnv
from llm_sched_env.envs.vector_env import LLMSchedVectorEnv
from llm_sched_env.errors import checked_integer
from llm_sched_env.tasks.suite import task
from llm_sched_env.tasks.task import EVENT, INTERVAL, Task

# A step of an interval is many events, one of a decision a few.
_LEAST_PER_THREAD = {INTERVAL: 8}
_FEW = 256


class IntervalTaskEnv(LLMSchedEnv):
    """``LLMSched-v0`` of a task.

    Args:
        control: what runs the cluster.
        render_mode: as in the base environment.
    """

    def __init__(self, control: IntervalControl, render_mode: str | None = None) -> None:
        ClusterEnv.__init__(self, control, render_mode)
        self.action_space = control.action_space


class RoutingTaskEnv(LLMSchedRoutingEnv):
    """``LLMSchedRouting-v0`` of a task.

    Args:
        control: what runs the cluster.
        render_mode: as in the base environment.
    """

    def __init__(self, control: RoutingControl, render_mode: str | None = None) -> None:
        DecisionEnv.__init__(self, control, render_mode)


class IntervalTaskVectorEnv(LLMSchedVectorEnv):
    """The native vector form of ``LLMSched-v0`` of a task.

    Args:
        control: what runs the clusters.
        *settings: those of :class:`.ClusterVectorEnv`.
    """

    def __init__(self, control: IntervalControl, *settings: Any) -> None:
        ClusterVectorEnv.__init__(self, control, *settings)
        self.single_action_space = control.action_space
        self.action_space = batch_space(control.action_space, self.num_envs)


class RoutingTaskVectorEnv(LLMSchedRoutingVectorEnv):
    """The native vector form of ``LLMSchedRouting-v0`` of a task.

    Args:
        control: what runs the clusters.
        *settings: those of :class:`.ClusterVectorEnv`.
    """

    def __init__(self, control: RoutingControl, *settings: Any) -> None:
        ClusterVectorEnv.__init__(self, control, *settings)
        self.single_action_space = spaces.Discrete(control.n_actions)
        self.action_space = DecisionSpaces(self.num_envs, control.n_actions)


def make_task(
    name: str, *, render_mode: str | None = None, **arguments: Any
) -> LLMSchedEnv | LLMSchedEventEnv | LLMSchedRoutingEnv:
    """The environment of a task.

    Args:
        name: of the task.
        render_mode: as in the base environment.
        **arguments: of the base environment, in the place of the task's own.

    Raises:
        ConfigurationError: for arguments that are not allowed, or a trace that is not there.
    """
    chosen = task(name)
    if chosen.environment == EVENT:
        return LLMSchedEventEnv(render_mode=render_mode, **chosen.arguments(**arguments))
    control = _control(chosen, arguments, 1, 1)
    if isinstance(control, IntervalControl):
        return IntervalTaskEnv(control, render_mode)
    return RoutingTaskEnv(control, render_mode)


def make_vector_task(
    name: str,
    num_envs: int = 1,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    threads: int | None = None,
    *,
    render_mode: str | None = None,
    max_episode_steps: int | None = None,
    **arguments: Any,
) -> LLMSchedVectorEnv | LLMSchedEventVectorEnv | LLMSchedRoutingVectorEnv:
    """N environments of a task, advanced together, each equal to a single one with its seed.

    Args:
        name: of the task.
        num_envs: N.
        autoreset_mode: and the others up to ``max_episode_steps`` as in the base environment.
        threads: that advance the environments.
        render_mode: of each.
        max_episode_steps: of each.
        **arguments: of the base environment, in the place of the task's own.

    Raises:
        ConfigurationError: for arguments that are not allowed, or a trace that is not there.
    """
    chosen = task(name)
    num_envs = checked_integer("num_envs", num_envs)
    if chosen.environment == EVENT:
        return LLMSchedEventVectorEnv(
            num_envs,
            autoreset_mode,
            threads,
            render_mode=render_mode,
            max_episode_steps=max_episode_steps,
            **chosen.arguments(**arguments),
        )
    if threads is None:
        threads = default_threads(num_envs, _LEAST_PER_THREAD.get(chosen.environment, _FEW))
    control = _control(chosen, arguments, num_envs, threads)
    settings = (autoreset_mode, render_mode, max_episode_steps)
    if isinstance(control, IntervalControl):
        return IntervalTaskVectorEnv(control, *settings)
    return RoutingTaskVectorEnv(control, *settings)


def _control(
    chosen: Task, given: dict[str, Any], n_clusters: int, threads: int
) -> IntervalControl | RoutingControl:
    """What runs N clusters of a task."""
    arguments = chosen.arguments(**given)
    if chosen.environment == INTERVAL:
        intervals = IntervalConfiguration.validated(**arguments)
        return chosen.form.interval_control(intervals, n_clusters, threads)
    routing = RoutingConfiguration.validated(**arguments)
    return chosen.form.routing_control(routing, n_clusters, threads)
