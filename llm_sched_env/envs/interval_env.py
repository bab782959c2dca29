"""``LLMSched-v0``: fixed-step control of one cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
from typing_extensions import Unpack

from llm_sched_env.envs.actions import as_actions
from llm_sched_env.envs.cluster_env import ClusterEnv
from llm_sched_env.envs.configuration import IntervalArguments, IntervalConfiguration
from llm_sched_env.envs.interval import IntervalControl
from llm_sched_env.plugins.deprecated_names import renamed_arguments


class LLMSchedEnv(ClusterEnv[np.ndarray, IntervalControl]):
    """Admission and routing of LLM requests on a cluster with prefill-decode contention.

    ## Description
    Requests of I classes arrive at n GPUs, wait, are prefilled, and decode. A running prefill
    slows every decode on its GPU. Each interval the agent sets how fast every class is
    admitted, where its decodes go, and how many GPUs may prefill; a compiled dispatcher works
    event by event inside the interval. The model is that of Lin, Ding, Han and Zhang
    (arXiv 2602.02987).

    ## Action Space
    ``Box(0, 1, (2I + 1,), float32)``, with ``gate="net-value"`` ``(3I + 1,)``; with ``controls``
    only the parts named there.

    | Num | Action | Min | Max | Unit |
    |---|---|---|---|---|
    | 0..I-1 | admission rate of class i | 0 | 1 | fraction of its arrival rate |
    | I..2I-1 | routing of class i to the solo pool | 0 | 1 | probability |
    | 2I | mixed pool | 0 | 1 | fraction of the GPUs, rounded up |

    With ``gate="net-value"`` there are no admission rates:

    | Num | Action | Min | Max | Unit |
    |---|---|---|---|---|
    | 0..I-1 | routing of class i to the solo pool | 0 | 1 | probability |
    | I | mixed pool | 0 | 1 | fraction of the GPUs, rounded up |
    | I+1..2I | priority of class i | 0 | 1 | greatest first |
    | 2I+1..3I | reserve of class i, r / (1 + r) | 0 | 1 | r free slots, or it waits; 1: for ever |

    The fluid plan is a constant action, ``env.unwrapped.plan_action``; with ``net-value`` as gate
    and router and dynamic pools it is the policy ``trunk-reservation``, whose ranks of decodes
    stay the plan's. The routing part has no effect unless the router is ``randomized`` or
    ``weighted-randomized``, nor the pool part with ``pools="dynamic"``; leave them out with
    ``controls``. Actions outside [0, 1] are an error.

    With G groups of GPUs every "of class i" above is by class and group, class-major: I G entries,
    of which i G + g is class i in group g. Admission is the share of the class's arrivals that the
    group prefills, routing its share of the class's decodes, and there is a mixed pool for each
    group, a fraction of its GPUs.

    ## Observation Space
    ``Box(0, 1, (6I + 4,), float32)``, per GPU, so that a policy moves between cluster sizes.

    | Num | Observation | Unit |
    |---|---|---|
    | 0..I-1 | waiting for prefill, q / (1 + q) | q requests per GPU |
    | I..2I-1 | prefills in service | per GPU |
    | 2I..3I-1 | prefilled and waiting, q / (1 + q) | q requests per GPU |
    | 3I..4I-1 | decodes on a mixed GPU | per n (B - 1) slots |
    | 4I..5I-1 | decodes on a solo GPU | per n B slots |
    | 5I..6I-1 | credit of the token bucket | of 3 admissions |
    | 6I | free slots | share of n B |
    | 6I+1..6I+3 | GPUs open to a solo decode, a mixed decode, a prefill | share of n |

    With G groups of GPUs queues are by class, the other features of classes by class and group,
    class-major, and the last two lines by group, per GPU of the group: 2I + 4IG + 4G entries.

    ## Rewards
    Revenue of the interval / (n * interval * R*), R* the fluid bound: the mean reward over a
    long episode is the score. ``info["revenue"]`` has its terms ``prompt`` and ``output`` in
    currency; ``info["arrivals"]`` how many requests of each class arrived, ``info["counts"]`` how
    many are at each station now (int64, shape (5, I), rows as in the
    observation; with groups (5, I G), queues at the first group),
    ``info["time"]`` the seconds since the start. With changing arrival rates, mean rewards over
    whole periods are the score. With service levels the reward is revenue less their penalties on
    the same scale; ``info["slos"]`` has what each comes to in the interval (time averages) and
    ``info["penalties"]`` what each with a price costs, in currency. With ``revenue="goodput"``
    only requests that met the deadlines of their class are paid, at completion; where the instance
    has deadlines, ``info["deadlines"]`` counts by class the completed requests of the interval that
    were ``good``, and those with a late first token (``late_ttft``) or slow ones (``late_tpot``).

    With ``costs`` or ``budgets`` (``docs/constraints.md``) ``info["costs"]`` has what the interval
    adds to each cost of the episode, and ``info["cost"]`` their sum, as Safety-Gymnasium has it;
    neither changes the reward. ``env.unwrapped.budgets`` has the budgets, and
    ``env.unwrapped.constrained_plan`` the most that can be earned under them.

    ## Starting State
    ``start="empty"`` or ``"plan"`` (near the fluid optimum). ``reset(options={"start": ...})``
    overrides it; ``reset(options={"state": env.unwrapped.save_state()})`` continues from a
    saved state, with new randomness.

    ## Episode End
    Truncated after the interval that reaches the horizon; never terminated. A step after it, or
    before the first ``reset()``, is an error that says to call ``reset()``.

    ## Arguments
    - ``n_gpus``: cluster size n, default 20.
    - ``render_mode``: ``None``, ``"ansi"`` (a table), ``"rgb_array"`` (GPUs with their slots,
      queues by class and the revenue against R*; 960 x 540 pixels) or ``"human"`` (the same in a
      window after each step, 8 a second; extra ``human``).
    - All others are those of :class:`llm_sched_env.envs.configuration.IntervalArguments`.

    ## Version History
    - v0: first version.

    ## Example
    >>> import gymnasium as gym
    >>> import llm_sched_env
    >>> env = gym.make("LLMSched-v0", instance="overload", n_gpus=3, horizon=10.0)
    >>> observation, info = env.reset(seed=0)
    >>> observation, reward, terminated, truncated, info = env.step(env.unwrapped.plan_action)
    >>> observation.shape, info["counts"].shape
    ((16,), (5, 2))
    """

    @renamed_arguments(slis="slos")
    def __init__(
        self,
        n_gpus: int = 20,
        *,
        render_mode: str | None = None,
        **arguments: Unpack[IntervalArguments],
    ) -> None:
        configuration = IntervalConfiguration.validated(n_gpus=n_gpus, **arguments)
        super().__init__(IntervalControl(configuration), render_mode)
        self.action_space = self.control.action_space

    @property
    def plan_action(self) -> np.ndarray:
        """The fluid plan as a constant action; float32, shape of the action space."""
        return self.control.plan_action

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold the action for one interval; raises EpisodeError where no episode runs."""
        return super().step(as_actions(action, self.action_space.shape or ()))
