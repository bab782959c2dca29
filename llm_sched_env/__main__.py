"""``python -m llm_sched_env`` is ``llmsched``."""

from llm_sched_env.cli import main

if __name__ == "__main__":
    main()
