"""Traces of a few requests in the place of those that are never shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm_sched_env.tasks import replays

_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


@pytest.fixture(scope="session")
def trace_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small files in the formats of the traces of the tasks."""
    folder, rng = tmp_path_factory.mktemp("traces"), np.random.default_rng(0)
    for kind, output in (("conv", 200), ("code", 20)):
        times = np.sort(rng.uniform(0.0, 59.0, 300))
        lines = [
            f"2023-11-16 18:00:{t:010.7f},{rng.integers(50, 2000)},{rng.integers(1, output)}"
            for t in times
        ]
        text = "\n".join([_HEADER, *lines]) + "\n"
        (folder / f"AzureLLMInferenceTrace_{kind}.csv").write_text(text, encoding="utf-8")
    rows, block = [], 1
    for t in np.sort(rng.integers(0, 120_000, 400)):
        blocks = [0, *range(block, block + int(rng.integers(1, 6)))]
        block += int(rng.integers(0, 3))
        row = {
            "timestamp": int(t),
            "input_length": 512 * len(blocks),
            "output_length": int(rng.integers(10, 200)),
            "hash_ids": blocks,
        }
        rows.append(json.dumps(row))
    (folder / "mooncake_conversation_trace.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def small_traces(trace_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks find these traces, and no other."""
    monkeypatch.setattr(replays, "data_folders", lambda: [trace_folder])
