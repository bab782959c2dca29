"""Learned schedulers: training and checkpoints, built as ``llm_sched_env.agents``."""
