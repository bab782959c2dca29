"""Registered tasks: ``gym.make("LLMSched/NAME-v0")``, and policies measured on held-out runs."""

from __future__ import annotations

from llm_sched_env.tasks.evaluation import TaskResult, evaluate_task
from llm_sched_env.tasks.suite import TASKS, task
from llm_sched_env.tasks.task import HeldOut, Task

__all__ = ["TASKS", "HeldOut", "Task", "TaskResult", "evaluate_task", "task"]
