"""Requests that share prefixes: what is allowed, what is drawn, and what is planned for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalModulation
from llm_sched_env.model.conversations import Sessions, SharedPrefix
from llm_sched_env.model.drawn_conversations import draw_requests, with_turns
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.traces import load_traces

CHAT = lse.RequestClass(
    "chat", 1200.0, 300.0, 0.5, 0.0, sessions=Sessions(4.0, 30.0, 200.0)
)  # fmt: skip
TOOLS = lse.RequestClass(
    "tools",
    3000.0,
    50.0,
    0.2,
    0.0,
    prompt_lengths=LengthDistribution("gamma", cv=0.5),
    shared_prefix=SharedPrefix(2100, variants=3, exponent=1.0),
)
BURSTS = ArrivalModulation(multipliers=(0.5, 2.0), switch_rates=((0, 1), (1, 0)))
GPU = dataclasses.replace(presets.QWEN_8B_A100, cache_tokens=100_000)


def instance_of(*classes, hardware=GPU) -> lse.Instance:
    return lse.Instance("talk", classes, hardware, presets.PAPER_PRICES)


def drawn(instance, until=2000.0, seed=1):
    return draw_requests(instance, 4, until, np.random.SeedSequence(seed))


def test_a_file_keeps_them(tmp_path):
    instance = instance_of(CHAT, TOOLS)
    instance.save(tmp_path / "talk.toml")
    assert lse.Instance.load(tmp_path / "talk.toml") == instance


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Sessions(0.5, 1.0, 1.0), "sessions turns: got 0.5"),
        (lambda: Sessions(2.0, 0.0, 1.0), "sessions think_seconds"),
        (lambda: SharedPrefix(0), "shared_prefix tokens"),
        (lambda: SharedPrefix(10, variants=0), "shared_prefix variants"),
        (lambda: SharedPrefix(10, exponent=-1.0), "shared_prefix exponent"),
        (lambda: dataclasses.replace(CHAT, sessions=4), "a Sessions"),
        (
            lambda: dataclasses.replace(instance_of(CHAT), modulation=BURSTS),
            "none with sessions",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_rates_and_turns_are_those_of_the_class():
    found = drawn(instance_of(CHAT, TOOLS), until=10_000.0)
    for i, own in enumerate((CHAT, TOOLS)):
        rate = (found.request_class == i).sum() / 10_000.0
        assert rate == pytest.approx(4 * own.arrival_rate, rel=0.05)
    chats = found.session[found.request_class == 0]
    late = found.arrival_time[found.request_class == 0] > 5_000.0
    assert len(chats[late]) / len(set(chats[late])) == pytest.approx(4.0, rel=0.07)
    early = found.arrival_time[found.request_class == 0] < 1000.0
    assert early.sum() == pytest.approx(2000, rel=0.15)  # no ramp: conversations are under way


def test_a_turn_is_the_conversation_so_far():
    found = drawn(instance_of(CHAT, TOOLS))
    seen: dict[int, tuple[float, list[int]]] = {}
    later = 0
    for k, session in enumerate(found.session.tolist()):
        own = found.blocks.picked([k]).ids.tolist()
        tokens = found.prompt_tokens[k] + found.output_tokens[k]
        assert len(own) == tokens // 512
        if session in seen:
            later += 1
            said, before = seen[session]
            assert found.prompt_tokens[k] > said
            assert own[: len(before)] == before
        seen[session] = tokens, own
    assert later > 1000


def test_texts_in_common_have_the_same_blocks():
    found = drawn(instance_of(CHAT, TOOLS))
    own = found.request_class == 1
    lists = [found.blocks.picked([k]).ids.tolist() for k in np.flatnonzero(own)]
    prompts = found.prompt_tokens[own]
    firsts = [blocks[0] for blocks, p in zip(lists, prompts, strict=True) if p >= 512]
    shares = np.sort(np.unique(firsts, return_counts=True)[1])[::-1] / len(firsts)
    np.testing.assert_allclose(shares, TOOLS.shared_prefix.shares, atol=0.04)
    whole = [blocks[:5] for blocks, p in zip(lists, prompts, strict=True) if p > 2600]
    assert len({tuple(blocks[:4]) for blocks in whole}) == 3  # 2,100 tokens are 4 whole blocks
    assert len({blocks[4] for blocks in whole}) == len(whole)
    chats = found.blocks.picked(found.request_class == 0)
    assert not set(chats.ids.tolist()) & {b for blocks in lists for b in blocks}


def test_every_run_of_a_seed_has_the_same_requests():
    instance = instance_of(CHAT, TOOLS)
    one, two, other = drawn(instance), drawn(instance), drawn(instance, seed=2)
    np.testing.assert_array_equal(one.arrival_time, two.arrival_time)
    np.testing.assert_array_equal(one.blocks.ids, two.blocks.ids)
    assert len(other.arrival_time) != len(one.arrival_time)


def test_what_a_run_serves_can_be_saved(tmp_path):
    instance = instance_of(CHAT, TOOLS)
    trace = requests_of_run(instance, 4, 300.0, seed=3)
    assert trace.duration == 300.0
    trace.save(tmp_path / "requests.csv")
    again = load_traces(tmp_path / "requests.csv").with_classes(trace.class_names)
    np.testing.assert_array_equal(again.session, trace.session)
    np.testing.assert_array_equal(again.blocks.ids, trace.blocks.ids)
    np.testing.assert_array_equal(again.prompt_tokens, trace.prompt_tokens)


def test_means_of_all_turns_are_planned_for():
    turns = with_turns(instance_of(CHAT, TOOLS))
    chat = turns.classes[0]
    # 3 earlier turns on average, each of an answer and what was added.
    assert chat.prompt_tokens == pytest.approx(1200 + 3 * (300 + 200), rel=0.02)
    assert chat.output_tokens == pytest.approx(300, rel=0.02)
    # What is left: the first prompt, or what was added and the half block at the end of before.
    assert chat.prefill_tokens == pytest.approx((1200 + 3 * (200 + 256)) / 4, rel=0.03)
    found = drawn(instance_of(CHAT, TOOLS), until=10_000.0)
    for i, own in enumerate(turns.classes):
        mean = found.prompt_tokens[found.request_class == i].mean()
        assert mean == pytest.approx(own.prompt_tokens, rel=0.03)
    whole = with_turns(instance_of(CHAT, TOOLS, hardware=presets.QWEN_8B_A100))
    assert whole.classes[0].prefill_tokens == whole.classes[0].prompt_tokens
    busy = [instance_of(CHAT, hardware=gpu).scaled(5.0) for gpu in (GPU, presets.QWEN_8B_A100)]
    assert lse.plan(busy[0]).value > 1.2 * lse.plan(busy[1]).value
    assert with_turns(presets.base()) == presets.base()
