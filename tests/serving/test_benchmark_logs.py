"""Results of benchmark clients become measured runs; small files in their documented format."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llm_sched_env.cli import main
from llm_sched_env.errors import TraceError
from llm_sched_env.serving.benchmark_logs import read_benchmark_log
from llm_sched_env.validation.served_files import read_served_run
from llm_sched_env.validation.validate import validate

# As `vllm bench serve --save-result --save-detailed` writes it, other keys left out.
VLLM = {
    "date": "20260101-000000",
    "backend": "vllm",
    "num_prompts": 4,
    "duration": 3.1,
    "completed": 3,
    "failed": 1,
    "total_input_tokens": 700,
    "total_output_tokens": 9,
    "input_lens": [300, 100, 200, 100],
    "output_lens": [4, 3, 0, 2],
    "ttfts": [0.08, 0.03, 0.0, 0.05],
    "itls": [[0.01, 0.012, 0.011], [0.01, 0.01], [], [0.02]],
    "start_times": [1000.5, 1000.0, 1000.7, 1002.0],
    "generated_texts": ["a", "b", "", "c"],
    "errors": ["", "", "timeout", ""],
}


def test_vllm(tmp_path) -> None:
    file = tmp_path / "vllm.json"
    file.write_text(json.dumps(VLLM))
    found = read_benchmark_log(file, "chat")
    run = found.run
    assert found.failed == 1
    assert run.class_names == ("chat",)
    assert run.arrival_time.tolist() == [0.0, 0.5, 2.0]
    assert run.prompt_tokens.tolist() == [100, 300, 100]
    # Their first output token is the one that the prefill yields.
    assert run.output_tokens.tolist() == [2, 3, 1]
    assert np.allclose(run.ttft, [0.03, 0.08, 0.05])
    assert np.allclose(run.tpot, [0.01, 0.011, 0.02])


def test_sglang_as_a_line(tmp_path) -> None:
    file = tmp_path / "sglang.jsonl"
    sglang = {**VLLM, "backend": "sglang", "request_rate": 4.0, "max_concurrency": None}
    file.write_text("\n" + json.dumps(sglang) + "\n")
    assert len(read_benchmark_log(file).run) == 3


def test_the_command_writes_what_validate_reads(tmp_path) -> None:
    log, out = tmp_path / "vllm.json", tmp_path / "requests.csv"
    log.write_text(json.dumps(VLLM))
    with pytest.raises(SystemExit) as ended:
        main(["import-logs", str(log), "--out", str(out)])
    assert ended.value.code == 0
    assert np.allclose(read_served_run(out).e2e, [0.05, 0.113, 0.07])
    assert validate(out, "h100-llama3-8b-b32").simulated.completed == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"itls": None}, "no itls; write it with --save-detailed"),
        ({"start_times": "summary"}, "no start_times"),
        ({"ttfts": [0.1]}, "ttfts has 1 entries, expected 4"),
        ({"itls": [[0.1], [0.1], 3, [0.1]]}, "no lists of seconds"),
        ({"ttfts": [0.1, "x", 0.1, 0.1]}, "no numbers"),
        ({"start_times": [None, 1.0, 2.0, 3.0]}, "no number for request 0, which completed"),
        ({"output_lens": [0, 0, 0, 0]}, "none of 4 requests completed"),
        ({"start_times": [1.0, float("inf"), 2.0, 3.0]}, "infinite or negative"),
    ],
)
def test_what_is_no_detailed_result_is_one_line(tmp_path, change, message) -> None:
    file = tmp_path / "log.json"
    file.write_text(json.dumps({**VLLM, **change}))
    with pytest.raises(TraceError, match=message):
        read_benchmark_log(file)


def test_files_of_several_runs_or_of_none(tmp_path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(json.dumps(VLLM) + "\n" + json.dumps(VLLM))
    with pytest.raises(TraceError, match="2 runs"):
        read_benchmark_log(file)
    file.write_text("P99 TTFT (ms): 12")
    with pytest.raises(TraceError, match="line 1"):
        read_benchmark_log(file)
    with pytest.raises(TraceError, match="cannot be read"):
        read_benchmark_log(tmp_path / "none.json")
