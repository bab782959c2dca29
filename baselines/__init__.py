"""Reference policies, installed as ``llm_sched_env.baselines`` and registered by name."""
