"""``LLMSchedRouting-v0``: the GPU of each request that arrives at one cluster."""

from __future__ import annotations

from typing_extensions import Unpack

from llm_sched_env.envs.decision_env import DecisionEnv
from llm_sched_env.envs.routing_configuration import RoutingArguments, RoutingConfiguration
from llm_sched_env.envs.routing_control import RoutingControl
from llm_sched_env.envs.routing_space import routing_action_names


class LLMSchedRoutingEnv(DecisionEnv[RoutingControl]):
    """Routing of LLM requests to GPUs as they arrive, by prefix caches and by load.

    ## Description
    When a request arrives time stops, and the agent says which GPU it is sent to. There it waits in
    the GPU's own queue, is prefilled and, where the GPU decodes, decoded, as with the routers
    ``join-shortest-queue`` or ``reuse-bid``. GPUs may have prefix caches, groups, roles and links;
    requests may be turns of conversations, which are drawn for each episode. The page
    ``docs/routing.md`` says more.

    ## Action Space
    ``Discrete(2kG)``, k the argument ``candidates`` and G the groups of GPUs that may prefill.
    ``action_masks()`` and ``info["action_mask"]`` say which are possible now; any other is an
    error. ``action_space.sample()`` draws a possible one. Of group g:

    | Num | Action | Possible if |
    |---|---|---|
    | 2kg..2kg+k-1 | to the GPU with the longest match, the second, ... | not among the next |
    | 2kg+k..2kg+2k-1 | to the GPU with the least load, the second, ... | there are so many |

    A match is a prefix of the prompt's blocks that the GPU is known to have, or that was sent to
    it: the longer of the two; a GPU without one is not among the first k. Equal GPUs are in a
    random order, drawn for each request.

    ## Observation Space
    ``Box(0, 1, (I + 7A + 3G,), float32)``, I classes, A actions, G groups of GPUs of any role. All
    of it is what a router knows: as of the last refresh with ``refresh_seconds`` > 0, and what was
    sent since. Output lengths and patience are never shown.

    | Num | Observation | Unit |
    |---|---|---|
    | 0..I-1 | class of the request | 1 for its own, 0 for the others |
    | I..I+A-1 | match of each action's GPU | share of the prompt's blocks |
    | I+A..I+2A-1 | prefill of what does not match, a / (1 + a) | a seconds |
    | I+2A..I+3A-1 | prefills ahead, a / (1 + a) | a seconds |
    | I+3A..I+4A-1 | requests that wait, q / (1 + q) | q per slot |
    | I+4A..I+5A-1 | requests in service | per slot |
    | I+5A..I+6A-1 | prompts in service | share of KV tokens, or of the cache |
    | I+6A..I+7A-1 | age of what would have to go, a / (60 + a), 1 with room | a seconds |
    | I+7A..I+7A+3G-1 | requests that wait, in service, and KV use, by group | as above |

    An action without a GPU shows zeros.

    ## Rewards
    Revenue since the last decision / (n * R*), R* the fluid bound: what the bound would take so
    many seconds to earn. The sum over an episode / horizon is its score; what is earned before the
    first arrival belongs to the first step. ``info["elapsed_seconds"]``, ``info["revenue"]``,
    ``revenue="goodput"`` and ``info["deadlines"]`` are as in ``LLMSchedEvent-v0``.

    ## Starting State
    ``start="empty"`` or ``"plan"`` (near the fluid optimum, with empty caches), and on to the first
    arrival. ``reset(options={"start": ...})`` overrides it;
    ``reset(options={"state": env.unwrapped.save_state()})`` continues from a saved state, with new
    randomness; conversations go on as they were drawn, and other ones follow after their end.

    ## Episode End
    Truncated at the horizon; never terminated. No request waits to be sent then, nor if none
    arrives before: one action is possible, and sends nothing. A step after the end, or before the
    first ``reset()``, is an error that says to call ``reset()``.

    ## Arguments
    - ``n_gpus``: cluster size n, default 20.
    - ``render_mode``: ``None``, ``"ansi"`` (a table), ``"rgb_array"`` (GPUs with their slots,
      queues by class and the revenue against R*; 960 x 540 pixels) or ``"human"`` (the same in a
      window after each step, 8 a second; extra ``human``).
    - All others are those of :class:`llm_sched_env.envs.routing_configuration.RoutingArguments`.

    ## Version History
    - v0: first version.

    ## Example
    >>> import gymnasium as gym
    >>> import llm_sched_env
    >>> env = gym.make("LLMSchedRouting-v0", instance="base", n_gpus=3, candidates=2, horizon=10.0)
    >>> observation, info = env.reset(seed=0)
    >>> info["gpus"].shape, info["action_mask"].tolist()  # nobody has a cache: no GPU matches
    ((4,), [0, 0, 1, 1])
    >>> observation, reward, terminated, truncated, info = env.step(2)  # to the least loaded
    """

    def __init__(
        self,
        n_gpus: int = 20,
        *,
        render_mode: str | None = None,
        **arguments: Unpack[RoutingArguments],
    ) -> None:
        configuration = RoutingConfiguration.validated(n_gpus=n_gpus, **arguments)
        super().__init__(RoutingControl(configuration), render_mode)

    @property
    def action_names(self) -> list[str]:
        """What each action does."""
        candidates = self.control.configuration.candidates
        return routing_action_names(self.control.cluster.instance, candidates)
