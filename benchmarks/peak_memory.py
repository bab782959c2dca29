"""Measure the peak memory of a large cluster in a process that does nothing else.

Run as a module it reads an instance (JSON) from standard input and prints the peak.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from llm_sched_env.benchmarks.engine_cluster import GATE_AND_ROUTE
from llm_sched_env.errors import WorkerError
from llm_sched_env.model.instance import Instance
from llm_sched_env.simulation.state.fresh_state import cluster_bytes
from llm_sched_env.simulation.state.memory import require_memory

# Near the plan from the start, so that a short run has every place filled.
_SIMULATED_SECONDS = 5.0


@dataclass(frozen=True)
class MemoryUse:
    """Peak resident memory of a run, bytes (None where the OS does not tell), and its events."""

    n_gpus: int
    events: int
    peak_bytes: int | None


def measure_memory(instance: Instance, n_gpus: int, seed: int = 0) -> MemoryUse:
    """Run the engine for 5 simulated seconds near the plan, in a process of its own.

    Raises:
        InsufficientMemoryError: for more GPUs than fit into memory.
        WorkerError: if the process ended without a result.
    """
    # Beside the cluster lies a fresh one, from which it starts.
    needed = 2 * cluster_bytes(instance, GATE_AND_ROUTE, n_gpus, latencies=True)
    require_memory(needed, f"{n_gpus:,} GPUs")
    command = [sys.executable, "-m", __name__, str(n_gpus), str(seed)]
    text = json.dumps(instance.to_dict())
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else "was it killed, or out of memory?"
        raise WorkerError(f"the run of {n_gpus:,} GPUs that measures memory failed ({reason})")
    return MemoryUse(**json.loads(done.stdout))


def _peak_bytes() -> int | None:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that includes the process that started this one.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _main() -> None:
    from llm_sched_env.benchmarks.engine_cluster import EngineCluster
    from llm_sched_env.planning import plan

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n_gpus", type=int)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    instance = Instance.from_dict(json.load(sys.stdin))
    cluster = EngineCluster(
        instance, plan(instance), arguments.n_gpus, arguments.seed, at_plan=True
    )
    events = cluster.advance(_SIMULATED_SECONDS)
    print(json.dumps({"n_gpus": arguments.n_gpus, "events": events, "peak_bytes": _peak_bytes()}))


if __name__ == "__main__":
    _main()
