"""Output-length fits: likeliest laws are found, divergences are those of closed forms."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import digamma

import llm_sched_env as lse
from llm_sched_env.cli import main
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.workloads.divergence import binned_kl, divergences, kolmogorov_smirnov
from llm_sched_env.workloads.length_fits import with_output_lengths
from llm_sched_env.workloads.length_laws import LengthLaw, Sample, likeliest_laws
from llm_sched_env.workloads.locations import find_azure_2023

PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")
FROZEN = {
    "exponential": lambda mean, _: stats.expon(scale=mean),
    "gamma": lambda mean, cv: stats.gamma(cv**-2, scale=mean * cv**2),
    "log-normal": lambda mean, cv: stats.lognorm(
        math.sqrt(math.log1p(cv**2)), scale=mean / math.sqrt(1 + cv**2)
    ),
}
KINDS = list(FROZEN)


def drawn(kind: str, mean: float, cv: float, n: int, seed: int) -> np.ndarray:
    return FROZEN[kind](mean, cv).rvs(n, random_state=np.random.default_rng(seed))


def trace_of(**lengths: np.ndarray) -> lse.Trace:
    tokens = np.concatenate(list(lengths.values()))
    classes = np.repeat(np.arange(len(lengths)), [len(x) for x in lengths.values()])
    arrivals = np.arange(len(tokens), dtype=float)
    return lse.Trace(tuple(lengths), arrivals, classes, np.full(len(tokens), 9.0), tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_laws_are_those_of_scipy(kind):
    law, other = LengthLaw(kind, 200.0, 1.0 if kind == "exponential" else 0.6), FROZEN[kind]
    lengths, chances = np.array([0.5, 40.0, 200.0, 900.0]), np.array([0.01, 0.5, 0.99])
    frozen = other(200.0, law.cv)
    assert frozen.mean() == pytest.approx(200.0)
    assert frozen.std() == pytest.approx(200.0 * law.cv)
    np.testing.assert_allclose(law.below(lengths), frozen.cdf(lengths), rtol=1e-10)
    np.testing.assert_allclose(law.quantile(chances), frozen.ppf(chances), rtol=1e-10)


@pytest.mark.parametrize("cv", [0.05, 0.6, 1.0, 3.0])
def test_fits_are_the_likeliest_of_the_samples_mean(cv):
    lengths = drawn("gamma", 150.0, cv, 400, 1) + 1e-3
    for law in likeliest_laws(Sample.of(lengths)):
        assert law.mean == pytest.approx(lengths.mean())
        own = FROZEN[law.kind](law.mean, law.cv).logpdf(lengths).sum()
        if law.kind != "exponential":
            for other in law.cv * np.array([0.9, 0.999, 1.001, 1.1]):
                assert FROZEN[law.kind](law.mean, other).logpdf(lengths).sum() < own
    shape, _, scale = stats.gamma.fit(lengths, floc=0)
    gamma = likeliest_laws(Sample.of(lengths))[2]
    assert gamma.cv == pytest.approx(shape**-0.5, rel=1e-5)
    assert gamma.mean == pytest.approx(shape * scale, rel=1e-5)


@pytest.mark.parametrize("kind", ["log-normal", "gamma"])
def test_known_laws_are_found(kind):
    fits = lse.fit_output_lengths(trace_of(a=np.ceil(drawn(kind, 300.0, 0.7, 8000, 2))))[0].fits
    best = fits[0]
    assert best.distribution == lse.LengthDistribution(kind, best.cv)
    assert best.cv == pytest.approx(0.7, abs=0.03)
    assert best.divergence.ks < 0.02
    assert best.divergence.kl_ci95[0] == 0.0
    # 2 N KL is a chi-square variable of about bins - 1 - 2 degrees of freedom.
    assert 2 * 8000 * best.divergence.kl < stats.chi2.ppf(0.9999, best.divergence.bins - 3)
    assert best.divergence.kl_bias == pytest.approx((best.divergence.bins - 3) / 16000)


def test_divergence_of_a_gamma_law_from_an_exponential_is_the_closed_form():
    mean, cv = 200.0, 0.6
    k = cv**-2
    entropy = k + math.log(mean / k) + math.lgamma(k) + (1 - k) * float(digamma(k))
    truth = 1 + math.log(mean) - entropy
    sample = Sample.of(drawn("gamma", mean, cv, 400_000, 3))
    law = likeliest_laws(sample)[0]
    assert binned_kl(sample, law, 400, whole=False)[0] == pytest.approx(truth, abs=0.004)
    whole = Sample.of(np.ceil(drawn("gamma", mean, cv, 400_000, 3)))
    assert binned_kl(whole, law, 100, whole=True)[0] == pytest.approx(truth, abs=0.006)


def test_intervals_cover_the_divergence_and_the_bias_is_right():
    mean, samples, n, bins = 200.0, 40, 1000, 32
    known = Sample.of(np.ceil(drawn("gamma", mean, 0.6, 1_000_000, 4)))
    truth = binned_kl(known, likeliest_laws(known)[0], bins, whole=True)[0]
    hits, excess = 0, []
    for seed in range(samples):
        sample = Sample.of(np.ceil(drawn("gamma", mean, 0.6, n, 100 + seed)))
        (_, found), *_ = divergences(sample, bins, 50, np.random.default_rng(seed))
        hits += found.kl_ci95[0] <= truth <= found.kl_ci95[1]
        excess.append(found.kl - found.kl_bias - truth)
    assert hits >= 0.8 * samples  # 95% nominal, less what 50 resamples and 40 samples leave open
    assert abs(np.mean(excess)) < 4 * np.std(excess) / math.sqrt(samples)


def test_bins_of_whole_lengths_coincide_and_keep_their_probability():
    sample = Sample.of(np.array([1.0, 1, 1, 2, 2, 3]))
    law = LengthLaw("exponential", 2.0, 1.0)
    kl, bins = binned_kl(sample, law, 40, whole=True)
    # The 38th of 40 quantiles is 5.99 tokens, the 39th 7.38.
    below = law.below(np.array([1.5, 2.5, 3.5, 4.5, 5.5, 7.5]))
    assert bins == len(below) + 1
    expected = np.diff(below, prepend=0.0)[:3]
    shares = np.array([3, 2, 1]) / 6
    assert kl == pytest.approx(float(shares @ np.log(shares / expected)))


def test_kolmogorov_smirnov_is_that_of_scipy_for_continuous_lengths():
    lengths = drawn("exponential", 50.0, 1.0, 300, 5)
    law = LengthLaw("gamma", 60.0, 0.8)
    expected = stats.ks_1samp(lengths, FROZEN["gamma"](60.0, 0.8).cdf).statistic
    assert kolmogorov_smirnov(Sample.of(lengths), law) == pytest.approx(expected)
    # Whole lengths: at half tokens, where rounding moves nothing.
    whole = np.repeat(np.arange(1.0, 9), 5)
    ends = np.arange(1.5, 9)
    gaps = np.abs(np.arange(1, 9) / 8 - law.below(ends))
    assert kolmogorov_smirnov(Sample.of(whole), law) == pytest.approx(gaps.max())


def test_classes_without_lengths_or_with_one_have_no_fits():
    trace = trace_of(none=np.zeros(3), same=np.full(4, 7.0), many=np.array([0.0, 1, 2, 5, 9, 30]))
    none, same, many = lse.fit_output_lengths(trace)
    assert (none.requests, none.without_output, none.mean, none.fits) == (0, 3, None, ())
    assert (same.mean, same.cv, same.fits) == (7.0, 0.0, ())
    assert (many.requests, many.without_output) == (5, 1)
    assert len(many.fits) == 3
    assert json.loads(json.dumps(many.to_dict()))["fits"][0]["kind"] in KINDS


@pytest.mark.parametrize(
    "lengths", [[500.0] * 999 + [501.0], [1.0] * 9999 + [1e6], [7.0, 7.000001] * 50, [0.5, 1e-9]]
)
def test_lengths_far_from_every_law_have_finite_divergences(lengths):
    (found,) = lse.fit_output_lengths(trace_of(a=np.array(lengths)))
    plain = json.dumps(found.to_dict(), allow_nan=False)
    assert len(json.loads(plain)["fits"]) == 3


def test_the_nearest_fits_go_into_an_instance():
    base = lse.presets.base()
    chat = base.classes[0].name
    lengths = {chat: drawn("gamma", 90.0, 0.5, 2000, 6), "other": drawn("gamma", 9.0, 1, 50, 7)}
    fitted = with_output_lengths(base, lse.fit_output_lengths(trace_of(**lengths)))
    assert fitted.classes[0].output_lengths.kind == "gamma"
    assert fitted.classes[0].output_lengths.cv == pytest.approx(0.5, abs=0.03)
    assert fitted.classes[0].output_tokens == base.classes[0].output_tokens
    assert fitted.classes[1] == base.classes[1]
    assert lse.Instance.from_dict(fitted.to_dict()) == fitted


def test_results_depend_on_the_seed_alone():
    trace = trace_of(a=drawn("gamma", 90.0, 0.5, 300, 8))
    assert lse.fit_output_lengths(trace, seed=1) == lse.fit_output_lengths(trace, seed=1)
    assert lse.fit_output_lengths(trace, seed=1) != lse.fit_output_lengths(trace, seed=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins: got 1"),
        ({"replications": 5}, "replications: got 5"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        lse.fit_output_lengths(trace_of(a=np.array([1.0, 2.0])), **options)


def test_command(capsys, tmp_path):
    path = tmp_path / "t.csv"
    trace_of(chat=drawn("exponential", 90.0, 1.0, 300, 9), one=np.ones(2)).save(path)
    printed = []
    for arguments in ([], ["--json"], ["--bins", "1"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as stop:
            main(["lengths", str(path), *arguments])
        captured = capsys.readouterr()
        printed.append((stop.value.code, captured.out, captured.err))
    table, plain, *bad = printed
    assert table[0] == plain[0] == 0
    assert "log-normal" in table[1]
    chat, one = json.loads(plain[1])["classes"]
    assert {fit["kind"] for fit in chat["fits"]} == set(KINDS)
    assert one["fits"] == []
    for code, out, err in bad:
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith("llmsched: ")


def test_the_table_of_the_page_is_what_comes_out_of_the_azure_traces():
    paths = find_azure_2023()
    if not paths:
        pytest.skip("the Azure traces 2023 are not in data/ or ../shared/data")
    found = {c.name: c for c in lse.fit_output_lengths(lse.load_traces(paths))}
    for label, name in (("conversation", "conv"), ("code", "code")):
        cells = re.search(rf"^\| {label} \|.*$", PAGE, re.MULTILINE)[0].split("|")[1:-1]
        assert int(cells[1].replace(",", "")) == found[name].requests
        for kind, cell in zip(KINDS, (cells[3], cells[5], cells[4]), strict=True):
            fit = next(f for f in found[name].fits if f.distribution.kind == kind)
            shown = list(map(float, re.findall(r"[\d.]+", cell)))
            assert shown[0] == pytest.approx(fit.divergence.kl, abs=0.0006)
            # Random numbers of another NumPy release may move the interval a little.
            assert shown[1:] == pytest.approx(fit.divergence.kl_ci95, abs=0.006)
