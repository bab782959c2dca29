"""``python -m llm_sched_env`` is ``llmsched``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``llmsched``: Ctrl-C is one line also while the package loads, which takes seconds."""
    try:
        from llm_sched_env.cli import main as run
    except KeyboardInterrupt:
        print("llmsched: interrupted; the same command starts anew", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
