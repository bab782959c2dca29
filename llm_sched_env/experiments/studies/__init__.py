"""One study a file; :mod:`llm_sched_env.experiments.registry` lists them."""
