"""Rates and means of the requests that fit, against large samples and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.kv_admission import fitting_requests
from llm_sched_env.simulation.simulation import sample_requests

LAWS = {
    "exponential": lse.LengthDistribution(),
    "deterministic": lse.LengthDistribution("deterministic"),
    "gamma": lse.LengthDistribution("gamma", 0.7),
    "heavy gamma": lse.LengthDistribution("gamma", 2.0),
    "log-normal": lse.LengthDistribution("log-normal", 1.3),
    "empirical": lse.LengthDistribution("empirical", values=(100.0, 300.0, 1100.0)),
}


def instance_of(prompts, outputs, kv_tokens):
    only = lse.RequestClass("only", 500.0, 500.0, 4.0, 0.1, LAWS[prompts], LAWS[outputs])
    hardware = replace(lse.presets.QWEN_8B_A100, kv_tokens=kv_tokens)
    return lse.Instance("limited", (only,), hardware, lse.Prices(0.1, 0.2))


@pytest.mark.parametrize("outputs", LAWS)
@pytest.mark.parametrize("prompts", LAWS)
def test_means_are_those_of_the_drawn_requests_that_fit(prompts, outputs):
    instance = instance_of(prompts, outputs, 1350)
    served = fitting_requests(instance).classes[0]
    requests = sample_requests(instance, 50, 300.0, np.random.SeedSequence(1))
    p, d = requests.prompt_tokens, requests.output_tokens
    fits = p + d <= 1350
    n = len(p)
    assert n > 50_000
    share = served.arrival_rate / 4.0
    assert abs(fits.mean() - share) < 4.5 * math.sqrt(share * (1 - share) / n) + 1e-6
    for own, expected in ((p[fits], served.prompt_tokens), (d[fits], served.output_tokens)):
        error = own.std() / math.sqrt(len(own))
        assert abs(own.mean() - expected) < 4.5 * error + 1e-6 * expected


def test_exponential_lengths_have_a_closed_form():
    """Prompt and output together are gamma of shape 2; given it, the prompt is uniform."""
    served = fitting_requests(instance_of("exponential", "exponential", 1000)).classes[0]
    k = 1000 / 500.0
    fits = 1 - math.exp(-k) * (1 + k)
    total = 500 * 2 * (1 - math.exp(-k) * (1 + k + k * k / 2)) / fits
    assert served.arrival_rate == pytest.approx(4 * fits, rel=1e-10)
    assert served.prompt_tokens == pytest.approx(total / 2, rel=1e-10)
    assert served.output_tokens == pytest.approx(total / 2, rel=1e-10)


def test_no_limit_and_a_wide_limit_change_nothing():
    free = replace(instance_of("gamma", "exponential", 1), hardware=lse.presets.QWEN_8B_A100)
    assert fitting_requests(free) is free
    wide = fitting_requests(instance_of("gamma", "exponential", 10**6))
    assert wide.arrival_rates == pytest.approx(free.arrival_rates)
    assert wide.prompt_tokens == pytest.approx(free.prompt_tokens)
    assert wide.output_tokens == pytest.approx(free.output_tokens)


def test_a_limit_that_nothing_fits_is_named():
    with pytest.raises(ConfigurationError, match="kv_tokens: got 900"):
        lse.plan(instance_of("deterministic", "deterministic", 900))
