"""Sessions and blocks of requests: read, cut, merged, saved, and what an infinite cache has."""

import dataclasses
import json

import numpy as np
import pytest

from llm_sched_env.errors import ConfigurationError, TraceError
from llm_sched_env.model.block_lists import BlockLists
from llm_sched_env.model.hardware import Hardware
from llm_sched_env.presets import base
from llm_sched_env.workloads.trace import Trace, merged
from llm_sched_env.workloads.traces import instance_from_trace, load_traces

HEADER = "arrival_seconds,class,prompt_tokens,output_tokens,session,hash_ids"
ROWS = [
    "0,chat,1500,20,ann,0 1 2",
    "1,chat,600,20,bob,0 7",
    "2,chat,90,20,bob,",
    "9,chat,9,9,ann,0",
]


def saved(path, header=HEADER, rows=ROWS):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def lists(blocks):
    return [blocks.picked([k]).ids.tolist() for k in range(len(blocks))]


def test_the_canonical_schema_has_sessions_and_blocks(tmp_path):
    trace = load_traces(saved(tmp_path / "own.csv"))
    assert trace.session.tolist() == [0, 1, 1, 0]
    assert lists(trace.blocks) == [[0, 1, 2], [0, 7], [], [0]]
    assert trace.sources[0].not_read == ()
    assert lists(trace.window(1, 3).blocks) == [[0, 7], []]
    assert trace.window(1, 3).session.tolist() == [1, 1]
    assert trace.stream.block_starts.tolist() == [0, 3, 5, 5, 6]


def test_what_is_saved_is_read_back(tmp_path):
    trace = load_traces(saved(tmp_path / "own.csv"))
    trace.save(tmp_path / "again.csv")
    again = load_traces(tmp_path / "again.csv")
    assert again.session.tolist() == trace.session.tolist()
    assert lists(again.blocks) == lists(trace.blocks)


def test_mooncakes_blocks_are_read_and_rows_without_any_have_none(tmp_path):
    rows = [{"timestamp": 100 * k, "input_length": 700, "output_length": 9} for k in range(3)]
    lines = [json.dumps({**row, "hash_ids": [0, k][: 1 + k]}) for k, row in enumerate(rows)]
    path = tmp_path / "mooncake.jsonl"
    path.write_text("\n".join(lines) + "\n")
    trace = load_traces(path)
    assert lists(trace.blocks) == [[0], [0, 1], [0, 2]]
    assert trace.session is None
    path.write_text("\n".join([*lines, json.dumps({**rows[0], "timestamp": 900})]) + "\n")
    assert lists(load_traces(path, time_unit="ms").blocks)[-1] == []


@pytest.mark.parametrize("given", ["7", '"7"', "[1.5]", "[-1]", "[[1]]", "[null]", '["x"]', "null"])
def test_hash_ids_of_the_wrong_type_are_refused_in_a_line(tmp_path, given):
    good = '{"timestamp": 0, "input_length": 9, "output_length": 9, "hash_ids": [1]}\n'
    path = tmp_path / "mooncake.jsonl"
    path.write_text(good + good.replace("[1]", given))
    with pytest.raises(TraceError, match=r"line 2: .*hash_ids is .*a list of whole") as caught:
        load_traces(path)
    assert "\n" not in str(caught.value)


def test_wrong_columns_are_named(tmp_path):
    with pytest.raises(TraceError, match="hash_ids is '1 x'"):
        load_traces(saved(tmp_path / "own.csv", rows=["0,chat,9,9,ann,1 x"]))


def test_a_request_without_a_session_is_alone(tmp_path):
    rows = [f"{k},chat,9,9,{name}," for k, name in enumerate(("5", "", "", "5"))]
    assert load_traces(saved(tmp_path / "own.csv", rows=rows)).session.tolist() == [5, 6, 7, 5]


def test_traces_that_are_merged_share_neither_blocks_nor_sessions(tmp_path):
    one = load_traces(saved(tmp_path / "one.csv"))
    two = dataclasses.replace(one, arrival_time=one.arrival_time + 0.5)
    both = merged([one, two])
    assert lists(both.blocks)[:4] == [[0, 1, 2], [8, 9, 10], [0, 7], [8, 15]]
    assert both.session.tolist() == [0, 2, 1, 3, 1, 3, 0, 2]
    without = dataclasses.replace(one, session=None, blocks=None)
    assert lists(merged([without, one]).blocks)[:2] == [[], [0, 1, 2]]


def test_an_infinite_cache_leaves_a_token_of_each_prompt(tmp_path):
    trace = load_traces(saved(tmp_path / "own.csv"))
    assert trace.reused_tokens.tolist() == [0.0, 512.0, 0.0, 8.0]


def test_the_bound_of_a_trace_counts_prompts_after_reuse(tmp_path):
    trace = load_traces(saved(tmp_path / "own.csv"))
    plain = base().hardware
    cached = dataclasses.replace(plain, cache_tokens=4096)
    whole, left = (instance_from_trace(trace, 1, hardware=h) for h in (plain, cached))
    assert whole.classes[0].prefill_tokens == whole.classes[0].prompt_tokens
    assert left.classes[0].prompt_tokens == whole.classes[0].prompt_tokens
    assert left.classes[0].prefill_tokens == pytest.approx((2199 - 520) / 4)
    assert left.prefill_rates[0] > whole.prefill_rates[0]


@pytest.mark.parametrize("starts", [[0, 2], [1, 3], [0, 4], [0, 3, 2]])
def test_lists_that_do_not_fit_are_refused(starts):
    with pytest.raises(ConfigurationError):
        BlockLists(np.arange(3), starts)


def test_cache_tokens_of_hardware():
    assert Hardware(0.02, 6e-5, 50.0, 256, 16, cache_tokens=10).cache_tokens == 10
    with pytest.raises(ConfigurationError, match="hardware cache_tokens"):
        Hardware(0.02, 6e-5, 50.0, 256, 16, cache_tokens=0)


def test_blocks_of_other_requests_are_refused():
    blocks = BlockLists.of([[1]])
    with pytest.raises(TraceError, match="blocks of 1 requests"):
        Trace(("a",), [0.0, 1.0], [0, 0], [5, 5], [5, 5], blocks=blocks)
