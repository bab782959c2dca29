"""The registered tasks, from those that rules solve to those that leave room."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.presets import base
from llm_sched_env.tasks.delayed_observations import DelayedObservations
from llm_sched_env.tasks.hidden_hardware import HiddenHardware
from llm_sched_env.tasks.replays import Replay
from llm_sched_env.tasks.task import HINDSIGHT, INTERVAL, ROUTING, HeldOut, Task
from llm_sched_env.tasks.task_instances import mooncake_cluster, sessions

RANKS: Mapping[str, Any] = MappingProxyType(
    {
        "gate": "net-value",
        "router": "net-value",
        "pools": "dynamic",
        "controls": ("priority", "reserve"),
        "interval": 1.0,
        "horizon": 300.0,
        "start": "plan",
    }
)
"""Arguments of tasks at intervals: the agent ranks classes and keeps slots free for the best."""
DEADLINES: Mapping[str, Any] = MappingProxyType(
    {
        **RANKS,
        "instance": "deadlines-bursts",
        "n_gpus": 5,
        "revenue": "goodput",
        "drop_late": True,
    }
)
"""... where good answers alone are paid for, and who cannot be in time is dropped."""
SERVING = (
    "fcfs-immediate",
    "fcfs-and-route",
    "static-priority",
    "priority-fcfs",
    "sjf",
    "join-shortest-queue",
    "least-loaded",
    "power-of-two-choices",
    "round-robin",
)
"""What serving systems do."""
RULES = (
    "gate-and-route",
    "trunk-reservation",
    "token-bucket",
    "gate-prefill-first",
    "gate-immediate",
    "prioritize-and-route",
)
MPC = ("fluid-mpc-estimated",)
"""A rule that plans anew every second, at milliseconds a decision: where traffic is not known."""
SPLIT_SERVING = tuple(name for name in SERVING if name not in {"fcfs-immediate", "static-priority"})
"""Of serving systems, those that move a request from the GPU of its prefill."""
ROUTERS = (
    "random",
    "join-shortest-queue",
    "least-loaded",
    "session-affinity",
    "weighted",
    "weighted:prefix-affinity=2,queue-depth=1,kv-utilization=1",
)
REUSE_RULES = ("gate-and-route", "trunk-reservation", "earliest-finish", "reuse-bid")
AGENTS = "llm_sched_env.agents.task_agents"
"""Where the agents are that ship for the tasks."""


def _tasks() -> tuple[Task, ...]:
    return (
        Task(
            "Overload5",
            "the paper's overload on 5 GPUs",
            "Two classes ask for twice what the cluster can serve. The fluid plan says whom to "
            "prefer; what is left to learn is how many slots to keep free for them, which matters "
            "most where GPUs are few.",
            INTERVAL,
            {**RANKS, "instance": "overload", "n_gpus": 5},
            SERVING,
            RULES,
            ("learned", f"{AGENTS}:overload"),
        ),
        Task(
            "Overload200",
            "the paper's overload on 200 GPUs",
            "The same at a size where the fluid plan is nearly exact: an algorithm that does not "
            "reach the rules here has a fault.",
            INTERVAL,
            {**RANKS, "instance": "overload", "n_gpus": 200},
            SERVING,
            RULES,
            ("learned",),
            held_out=HeldOut(horizon=400.0, warmup=150.0, replications=4),
        ),
        Task(
            "Bursts",
            "bursts of chat and of reading in turn",
            "Either class comes at four times its quiet rate for half a minute now and then, by "
            "chance. The agent has to notice a burst, and to prepare for one that may come.",
            INTERVAL,
            {**RANKS, "instance": "bursts", "n_gpus": 5},
            SERVING,
            RULES + MPC,
            ("learned", f"{AGENTS}:bursts"),
            bound=HINDSIGHT,
            held_out=HeldOut(horizon=900.0, warmup=200.0, replications=16),
        ),
        Task(
            "AzureReplay",
            "an hour of Azure's traffic, replayed",
            "Requests of the Azure LLM inference trace of 2023, conversations and code. An episode "
            "is five minutes of the first half hour; policies are measured on the second, which "
            "they do not know. Nothing is Markovian here, and the mix drifts.",
            INTERVAL,
            {**RANKS, "n_gpus": 5},
            SERVING,
            RULES + MPC,
            ("learned", f"{AGENTS}:azure_replay"),
            Replay(
                "AzureLLMInferenceTrace",
                ("AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_code.csv"),
                base,
                n_gpus=5,
                # Then the second half asks for 1.1 times what can be served.
                speed=2.6247,
            ),
            held_out=HeldOut(horizon=None, warmup=0.0, replications=8),
        ),
        Task(
            "Deadlines",
            "good answers alone are paid for, in bursts",
            "Chat whose first token is due in a second, beside patient batch work, in bursts of "
            "either. Who cannot be in time is dropped. Highest net value first is too late for "
            "chat, earliest deadline first starves batch work: the best mix depends on the moment.",
            INTERVAL,
            dict(DEADLINES),
            (*SERVING, "earliest-deadline-first"),
            (*RULES, "slo-reserve"),
            ("learned", f"{AGENTS}:deadlines"),
            bound=HINDSIGHT,
            held_out=HeldOut(horizon=900.0, warmup=200.0, replications=16),
        ),
        Task(
            "MixedFleet",
            "two generations of GPUs",
            "Chat, documents and reasoning on H100s beside A100s, above capacity. The agent ranks "
            "pairs of a class and a kind of GPU, and says which share of a class decodes where.",
            INTERVAL,
            {
                **RANKS,
                "controls": ("routing", "priority", "reserve"),
                "instance": "mixed-fleet",
                "n_gpus": 20,
            },
            SERVING,
            RULES,
            held_out=HeldOut(horizon=300.0, warmup=120.0, replications=4),
        ),
        Task(
            "Disaggregated",
            "GPUs that only prefill, GPUs that only decode",
            "Two of five GPUs prefill and three decode; a KV cache moves over a link in between. "
            "Whoever is prefilled needs a decode slot later: the agent holds prompts back in time.",
            INTERVAL,
            {**RANKS, "instance": "disaggregated", "n_gpus": 20},
            SPLIT_SERVING,
            RULES,
            held_out=HeldOut(horizon=300.0, warmup=120.0, replications=4),
        ),
        Task(
            "SessionRouting",
            "conversations on GPUs with prefix caches",
            "Every request goes to a GPU when it comes: to one that has its conversation, or to "
            "one that is free. Answers count if their first token is in time. The agent routes "
            "request by request.",
            ROUTING,
            {"instance": sessions(), "n_gpus": 8, "revenue": "goodput", "horizon": 200.0},
            ROUTERS,
            REUSE_RULES,
            (),
            held_out=HeldOut(horizon=400.0, warmup=100.0, replications=6),
        ),
        Task(
            "MooncakeRouting",
            "an hour of Mooncake's conversations, replayed",
            "The same on the recorded conversations of Mooncake: an episode is a stretch of the "
            "first half hour, policies are measured on the second. Prompts are long, and so is "
            "what a cache saves.",
            ROUTING,
            {"n_gpus": 8, "revenue": "goodput", "horizon": 200.0},
            ROUTERS,
            REUSE_RULES,
            (),
            Replay(
                "mooncake_conversation_trace",
                ("mooncake_conversation_trace.jsonl",),
                mooncake_cluster,
                n_gpus=8,
                speed=2.0,
            ),
            held_out=HeldOut(horizon=None, warmup=0.0, replications=8),
        ),
        Task(
            "HiddenHardware",
            "speeds of the GPUs that nobody tells",
            "The seconds of iterations with a prefill and without one are drawn for each episode, "
            "between half and twice what is named. The agent has to find out how fast its GPUs "
            "are, and what that means for the classes.",
            INTERVAL,
            {**RANKS, "instance": "dolly15k", "n_gpus": 5},
            SERVING,
            RULES,
            ("learned",),
            HiddenHardware(mixed_seconds=(0.5, 2.0), solo_seconds=(0.5, 2.0)),
            held_out=HeldOut(horizon=600.0, warmup=200.0, replications=16),
        ),
        Task(
            "DelayedObservations",
            "deadlines and bursts that are seen ten seconds late",
            "The task Deadlines, where the agent is shown the cluster as it was ten seconds ago: "
            "it has to act on what it remembers and expects. The dispatcher, and compiled rules, "
            "are inside the cluster and see it as it is.",
            INTERVAL,
            dict(DEADLINES),
            (*SERVING, "earliest-deadline-first"),
            (*RULES, "slo-reserve"),
            (),
            DelayedObservations(intervals=10),
            bound=HINDSIGHT,
            held_out=HeldOut(horizon=900.0, warmup=200.0, replications=16),
        ),
    )


TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _tasks()})
"""All tasks by name; ``gym.make("LLMSched/NAME-v0")`` makes their environments."""


def task(name: str) -> Task:
    """The task of a name, with or without ``LLMSched/`` and ``-v0``.

    Raises:
        ConfigurationError: for a name that no task has.

    Example:
        >>> task("LLMSched/Bursts-v0") is task("Bursts")
        True
    """
    short = name.removeprefix("LLMSched/").removesuffix("-v0") if isinstance(name, str) else name
    if short not in TASKS:
        raise ConfigurationError("task", name, f"one of {', '.join(TASKS)}")
    return TASKS[short]
