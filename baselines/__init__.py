"""Reference policies, built as ``llm_sched_env.baselines`` and registered by name."""
