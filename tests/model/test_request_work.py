"""Work of requests: moments of every length law against large samples, and closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.model.length_moments import continuous_law, partial_squares, whole_units
from llm_sched_env.model.request_work import RequestWork, request_work

CHUNK, MEAN, DRAWS = 100, 500.0, 400_000
EVERY = np.array([np.inf])
LAWS = {
    "exponential": lse.LengthDistribution(),
    "deterministic": lse.LengthDistribution("deterministic"),
    "gamma": lse.LengthDistribution("gamma", 0.7),
    "log-normal": lse.LengthDistribution("log-normal", 0.8),
    "empirical": lse.LengthDistribution("empirical", values=(100.0, 301.5, 1098.5)),
}
PAIRS = lse.ObservedLengths([100.0, 301.0, 1099.0, 20.0], [900.0, 40.5, 0.0, 7.0])


def hardware(**changes):
    return dataclasses.replace(lse.presets.QWEN_8B_A100, chunk_tokens=CHUNK, **changes)


def drawn(law, rng):
    if law.values is not None:
        return rng.choice(law.values, DRAWS)
    if law.kind == "deterministic":
        return np.full(DRAWS, MEAN)
    return continuous_law(law, MEAN).rvs(DRAWS, random_state=rng)


def work_of(p, d, own):
    """The work of each of many requests, iteration by iteration in closed form."""
    whole = own.starts == "boundary"
    chunks, steps = np.ceil(p / CHUNK), np.ceil(d) if whole else d
    tokens = CHUNK * chunks if own.padded_chunks else p
    context = p * steps + (steps**2 + (steps if whole else 0.0)) / 2.0
    iterations = chunks if own.whole_chunks else p / CHUNK
    return RequestWork(p, d, iterations, tokens, tokens**2 / 2.0, steps, context)


OPTIONS = (
    {},
    {"starts": "boundary"},
    {"padded_chunks": True},
    {"kv_tokens": 1350},
    {"kv_tokens": 1350, "starts": "boundary", "padded_chunks": True},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_it_is_the_mean_over_drawn_requests(name, options):
    own = hardware(**options)
    only = lse.RequestClass("own", MEAN, MEAN, 4.0, 0.1, LAWS[name], LAWS["gamma"])
    rng = np.random.default_rng(5)
    p, d = drawn(LAWS[name], rng), drawn(LAWS["gamma"], rng)
    fits = p + d <= (own.kv_tokens or math.inf)
    sample = work_of(p[fits], d[fits], own)
    for field, expected, found in zip(
        RequestWork._fields, request_work(only, own), sample, strict=True
    ):
        error = found.std() / math.sqrt(fits.sum())
        assert abs(found.mean() - expected) < 4.5 * error + 1e-6 * expected, field


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_of_observed_requests_it_is_counted(options):
    own = hardware(**options)
    only = lse.RequestClass("own", 380.0, 236.875, 4.0, 0.1, observed_lengths=PAIRS)
    fits = PAIRS.within(own.kv_tokens or math.inf)
    sample = work_of(PAIRS.prompt_tokens[fits], PAIRS.output_tokens[fits], own)
    assert request_work(only, own) == pytest.approx(RequestWork(*(f.mean() for f in sample)))


def test_whole_tokens_are_read_one_by_one():
    """A decode of three tokens behind a prompt of seven attends to 8, 9 and 10."""
    fixed = lse.LengthDistribution("deterministic")
    only = lse.RequestClass("own", 7.0, 3.0, 1.0, 0.1, fixed, fixed)
    assert request_work(only, hardware(starts="boundary")).decode_context == 8 + 9 + 10
    assert request_work(only, hardware()).decode_context == 7 * 3 + 9 / 2


@pytest.mark.parametrize("unit", [1.0, 100.0, 5000.0])
def test_exponential_lengths_in_whole_units_are_geometric(unit):
    ends = np.exp(-unit / MEAN) ** np.arange(100_000)
    number, shares = np.arange(1, len(ends)), -np.diff(ends)
    found = whole_units(LAWS["exponential"], MEAN, unit, EVERY)
    assert found.mean[0] == pytest.approx(number @ shares, rel=1e-12)
    assert found.square[0] == pytest.approx(number**2 @ shares, rel=1e-12)
    # The same law by another name is added up.
    other = whole_units(lse.LengthDistribution("gamma", 1.0), MEAN, unit, EVERY)
    assert other.mean == pytest.approx(found.mean, rel=1e-9)
    assert other.square == pytest.approx(found.square, rel=1e-8)


@pytest.mark.parametrize("name", LAWS)
def test_a_wide_limit_changes_nothing(name):
    wide = np.array([1e9])
    law = LAWS[name]
    assert partial_squares(law, MEAN, wide) == pytest.approx(partial_squares(law, MEAN, EVERY))
    for unit in (1.0, 100.0):
        near, far = whole_units(law, MEAN, unit, wide), whole_units(law, MEAN, unit, EVERY)
        assert near.mean == pytest.approx(far.mean, rel=1e-9)
        assert near.square == pytest.approx(far.square, rel=1e-8)


def test_rates_of_whole_iterations_are_those_of_the_work():
    only = lse.RequestClass("own", MEAN, 30.0, 4.0, 0.1, LAWS["gamma"], LAWS["log-normal"])
    for options in ({"starts": "boundary"}, {"starts": "boundary", "kv_tokens": 900}):
        own = hardware(**options)
        served = fitting_requests(lse.Instance("own", (only,), own, lse.Prices(0.1, 0.2)))
        work = request_work(only, own)
        assert served.solo_decode_rates[0] == pytest.approx(own.gamma / work.decode_iterations)
        assert served.prefill_rates[0] * work.prefill_iterations * own.tau_mixed == pytest.approx(1)
