"""Traces, logs and checkpoints that are spoilt: refused in a line, or read to the last row."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import REFUSED, accepted, fuzzed, spoilt, spoilt_bytes, spoilt_text
from hypothesis import given
from hypothesis import strategies as st

import llm_sched_env as lse
from llm_sched_env.calibration.iteration_log import read_iteration_logs
from llm_sched_env.model.priority_network import weight_shapes
from llm_sched_env.validation.served_files import SERVED_HEADER, read_served_run
from llm_sched_env.workloads.formats import FORMATS

FEW = range(4)


def trace_text(kind) -> str:
    """Four requests in a format."""
    rows = []
    for k in FEW:
        time = {"date": f"2023-11-16 18:15:4{k}.5", "s": k + 0.5, "ns": 10**9 * k}.get(kind.unit, k)
        if kind.whole_times:
            time = k
        row = {name: time if name == kind.time else 20 + k for name in kind.header}
        row |= {name: f"chat{k % 2}" for name in (*kind.labels, kind.class_column) if name}
        row |= {name: [k, k + 1] if name == "hash_ids" else k for name in kind.marks}
        rows.append(row)
    if kind.json_lines:
        return "\n".join(map(json.dumps, rows)) + "\n"
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines) + "\n"


# Without a unit a file of bare JSON lines is ambiguous, so that all of it is refused.
TRACES = [trace_text(kind) for kind in FORMATS if kind.unit is not None]
ITERATIONS = """start_seconds,seconds,prefill_tokens,prefill_context,decodes,kv_tokens
0.0,0.01,32,0,0,0
0.02,0.012,8,32,1,41
0.04,0.009,0,0,2,90
0.05,0.009,0,0,2,92
"""
SERVED = (
    ",".join(SERVED_HEADER)
    + """
0,0.0,chat,20,3,9.5,completed,0.0,0.1,0.4
1,0.1,chat,30,2,9.5,abandoned,,,0.7
2,0.2,code,40,5,9.5,inside,0.3,,
3,0.4,code,10,1,9.5,completed,0.5,0.6,0.6
"""
)
BENCHMARK = {
    "input_lens": [20, 30],
    "output_lens": [3, 2],
    "ttfts": [0.1, 0.2],
    "itls": [[0.01, 0.02], [0.03]],
    "start_times": [5.0, 6.0],
    "errors": ["", ""],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="surrogatepass", newline="")
    return path


def test_what_is_spoilt_is_sound(folder) -> None:
    for text in TRACES:
        assert len(lse.load_traces(written(folder / "trace.csv", text))) == len(FEW), text
    assert len(read_iteration_logs([written(folder / "log.csv", ITERATIONS)])) == len(FEW)
    assert len(read_served_run(written(folder / "run.csv", SERVED))) == len(FEW)


@fuzzed
@given(st.sampled_from(TRACES).flatmap(spoilt_text))
def test_trace(folder, text) -> None:
    trace = accepted(lambda: lse.load_traces(written(folder / "trace.csv", text)))
    if trace is not REFUSED:
        assert (np.diff(trace.arrival_time) >= 0).all()
        for array in (trace.arrival_time, trace.prompt_tokens, trace.output_tokens):
            assert np.isfinite(array).all()
            assert (array >= 0).all()
        path = folder / "again.csv"
        trace.save(path)
        again = lse.load_traces(path)
        assert again.prompt_tokens.tolist() == trace.prompt_tokens.tolist()
        # No row is lost: what is read is what was written, but for the header and empty lines.
        filled = [line for line in text.replace("\r", "\n").split("\n") if line.strip(" \t\ufeff")]
        assert len(trace) in (len(filled), len(filled) - 1)


@fuzzed
@given(spoilt_text(ITERATIONS))
def test_iteration_log(folder, text) -> None:
    log = accepted(lambda: read_iteration_logs([written(folder / "log.csv", text)]))
    if log is not REFUSED:
        assert np.isfinite(log.seconds).all()
        assert (log.seconds > 0).all()
        assert (log.decodes + log.prefill_tokens > 0).all()


@fuzzed
@given(spoilt_text(SERVED))
def test_measured_run(folder, text) -> None:
    run = accepted(lambda: read_served_run(written(folder / "run.csv", text)))
    if run is not REFUSED:
        assert (run.output_tokens >= 1).all()
        assert np.isfinite(run.arrival_time).all()


@fuzzed
@given(spoilt(BENCHMARK))
def test_benchmark_log(folder, data) -> None:
    from llm_sched_env.serving.benchmark_logs import read_benchmark_log

    text = json.dumps(data)
    run = accepted(lambda: read_benchmark_log(written(folder / "run.json", text)))
    if run is not REFUSED:
        assert np.isfinite(run.run.arrival_time).all()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> bytes:
    """An agent as its training would have saved it, with weights of no network."""
    pytest.importorskip("stable_baselines3")
    from llm_sched_env.agents.checkpoint import Checkpoint, package_versions
    from llm_sched_env.agents.configuration import TrainingConfiguration

    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    Checkpoint(
        weights={"layer.weight": np.ones((2, 3), np.float32)},
        observation={"mean": [0.0] * 4, "var": [1.0] * 4},
        weights_steps=10,
        configuration=TrainingConfiguration(lse.presets.overload().to_dict()),
        steps=10,
        seconds=1.0,
        curve=[{"steps": 10.0, "seconds": 1.0, "score": 0.5}],
        evaluations=[],
        held_out={},
        versions=package_versions(),
    ).save(path)
    Checkpoint.load(path)
    return path.read_bytes()


@fuzzed
@given(data=st.data())
def test_checkpoint_metadata(folder, checkpoint, data) -> None:
    from llm_sched_env.agents.checkpoint import Checkpoint

    with zipfile.ZipFile(io.BytesIO(checkpoint)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = data.draw(spoilt(json.loads(members["metadata.json"])))
    path = folder / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, json.dumps(metadata) if name == "metadata.json" else member)
    loaded = accepted(lambda: Checkpoint.load(path))
    if loaded is not REFUSED:
        again = folder / "again.zip"
        loaded.save(again)
        assert Checkpoint.load(again).configuration == loaded.configuration
        assert isinstance(loaded.description, str)


@fuzzed
@given(data=st.data())
def test_checkpoint_bytes(folder, checkpoint, data) -> None:
    from llm_sched_env.agents.checkpoint import Checkpoint

    path = folder / "agent.zip"
    path.write_bytes(data.draw(spoilt_bytes(checkpoint)))
    loaded = accepted(lambda: Checkpoint.load(path))
    assert loaded is REFUSED or loaded.weights["layer.weight"].shape == (2, 3)


@fuzzed
@given(data=st.data())
def test_trained_rule(folder, data) -> None:
    from llm_sched_env.agents.learned_rule import SHIPPED, LearnedRule

    sound = json.loads(next(SHIPPED.glob("*.json")).read_text(encoding="utf-8"))
    path = written(folder / "rule.json", json.dumps(data.draw(spoilt(sound))))
    loaded = accepted(lambda: LearnedRule.load(path))
    if loaded is not REFUSED:
        loaded.save(folder / "again.json")
        again = LearnedRule.load(folder / "again.json")
        for name in weight_shapes(1):
            assert np.array_equal(getattr(again.network, name), getattr(loaded.network, name))
        assert again.rule.foresight == loaded.rule.foresight
