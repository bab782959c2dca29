"""Sizes and rates by hand, the same wherever and however often they are computed."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.evaluate import evaluate
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware, load_hardware
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.extrapolation import extrapolation_notes
from llm_sched_env.sizing.judged import Candidate, GpuKind, judge
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.served_case import compiled_policy
from llm_sched_env.sizing.size import max_rate, size
from llm_sched_env.sizing.workload import instance_workload, trace_workload
from llm_sched_env.workloads.trace import Trace

# A prefill of 256 tokens takes a second, an output token next to nothing.
BY_HAND = GpuKind("by hand", Hardware(0.0, 1.0 / 256, 1000.0, 256, 4), price=2.0)
SURE = Requirement("share", 1.0, confidence=0.5)


def arrivals(every: float, at_once: int, count: int = 40) -> Trace:
    times = np.repeat(np.arange(count) * every, at_once)
    ones = np.ones(len(times))
    return Trace(("a",), times, 0 * ones, 256 * ones, ones, end=count * every)


def test_fewest_gpus_by_hand():
    """Five prefills of a second arrive at once, due in 2.5 s: two a GPU, so three GPUs."""
    workload = trace_workload(arrivals(10.0, 5), Deadlines(ttft_seconds=2.5))
    found = size(
        workload, [BY_HAND], Requirement("share", 0.95, confidence=0.9), policies=["FI-WSP"]
    )
    (kind,) = found.kinds
    assert kind.best.n_gpus == 3
    assert kind.best.good.mean == 1.0
    assert kind.bound.n_gpus <= 3
    assert kind.best.cost_per_hour == 6.0
    tokens_per_hour = 257 * 5 / 10 * 3600
    assert kind.best.cost_per_million_tokens == pytest.approx(6.0 / tokens_per_hour * 1e6)
    two = [row for row in kind.rows if row.n_gpus == 2]
    assert all(row.good.mean == pytest.approx(0.8) for row in two)


def test_highest_rate_by_hand():
    """One prefill of a second at a time: no more than 3 a second on three GPUs."""
    workload = trace_workload(arrivals(1.0, 1, 600), Deadlines(ttft_seconds=1.5, tpot_seconds=0.5))
    found = max_rate(
        workload, BY_HAND, 3, Requirement("share", 0.99, confidence=0.6), policies=["FI-WSP"]
    )
    assert found.best.rate == pytest.approx(3.0, rel=0.03)
    assert found.best.rate < found.missed <= found.bound
    assert found.bound == pytest.approx(3.0, rel=0.02)


def test_queues_that_grow_are_no_rate_to_sustain():
    """Without a deadline that says so: 60 s of patience at the end hide a growing queue."""
    workload = trace_workload(
        arrivals(1.0, 1, 300), Deadlines(ttft_seconds=200.0, tpot_seconds=60.0)
    )
    found = max_rate(
        workload, BY_HAND, 1, Requirement("share", 0.5, confidence=0.6), policies=["FI-WSP"]
    )
    assert 0.9 < found.best.rate < 1.05
    assert found.bound == pytest.approx(2.0, rel=0.02)
    unstable = [row for row in found.rows if row.rate > 1.1]
    assert unstable
    assert all(row.falls_behind > 0.01 and row.verdict == "missed" for row in unstable)


def test_counts_are_those_of_evaluate():
    """The same trace, patience and policy: the engine's own counts of good requests."""
    rng = np.random.default_rng(3)
    count = 400
    trace = Trace(
        ("a", "b"),
        np.sort(rng.uniform(0, 60, count)),
        rng.integers(0, 2, count),
        rng.integers(50, 4000, count),
        rng.integers(1, 200, count),
        end=60.0,
    )
    deadlines, hardware = Deadlines(0.15, 0.02), load_hardware("h100-llama3-8b-b64")
    workload = trace_workload(trace, deadlines)
    (row,) = judge(
        workload,
        [Candidate(GpuKind("g", hardware), 2, *compiled_policy("FI-WSP"))],
        SURE,
        CaseRuns(),
        0,
    )
    cluster = workload.cluster(hardware, 2, 0)
    horizon = 60.0 + workload.drain_seconds(trace)
    result = evaluate("FI-WSP", cluster.instance, 2, trace=trace, horizon=horizon, replications=1)
    assert 0.3 < result.deadlines.attainment < 0.99
    assert row.good.mean == pytest.approx(result.deadlines.good / count)
    assert row.ttft[3] == pytest.approx(result.ttft.p99, rel=0.03)
    assert row.tpot[0] == pytest.approx(result.tpot.p50, rel=0.02)


def chats(replications=3):
    return instance_workload(
        "chat-deadlines", 8.0, horizon=60.0, warmup=20.0, replications=replications
    )


def test_samples_differ_and_sizes_meet_the_same_ones():
    workload = chats()
    assert len({len(s) for s in workload.samples}) > 1
    twice = workload.at_rate(2.0)
    assert twice.rate == pytest.approx(2 * workload.rate)
    assert twice.n_counted == workload.n_counted
    assert twice.cluster(BY_HAND.hardware, 4, 0).instance.arrival_rates.sum() == pytest.approx(4.0)


class NoExecutor(Executor):
    """Runs nothing."""

    def run(self, compute, tasks):
        assert list(tasks) == []
        return iter(())


def test_results_are_the_same_in_processes_and_from_the_cache(tmp_path, way):
    asked = {"requirement": Requirement("share", 0.6), "policies": ["FI-WSP", "trunk-reservation"]}
    kind = GpuKind("g", load_hardware("h100-llama3-8b-b32"))
    alone = size(chats(), [kind], **asked)
    spread = size(chats(), [kind], **asked, runs=CaseRuns(way, tmp_path))
    assert spread.to_dict() == alone.to_dict()
    heard = []
    again = CaseRuns(NoExecutor(), tmp_path, heard.append)
    assert size(chats(), [kind], **asked, runs=again).to_dict() == alone.to_dict()
    assert heard
    file = next(tmp_path.glob("*.json"))
    file.write_text("{}")
    with pytest.raises(ConfigurationError, match="damaged or of another version"):
        size(chats(), [kind], **asked, runs=CaseRuns(cache=tmp_path))


def test_what_was_not_measured_is_said():
    workload = trace_workload(arrivals(1.0, 1), Deadlines(1.0))
    from llm_sched_env.model.hardware import HardwareFile

    file = HardwareFile.load("h100-llama3-8b-b32")
    kind = GpuKind("g", file.hardware, source=file.source)
    assert [n.split(" (")[0] for n in extrapolation_notes(kind, workload)] == [
        "no limit of KV tokens is known"
    ]
    long = Trace(("a",), [0.0, 1.0], [0, 0], [9000, 100], [50, 50])
    notes = " ".join(extrapolation_notes(kind, trace_workload(long, Deadlines(1.0))))
    assert "50.0% of the prompts have more" in notes
    assert "KV tokens in a batch" in notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policies": ["fluid-mpc"]}, "a compiled rule"),
        ({"policies": ["FI-WSP", "fcfs-immediate"]}, "each once"),
        ({"most_gpus": 0}, "most_gpus"),
        ({"kinds": []}, "at least one kind"),
        ({"requirement": Requirement("goodput", 1e6)}, "at most the"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        size(chats(1), **{"kinds": [BY_HAND], **arguments})


@pytest.mark.extended
@pytest.mark.parametrize("command", ["size", "tune"])
def test_a_killed_run_resumes_to_the_same_answer(command, tmp_path):
    words = ["--instance", "chat-deadlines", "--rate", "30", "--gpu", "h100-llama3-8b-b128"]
    words += ["--share", "0.9", "--horizon", "200", "--warmup", "50"]
    if command == "tune":
        words += ["--gpus", "2,3", "--slots", "32,64", "--chunks", "512"]
    program = [sys.executable, "-m", "llm_sched_env", command, *words, "--out"]
    fresh, killed = tmp_path / "fresh", tmp_path / "killed"
    subprocess.run([*program, fresh], check=True, capture_output=True)
    process = subprocess.Popen([*program, killed], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("cells/*.json"))) < 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (killed / "answer.md").exists()
    subprocess.run([*program, killed], check=True, capture_output=True)
    names = [path.relative_to(fresh) for path in fresh.rglob("*.*") if path.suffix != ".png"]
    assert all((killed / name).read_bytes() == (fresh / name).read_bytes() for name in names)


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "mini_chat.csv"
    arrivals(4.0, 3).save(path)
    return path


def test_command(run, trace_file, tmp_path):
    options = ["--gpu", "h100-llama3-8b-b32=2.5,h100-llama3-8b-b64", "--ttft", "0.05"]
    out = tmp_path / "out"
    code, text, _ = run("size", trace_file, *options, "--percentile", "90", "--out", out)
    assert code == 0
    assert text.startswith("For 0.75 requests/s of 'a' with TTFT p90 <= 0.05 s, take")
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "h100-llama3-8b-b32" in (out / "answer.md").read_text()
    code, text, _ = run("size", trace_file, *options, "--percentile", "90", "--json")
    found = json.loads(text)
    assert found["answer"]["verdict"] == "met"
    lines = (out / "rows.csv").read_text().splitlines()
    assert len(lines) == 1 + sum(len(kind["rows"]) for kind in found["kinds"])


def test_command_of_a_cluster(run):
    words = ["--instance", "chat-deadlines", "--gpu", "h100-llama3-8b-b64", "--gpus", "2"]
    short = ["--horizon", "40", "--warmup", "10", "--replications", "2", "--policies", "EDF"]
    code, text, _ = run("size", *words, *short, "--share", "0.9", "--max-rate", "--json")
    assert code == 0
    found = json.loads(text)
    assert 0 < found["rate"] < found["missed"] <= found["bound"]
    # In the unit of the rows: arrivals that count, per second after the warm-up.
    tried = [row["rate"] for row in found["rows"] if row["rate"] > found["rate"]]
    assert found["missed"] == pytest.approx(min([*tried, found["bound"]]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Give trace files"),
        (["--instance", "base"], "needs `--rate`"),
        (["--instance", "base", "--rate", "2"], "deadlines: got 'none'"),
        (["--instance", "chat-deadlines", "--rate", "2", "--gpus", "3"], "needs `--max-rate`"),
        (["--instance", "chat-deadlines", "--rate", "2", "--max-rate"], "needs `--gpus`"),
        (
            ["--instance", "chat-deadlines", "--rate", "2", "--gpu", "h100-llama3-8b-b32=x"],
            "a number",
        ),
        (["--instance", "chat-deadlines", "--rate", "2", "--gpu", "nothing"], "hardware"),
        (["--instance", "chat-deadlines", "--rate", "2", "--share", "2"], "a share in"),
        (["--instance", "chat-deadlines", "--share", ".9", "--goodput", "2"], "exclude each other"),
    ],
)
def test_bad_command_lines(run, words, message):
    code, _, err = run("size", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
