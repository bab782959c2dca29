"""Exact optimum of tiny systems, by dynamic programming on the model's Markov chain."""

from llm_sched_env.exact.cluster_states import IDLE, Gpu
from llm_sched_env.exact.optimal_policy import ClusterState, OptimalPolicy
from llm_sched_env.exact.optimum import Bounds, Optimum, optimum, rule_bounds
from llm_sched_env.exact.tiny_system import Action, TinySystem, tiny_system

__all__ = [
    "IDLE",
    "Action",
    "Bounds",
    "ClusterState",
    "Gpu",
    "OptimalPolicy",
    "Optimum",
    "TinySystem",
    "optimum",
    "rule_bounds",
    "tiny_system",
]
