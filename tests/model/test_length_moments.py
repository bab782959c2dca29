"""Whole chunks of every length law, with and without a KV limit, and lengths observed in pairs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.model.length_moments import mean_whole_chunks
from llm_sched_env.simulation.simulation import sample_requests

CHUNK, MEAN = 100, 500.0
LAWS = {
    "exponential": lse.LengthDistribution(),
    "deterministic": lse.LengthDistribution("deterministic"),
    "gamma": lse.LengthDistribution("gamma", 0.7),
    "heavy gamma": lse.LengthDistribution("gamma", 2.0),
    "log-normal": lse.LengthDistribution("log-normal", 1.3),
    "empirical": lse.LengthDistribution("empirical", values=(100.0, 301.0, 1099.0)),
}


def instance_of(own, **hardware):
    changed = dataclasses.replace(
        lse.presets.QWEN_8B_A100, chunking="ceil", chunk_tokens=CHUNK, **hardware
    )
    return lse.Instance("own", (own,), changed, lse.Prices(0.1, 0.2))


@pytest.mark.parametrize("kv_tokens", [None, 1350])
@pytest.mark.parametrize("name", LAWS)
def test_mean_chunks_are_those_of_drawn_prompts(name, kv_tokens):
    own = lse.RequestClass("own", MEAN, MEAN, 4.0, 0.1, LAWS[name], LAWS["gamma"])
    instance = instance_of(own, kv_tokens=kv_tokens)
    drawn = sample_requests(instance, 100, 500.0, np.random.SeedSequence(2))
    fits = drawn.prompt_tokens + drawn.output_tokens <= (kv_tokens or math.inf)
    chunks = np.ceil(drawn.prompt_tokens[fits] / CHUNK)
    error = chunks.std() / math.sqrt(len(chunks))
    served = fitting_requests(instance)
    expected = served.classes[0].mean_prefill_iterations(CHUNK)
    assert abs(chunks.mean() - expected) < 4.5 * error + 1e-9
    assert served.prefill_rates * expected * served.hardware.tau_mixed == pytest.approx(1.0)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("chunk", [1, 100, 100_000])
def test_chunks_are_between_p_over_c_and_one_more(name, chunk):
    chunks = mean_whole_chunks(LAWS[name], MEAN, chunk)
    assert MEAN / chunk - 1e-9 <= chunks <= MEAN / chunk + 1.0
    assert chunks >= 1.0 - 1e-9


def test_chunks_of_very_long_prompts_are_added_up_beyond_the_first_thousands():
    law = lse.LengthDistribution("gamma", 1.0)  # an exponential law
    expected = mean_whole_chunks(lse.LengthDistribution(), 1e6, 16)
    assert mean_whole_chunks(law, 1e6, 16) == pytest.approx(expected, rel=1e-9)


PAIRS = lse.ObservedLengths([100.0, 301.0, 1099.0, 20.0], [900.0, 40.0, 0.0, 7.0])


def paired(**changes):
    means = {"prompt_tokens": 380.0, "output_tokens": 236.75}
    return lse.RequestClass("own", **means, arrival_rate=4.0, patience_rate=0.1, **changes)


def test_observed_lengths_are_drawn_as_pairs():
    drawn = sample_requests(
        instance_of(paired(observed_lengths=PAIRS)), 50, 200.0, np.random.SeedSequence(3)
    )
    pairs = np.stack([drawn.prompt_tokens, drawn.output_tokens], axis=1)
    observed = np.stack([PAIRS.prompt_tokens, PAIRS.output_tokens], axis=1)
    hits = (pairs[:, None] == observed).all(axis=2)
    assert hits.any(axis=1).all()
    counts = hits.sum(axis=0)
    assert np.abs(counts - len(pairs) / 4).max() < 4.5 * math.sqrt(len(pairs) * 3 / 16)


def test_of_observed_lengths_the_rows_that_fit_are_kept():
    served = fitting_requests(instance_of(paired(observed_lengths=PAIRS), kv_tokens=1000))
    only = served.classes[0]
    assert only.arrival_rate == 3.0
    assert only.prompt_tokens == pytest.approx(421 / 3)
    assert only.output_tokens == pytest.approx(947 / 3)
    assert only.mean_prefill_iterations(CHUNK) == (1 + 4 + 1) / 3


def test_observed_lengths_in_an_instance_file(tmp_path):
    instance = instance_of(paired(observed_lengths=PAIRS))
    for name in ("own.json", "own.toml"):
        instance.save(tmp_path / name)
        again = lse.Instance.load(tmp_path / name)
        assert again == instance
        assert hash(again.classes[0]) == hash(instance.classes[0])
    assert instance != instance_of(paired())
    assert not PAIRS.prompt_tokens.flags.writeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: lse.ObservedLengths([1.0], [1.0, 2.0]), "1 prompts, 2 outputs"),
        (lambda: lse.ObservedLengths([], []), "observed lengths prompt_tokens: got"),
        (lambda: lse.ObservedLengths([1.0], [-1.0]), "observed lengths output_tokens: got"),
        (lambda: lse.ObservedLengths(["a"], [1.0]), "observed lengths prompt_tokens: got"),
        (lambda: paired(observed_lengths=[1.0]), "observed_lengths: got"),
        (
            lambda: paired(observed_lengths=lse.ObservedLengths([1.0], [1.0])),
            "prompt_tokens: got 380.0, expected the mean of the observed lengths, 1.0",
        ),
        (
            lambda: paired(observed_lengths=PAIRS, output_lengths=LAWS["gamma"]),
            "output_lengths: got .* none with observed_lengths",
        ),
    ],
)
def test_observed_lengths_that_cannot_be(change, message):
    with pytest.raises(ConfigurationError, match=message):
        change()
