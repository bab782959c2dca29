"""Replay a trace under two policies, with the same requests for both.

Give it trace files of any known format (docs/traces.md):
``python examples/replay_trace.py conversation.csv code.csv``. Without files it first simulates
five minutes of the preset ``bursts`` and saves their requests as a trace, which shows how to make
one. A file of some thousand requests takes some seconds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import llm_sched_env as lse


def recorded_bursts(folder: Path) -> Path:
    """The requests of a simulated run, as a file."""
    path = folder / "bursts.csv.gz"
    lse.requests_of_run("bursts", n_gpus=5, horizon=300.0).save(path)
    return path


def main(files: list[str]) -> None:
    """Print revenue and latencies of a serving system's rule and of trunk reservation."""
    with tempfile.TemporaryDirectory() as folder:
        trace = lse.load_traces(files or [str(recorded_bursts(Path(folder)))])
    print(f"{len(trace.arrival_time)} requests of the classes {', '.join(trace.class_names)}")
    for policy in ("fcfs-immediate", "trunk-reservation"):
        result = lse.evaluate(policy, trace=trace, n_gpus=5, replications=1)
        print(
            f"{policy:18s} {result.score.mean:.3f} of R*, "
            f"TTFT p99 {result.ttft.p99:.1f} s, TPOT p99 {1000 * result.tpot.p99:.0f} ms"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
