"""Fronts, the chosen setting, what halving leaves out, and the files of a tuning."""

from __future__ import annotations

import dataclasses
import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.deadlines import Deadlines
from llm_sched_env.model.hardware import Hardware, HardwareFile
from llm_sched_env.model.iteration_law import MixedIteration, SoloIteration
from llm_sched_env.sizing.case_runs import CaseRuns
from llm_sched_env.sizing.engine_flags import left_out, sglang_flags, vllm_flags
from llm_sched_env.sizing.judged import Candidate, GpuKind, judge
from llm_sched_env.sizing.requirement import Requirement
from llm_sched_env.sizing.served_case import compiled_policy
from llm_sched_env.sizing.settings import Setting, settings_of
from llm_sched_env.sizing.tune import front_ranks, tune
from llm_sched_env.sizing.workload import instance_workload, trace_workload
from llm_sched_env.workloads.trace import Trace

SURE = Requirement("share", 0.95, confidence=0.5)
FIFO = [compiled_policy("FI-WSP")]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_ranks_are_those_of_their_definition(rows):
    def beats(a, b):
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    left, wanted, rank = set(range(len(rows))), {}, 0
    while left:
        first = {k for k in left if not any(beats(rows[j], rows[k]) for j in left)}
        wanted |= dict.fromkeys(first, rank)
        left, rank = left - first, rank + 1
    assert front_ranks(np.array(rows, float)).tolist() == [wanted[k] for k in range(len(rows))]


def slow_decodes() -> GpuKind:
    """An iteration takes 10 ms a decode, so that slots are time per token; prefills 1 ms."""
    solo, mixed = SoloIteration(1e-6, per_decode=0.01), MixedIteration(1e-3)
    return GpuKind("by hand", Hardware.kv_aware(solo, mixed, 512, 4))


def test_slots_by_hand():
    """Sixteen answers of 50 tokens at once: k slots give 10 k ms a token and all in 8 s.

    45 ms a token need at most 4 slots. First tokens come in 16 / k rounds of 0.5 k s each, the
    last after 8 - 0.5 k s: due in 6.5 s, at least 3 slots.
    """
    times = np.repeat(np.arange(10) * 20.0, 16)
    trace = Trace(("a",), times, np.zeros(160), np.full(160, 100), np.full(160, 50), end=200.0)
    workload = trace_workload(trace, Deadlines(6.5, 0.045))
    ways = settings_of(slow_decodes(), [1], FIFO, slots=[2, 4, 5, 8, 16], chunks=[512])
    found = tune(workload, ways, SURE)
    assert found.chosen.setting.kind.hardware.batch_slots == 4
    assert found.chosen.judged.good.mean == 1.0
    assert found.chosen.on_front
    # Fewer slots are faster a token, more are faster to the first: all are on the front.
    late = {t.setting.kind.hardware.batch_slots: t.judged for t in found.finalists}
    assert late[2].tpot[-1] < 0.03
    assert late[2].first_in_time.mean < 1.0
    assert late[8].tokens_in_time.mean < 0.95


def chats(replications=4, rate=9.0):
    return instance_workload(
        "chat-deadlines", rate, horizon=60.0, warmup=20.0, replications=replications
    )


def ways(policies=("FI-WSP", "GG-SP", "trunk-reservation"), n=(1, 2)):
    file = HardwareFile.load("h100-llama3-8b-b128")
    kind = GpuKind("b128", file.hardware, 2.0, file.source)
    rules = [compiled_policy(p) for p in policies]
    return settings_of(kind, n, rules, slots=[8, 32], chunks=[256, 1024])


@pytest.mark.extended
def test_halving_leaves_what_judging_everything_chooses():
    requirement = Requirement("share", 0.4, confidence=0.5)
    found = tune(chats(), ways(), requirement)
    assert len(found.finalists) < found.tried == 2 * 2 * 2 * 7
    assert [count for _, count in found.rungs] == [56, 28, 14, 8]
    assert {t.setting.n_gpus for t in found.finalists} == {1, 2}
    rows = judge(chats(), [w.candidate for w in ways()], requirement, CaseRuns(), 0)
    good_and_cheap = [r for r in rows if r.met and r.cost_per_hour == 2.0]
    assert found.chosen.judged.cost_per_hour == 2.0
    assert found.chosen.judged.good.mean >= max(r.good.mean for r in good_and_cheap) - 0.02


def test_a_part_of_one_sample_is_its_busiest_stretch():
    trace = Trace(("a",), np.arange(100.0), np.zeros(100), np.full(100, 10), np.full(100, 10))
    busy = dataclasses.replace(trace, prompt_tokens=np.where(trace.arrival_time // 10 == 4, 99, 10))
    part = trace_workload(busy, Deadlines(1.0)).part(0.1)
    assert part.samples[0].prompt_tokens.tolist() == [99] * 10
    one = chats(1).part(0.125)
    assert one.warmup == 0.0
    assert one.n_counted == len(one.samples[0]) > 0
    assert tune(chats(1), ways(n=(1,)), SURE).rungs[0][0] == 0.125
    assert len(chats(4).part(0.5).samples) == 2
    with pytest.raises(ConfigurationError, match="after the warm-up"):
        chats(4, rate=1e-6)


def test_it_is_the_same_again_and_from_the_cache(tmp_path):
    first = tune(chats(), ways(), SURE, runs=CaseRuns(cache=tmp_path))
    count = len(list(tmp_path.glob("*.json")))
    again = tune(chats(), ways(), SURE, runs=CaseRuns(cache=tmp_path))
    assert again.to_dict() == first.to_dict()
    assert len(list(tmp_path.glob("*.json"))) == count


def test_pools_and_reserves_are_scaled():
    file = HardwareFile.load("h100-llama3-8b-b128")
    kind = GpuKind("b128", dataclasses.replace(file.hardware, batch_slots=8))
    label, rule = compiled_policy("GG-SP")
    four = [Candidate(kind, 4, label, rule, pool) for pool in (1.0, 1.0 + 1e-12, 0.5, 3.0)]
    same, nearly, few, many = judge(chats(1, 20.0), four, SURE, CaseRuns(), 0)
    assert same == nearly
    assert few.ttft[-1] > same.ttft[-1] or many.ttft[-1] < same.ttft[-1]
    label, rule = compiled_policy("trunk-reservation")
    overloaded = trace_workload(chats(1, 60.0).samples[0], Deadlines(5.0), patience_seconds=3.0)
    kept = [Candidate(kind, 1, label, rule, 1.0, scale) for scale in (0.0, 1.0, 8.0)]
    rows = judge(overloaded, kept, SURE, CaseRuns(), 0)
    assert len({row.good.mean for row in rows}) > 1


def test_settings_stay_where_the_hardware_was_measured():
    file = HardwareFile.load("h100-llama3-8b-b128")
    kind = GpuKind("b128", file.hardware, source=file.source)
    found = settings_of(kind, [1], FIFO)
    assert max(s.kind.hardware.batch_slots for s in found) == 128
    assert {s.kind.hardware.chunk_tokens for s in found} == {256, 512, 1024, 2048}
    padded = HardwareFile.load("h100-llama3-8b-b32")
    kind = GpuKind("b32", padded.hardware, source=padded.source)
    assert {s.kind.hardware.chunk_tokens for s in settings_of(kind, [1], FIFO)} == {512}
    with pytest.raises(ConfigurationError, match="were all padded"):
        settings_of(kind, [1], FIFO, chunks=[1024])
    with pytest.raises(ConfigurationError, match="at least one"):
        tune(chats(1), [])


def test_flags_say_slots_chunks_and_memory():
    hardware = Hardware(0.01, 1e-5, 50.0, chunk_tokens=512, batch_slots=64, kv_tokens=160_000)
    kind = GpuKind("g", hardware)
    setting = Setting(kind, 3, *compiled_policy("FI-WSP"))
    flags = dict(flag.partition(" ")[::2] for flag in vllm_flags(setting))
    assert flags["--max-num-seqs"] == "64"
    # Every decode of a full batch and a whole chunk fit into one iteration.
    assert int(flags["--max-num-batched-tokens"]) == 512 + 63
    assert int(flags["--num-gpu-blocks-override"]) * 16 == 160_000
    flags = dict(flag.partition(" ")[::2] for flag in sglang_flags(setting))
    assert flags["--max-running-requests"] == "64"
    assert flags["--chunked-prefill-size"] == "512"
    assert flags["--max-total-tokens"] == "160000"
    assert not any("policy" in note for note in left_out(setting))
    other = left_out(Setting(kind, 1, *compiled_policy("GG-SP"), pool_scale=1.5))
    assert "gate-and-route" in other[0]
    assert any("pools" in note for note in other)
    assert not any("router" in note for note in other)


def test_command(run, tmp_path):
    trace, out = tmp_path / "chat.csv", tmp_path / "tuned"
    chats(1).samples[0].save(trace)
    words = [
        "--gpus",
        "1,2",
        "--slots",
        "8,200",
        "--chunks",
        "512",
        "--ttft",
        "1",
        "--tpot",
        "0.05",
    ]
    asked = ["tune", trace, *words, "--share", "0.5", "--policies", "FI-WSP"]
    code, text, _ = run(*asked, "--out", out)
    assert code == 0
    assert "the chosen setting has" in text
    assert "--max-num-seqs" in text
    assert "settings, compared on shares" in text
    files = {"answer.md", "chosen.toml", "flags.sh", "rows.csv", "front.png", "cells"}
    files |= {"report.html"}
    assert {path.name for path in out.iterdir()} == files
    found = json.loads(run(*asked, "--json")[1])
    chosen = lse.Instance.load(out / "chosen.toml")
    assert chosen.hardware.batch_slots == found["chosen"]["batch_slots"]
    rate = chosen.arrival_rates.sum() * found["chosen"]["n_gpus"]
    assert rate == pytest.approx(found["rate"], rel=0.01)
    lse.plan(chosen)
    assert found["flags"] == (out / "flags.sh").read_text()
    # As a shell sees it, the flags are words and the rest are comments.
    assert "--max-running-requests" in shlex.split(found["flags"], comments=True)


def test_slots_that_were_not_measured_are_named(run):
    words = ["--instance", "chat-deadlines", "--gpus", "1", "--slots", "300", "--chunks", "4096"]
    short = ["--horizon", "30", "--warmup", "5", "--replications", "1", "--policies", "FI-WSP"]
    code, _, err = run("tune", *words, *short)
    assert code == 0
    assert "measured with up to 128 decodes an iteration, asked for 300" in " ".join(err.split())
    assert "chunks of 128 to 2048 tokens, asked for 4096" in " ".join(err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpus", "0"], "--gpus"),
        (["--gpus", "1", "--gpu", "h100-llama3-8b-b32", "--chunks", "64"], "were all padded"),
        (["--gpus", "1", "--pools", "a"], "--pools"),
        (["--gpus", "1", "--policies", "fluid-mpc"], "a compiled rule"),
        (["--gpus", "1", "--slots", "1"], "batch_slots"),
    ],
)
def test_bad_command_lines(run, words, message):
    code, _, err = run("tune", "--instance", "chat-deadlines", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
