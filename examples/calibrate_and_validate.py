"""From an engine's log to a hardware file, and how far to trust it.

``python examples/calibrate_and_validate.py ITERATIONS.csv REQUESTS.csv`` fits a GPU to the log of
its iterations and sets a measured run beside its simulation (docs/calibration.md has the columns).
Without files it logs a small engine in Python first, whose iterations take the time of a law that
the fit does not know, with 3% of noise: one run to fit, another, busier one to validate.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections import deque
from pathlib import Path

import numpy as np

import llm_sched_env as lse

CHUNK, SLOTS, SECONDS = 512, 32, 60.0


def iteration_seconds(chunk: int, decodes: int, kv_tokens: int) -> float:
    """How long the engine's iterations take; the fit has to find it out."""
    if chunk:
        return 0.016 + 1.6e-4 * decodes + 1.2e-8 * kv_tokens
    return 0.008 + 9e-5 * decodes + 1.4e-8 * kv_tokens


def log_engine(folder: Path, name: str, rate: float, seed: int) -> tuple[Path, Path]:
    """Serve requests first come, first served; the logs of its iterations and of its requests."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, round(rate * SECONDS))).tolist()
    prompts = rng.integers(100, 1500, len(arrivals)).tolist()
    outputs = rng.integers(50, 400, len(arrivals)).tolist()
    iterations, story = [], [["", "", ""] for _ in arrivals]
    queue = deque(range(len(arrivals)))
    prefill, cached, decodes, now = None, 0, {}, 0.0  # decodes: tokens that each has made
    while queue or prefill is not None or decodes:
        if prefill is None and not decodes:
            now = max(now, arrivals[queue[0]])
        if prefill is None and queue and arrivals[queue[0]] <= now and len(decodes) < SLOTS:
            prefill, cached = queue.popleft(), 0
            story[prefill][0] = now
        chunk = 0 if prefill is None else min(CHUNK, prompts[prefill] - cached)
        context = sum(prompts[k] + made for k, made in decodes.items())
        seconds = iteration_seconds(chunk, len(decodes), context) * rng.normal(1.0, 0.03)
        iterations.append((now, seconds, chunk, cached if chunk else 0, len(decodes), context))
        now += seconds
        decodes = {k: made + 1 for k, made in decodes.items()}
        for k in [k for k, made in decodes.items() if made == outputs[k]]:
            story[k][2] = now
            del decodes[k]
        if prefill is not None:
            cached += chunk
            if cached == prompts[prefill]:
                story[prefill][1] = now
                prefill, decodes = None, {**decodes, prefill: 0}
    logs = folder / f"{name}_iterations.csv", folder / f"{name}_requests.csv"
    header = "start_seconds,seconds,prefill_tokens,prefill_context,decodes,kv_tokens"
    write(logs[0], header, iterations)
    header = (
        "id,arrival_seconds,class,prompt_tokens,output_tokens,patience_seconds,outcome,"
        "prefill_start,first_token,end"
    )
    requests = zip(arrivals, prompts, outputs, story, strict=True)
    write(
        logs[1],
        header,
        [(k, t, 0, p, d, 1e9, "completed", *s) for k, (t, p, d, s) in enumerate(requests)],
    )
    return logs


def write(path: Path, header: str, rows: list[tuple[object, ...]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)


def main(files: list[str]) -> None:
    """Print the fitted law, its held-out errors, and latencies measured and simulated."""
    with tempfile.TemporaryDirectory() as folder:
        if files:
            iterations, requests = map(Path, files)
        else:
            iterations, _ = log_engine(Path(folder), "fitted", rate=1.5, seed=0)
            _, requests = log_engine(Path(folder), "other", rate=2.5, seed=1)

        # Fit the KV-aware law: solo iterations, and those with a chunk of a prompt.
        found = lse.calibrate_logs([iterations], chunk_tokens=CHUNK, batch_slots=SLOTS)
        solo, mixed = found.hardware.solo, found.hardware.mixed
        assert solo is not None
        assert mixed is not None
        print(f"solo  {solo.seconds:.5f} s + {solo.per_decode:.2e} s per decode")
        print(f"mixed {mixed.seconds:.5f} s + {mixed.per_decode:.2e} s per decode")

        # Replay the arrivals and lengths of a run that it has not seen.
        compared = lse.validate(requests, found.hardware, n_gpus=1, policy="fcfs-immediate")
        for name in ("ttft", "tpot", "e2e"):
            measured = getattr(compared.measured, name)
            simulated = getattr(compared.simulated, name)
            print(
                f"{name}: mean {measured.mean:.4f} s measured, {simulated.mean:.4f} s simulated "
                f"({100 * (simulated.mean / measured.mean - 1):+.1f}%)"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
