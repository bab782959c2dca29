"""Write the measured table of docs/serving.md: profile, serve and simulate on this machine.

``python -m research.pages.update_serving [CLOCK ...]`` takes some minutes. Each run fits a hardware
anew and serves other requests, so that the errors are those that a user will find.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_sched_env.calibration.iteration_log import read_iteration_logs
from llm_sched_env.files.atomic import write_rows, write_whole
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.presets import base
from llm_sched_env.serving.profiling import Profile, device_name, profile
from llm_sched_env.serving.real_machine import Iteration
from llm_sched_env.serving.serve import Server
from llm_sched_env.serving.served import ITERATION_HEADER, iteration_row, processor_share
from llm_sched_env.validation.validate import validate

ROOT = Path(__file__).parents[2]
PAGE, ROWS = ROOT / "docs" / "serving.md", ROOT / "research" / "results" / "serving.csv"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
RUNS, PROFILE_SECONDS, SECONDS, LIMIT = 5, 60.0, 60.0, 0.15
CLOCKS = ("processor", "wall")
SIZES: dict[str, Any] = {"batch_slots": 8, "chunk_tokens": 64, "tokens": 1024}
# Mean prompt and output tokens, requests per second: slots are free most of the time.
CLASSES = ((60.0, 60.0, 2.0), (250.0, 20.0, 2.0))
FIGURES = ("revenue_rate", "ttft", "tpot", "e2e")


def main(clocks: Sequence[str] = CLOCKS) -> None:
    """Measure by the clocks, and write after each run; rows by other clocks stay."""
    rows = [row for row in read_rows() if row["clock"] not in clocks]
    for clock in clocks:
        for run in range(RUNS):
            rows.append(_measured(run, clock))
            write_rows(ROWS, list(rows[-1]), rows)
    write_page(rows)


def write_page(rows: list[dict[str, Any]]) -> None:
    """Put the table of rows, as measured or as read from their file, between the marks."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    write_whole(PAGE, f"{before}{BEGIN}\n{_table(rows)}\n{END}{after}")


def read_rows() -> list[dict[str, Any]]:
    """The rows of the last measurement."""
    with ROWS.open(encoding="utf-8", newline="") as file:
        return [
            {k: v if k in {"clock", "policy", "device"} else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def _measured(run: int, clock: str) -> dict[str, Any]:
    """Profile, serve under a rule, simulate the same requests."""
    given = base()
    classes = tuple(
        dataclasses.replace(c, prompt_tokens=p, output_tokens=d, arrival_rate=rate)
        for c, (p, d, rate) in zip(given.classes, CLASSES, strict=True)
    )
    policy = ("fcfs-immediate", "gate-and-route")[run % 2]
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, Any] = {"seconds": PROFILE_SECONDS, "seed": run, "clock": clock}
        found = profile("tiny", "cpu", Path(folder), **SIZES, **times)
        hardware = found.hardware_file().hardware
    instance = dataclasses.replace(given, classes=classes, name="chat")
    options: dict[str, Any] = {"seconds": SECONDS, "seed": run, "clock": clock}
    with Server("tiny", "cpu", instance=instance, hardware=hardware, **options) as server:
        served = server.serve(policy)
        same = server.replayed(served, policy) is None
        engine = server.instance.only_hardware
    last = min(SECONDS, served.run.last_event)
    result = validate(served.run, engine, 1, policy, horizon=last, prices=given.prices, seed=run)
    # The same at the speed that the machine had in the run: what is left is the model's.
    fitted, slower = _at_speed_of_run(found, served.iterations[0])
    sizes = (engine.chunk_tokens, engine.batch_slots)
    how = {name: getattr(engine, name) for name in ("kv_tokens", "starts", "padded_chunks")}
    assert fitted.solo is not None
    assert fitted.mixed is not None
    own = Hardware.kv_aware(fitted.solo, fitted.mixed, *sizes, **how)
    at_own_speed = validate(served.run, own, 1, policy, horizon=last, prices=given.prices, seed=run)
    row: dict[str, Any] = {
        "clock": clock,
        "run": run + 1,
        "policy": policy,
        "device": device_name("cpu"),
        "requests": len(served.run),
        "iterations": sum(map(len, served.iterations)),
        "decisions": len(served.decisions),
        "replayed": float(same),
        "profile_share": processor_share(found.loads),
        "run_share": processor_share(served.iterations[0]),
        "slower": slower,
    }
    for name in FIGURES:
        sides = {
            "measured": result.measured,
            "simulated": result.simulated,
            "own_speed": at_own_speed.simulated,
        }
        for side, figures in sides.items():
            value = getattr(figures, name)
            row[f"{name}_{side}"] = value if name == "revenue_rate" else value.mean
    return row


def _at_speed_of_run(found: Profile, iterations: Sequence[Iteration]) -> tuple[Hardware, float]:
    """The hardware whose law gives a run its time in all, and how much slower it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "iterations.csv"
        write_rows(path, ITERATION_HEADER, map(iteration_row, iterations))
        log = read_iteration_logs([path])
    law = found.calibration.fit.seconds(log)
    solo, mixed = found.factors
    expected = law * np.where(log.mixed, mixed, solo)
    hardware = found.hardware_file(found.factors_of(log)).hardware
    return hardware, float(log.seconds.sum() / expected.sum()) - 1.0


def error(row: dict[str, Any], figure: str, side: str = "simulated") -> float:
    """Simulated / measured - 1."""
    return float(row[f"{figure}_{side}"]) / float(row[f"{figure}_measured"]) - 1.0


def _table(rows: list[dict[str, Any]]) -> str:
    header = (
        "| clock | run | policy | requests | decisions | processor, profile and run | revenue "
        "| mean TTFT | mean TPOT | mean e2e | iterations slower than in the profile "
        "| at that speed: mean TTFT | mean TPOT |"
    )
    lines = [
        header,
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for clock in CLOCKS:
        lines += [_line(row) for row in rows if row["clock"] == clock]
    clocks = [clock for clock in CLOCKS if any(row["clock"] == clock for row in rows)]
    counts = "; ".join(_summary(clock, rows) for clock in clocks)
    drawn = [abs(error(row, f, "own_speed")) for row in rows for f in ("ttft", "tpot")]
    summary = (
        f"`tiny` on {rows[0]['device']}; errors are simulated / measured - 1. Revenue, mean TTFT "
        f"and mean TPOT were all within {LIMIT:.0%} in {counts}. At the speed that the machine had "
        f"in the run itself the largest error of TTFT and TPOT is {max(drawn):.1%}."
    )
    return "\n".join([*lines, "", summary])


def _line(row: dict[str, Any]) -> str:
    errors = " | ".join(f"{error(row, figure):+.1%}" for figure in FIGURES)
    replayed = "the same" if row["replayed"] else "others"
    shares = "-"
    if row["clock"] == "wall":
        shares = f"{row['profile_share']:.0%}, {row['run_share']:.0%}"
    at_own_speed = " | ".join(f"{error(row, f, 'own_speed'):+.1%}" for f in ("ttft", "tpot"))
    return (
        f"| {row['clock']} | {row['run']:.0f} | `{row['policy']}` | {row['requests']:.0f} | "
        f"{row['decisions']:.0f}, {replayed} | {shares} | {errors} | {row['slower']:+.1%} | "
        f"{at_own_speed} |"
    )


def _summary(clock: str, rows: list[dict[str, Any]]) -> str:
    """How many runs by a clock were within the limit, and the largest error."""
    wanted = ("revenue_rate", "ttft", "tpot")
    own = [row for row in rows if row["clock"] == clock]
    within = sum(all(abs(error(row, f)) <= LIMIT for f in wanted) for row in own)
    worst = max(abs(error(row, f)) for row in own for f in wanted)
    return f"{within} of {len(own)} runs by the {clock}'s clock, the largest error {worst:.1%}"


if __name__ == "__main__":
    main(sys.argv[1:] or CLOCKS)
