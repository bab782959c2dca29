"""Learned schedulers: training and checkpoints, installed as ``llm_sched_env.agents``."""
