"""``LLMSchedEvent-v0``: event-driven control of one cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import Unpack

from llm_sched_env.envs.backends import event_control
from llm_sched_env.envs.decision_env import DecisionEnv
from llm_sched_env.envs.decision_space import action_names
from llm_sched_env.envs.event_configuration import EventArguments, EventConfiguration
from llm_sched_env.envs.event_control import EventControl


class LLMSchedEventEnv(DecisionEnv[EventControl]):
    """Admission and routing of LLM requests, one by one, at the events of a cluster.

    ## Description
    The cluster of ``LLMSched-v0`` under the admissible policies of Lin, Ding, Han and Zhang
    (arXiv 2602.02987): at an event the agent may start any request that waits, one action after
    another, on a GPU that has a slot for it, or wait for the next event. The page
    ``docs/event_control.md`` says when decisions are due and what each action does.

    ## Action Space
    ``Discrete(1 + 3I)``. ``action_masks()`` and ``info["action_mask"]`` say which are possible
    now; any other is an error. ``action_space.sample()`` draws a possible one.

    | Num | Action | Possible if |
    |---|---|---|
    | 0 | wait until the next event | always |
    | 1..I | start the prefill of the head of class i | it waits, a GPU can prefill |
    | I+1..2I | start the decode of the prefilled head of class i on a solo GPU | one has a slot |
    | 2I+1..3I | the same on a mixed GPU | one has a slot |

    The GPU is one of those, uniformly at random. With G groups of GPUs each of the three is by
    class and group, class-major: ``Discrete(1 + 3IG)``.

    ## Observation Space
    ``Box(0, 1, (8I + 4,), float32)``, per GPU, so that a policy moves between cluster sizes.

    | Num | Observation | Unit |
    |---|---|---|
    | 0..I-1 | waiting for prefill, q / (1 + q) | q requests per GPU |
    | I..2I-1 | prefills in service | per GPU |
    | 2I..3I-1 | prefilled and waiting, q / (1 + q) | q requests per GPU |
    | 3I..4I-1 | decodes on a mixed GPU | per n (B - 1) slots |
    | 4I..5I-1 | decodes on a solo GPU | per n B slots |
    | 5I..8I-1 | wait of the request that each action would take, a / (10 + a) | a seconds |
    | 8I | free slots | share of n B |
    | 8I+1..8I+3 | GPUs open to a solo decode, a mixed decode, a prefill | share of n |

    With G groups of GPUs queues and waits are by class, the other features of classes by class and
    group, and the last two lines by group, per GPU of the group: 5I + 3IG + 4G entries.

    ## Rewards
    Revenue since the last decision / (n * R*), R* the fluid bound: what the bound would take so
    many seconds to earn. The sum over an episode / horizon is its score.
    ``info["elapsed_seconds"]`` is the time since the last decision, for learners of average
    reward or of discounts by time; ``info["revenue"]`` has the terms in currency.
    ``revenue="goodput"``, ``info["deadlines"]``, ``costs`` and ``budgets`` are as in
    ``LLMSched-v0``.

    ## Starting State
    ``start="empty"`` or ``"plan"`` (near the fluid optimum); the first decision is at once, even if
    only a wait is possible. ``reset(options={"start": ...})`` overrides it;
    ``reset(options={"state": env.unwrapped.save_state()})`` continues from a saved state, with
    new randomness.

    ## Episode End
    Truncated at the horizon; never terminated. A step after it, or before the first
    ``reset()``, is an error that says to call ``reset()``.

    ## Arguments
    - ``n_gpus``: cluster size n, default 20.
    - ``render_mode``: ``None``, ``"ansi"`` (a table), ``"rgb_array"`` (GPUs with their slots,
      queues by class and the revenue against R*; 960 x 540 pixels) or ``"human"`` (the same in a
      window after each step, 8 a second; extra ``human``).
    - ``backend``: ``"simulator"`` (default), or ``"serving"``: real engines, on which a step waits
      for the machine (``docs/serving.md``).
    - ``backend_options``: of engines ``shape``, ``device`` and ``clock``.
    - All others are those of :class:`llm_sched_env.envs.event_configuration.EventArguments`.

    ## Version History
    - v0: first version.

    ## Example
    >>> import gymnasium as gym
    >>> import llm_sched_env
    >>> env = gym.make("LLMSchedEvent-v0", instance="overload", n_gpus=3, horizon=10.0)
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(0)  # wait
    >>> info["action_mask"].shape
    (7,)
    """

    def __init__(
        self,
        n_gpus: int = 20,
        *,
        render_mode: str | None = None,
        backend: str = "simulator",
        backend_options: Mapping[str, Any] | None = None,
        **arguments: Unpack[EventArguments],
    ) -> None:
        configuration = EventConfiguration.validated(n_gpus=n_gpus, **arguments)
        super().__init__(event_control(backend, configuration, backend_options), render_mode)

    @property
    def action_names(self) -> list[str]:
        """What each action does."""
        return action_names(self.control.cluster.instance)
