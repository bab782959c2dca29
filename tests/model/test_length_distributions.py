"""General lengths: their laws, their independence of everything else, their bills and files."""

from __future__ import annotations

import dataclasses
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_requests import as_stream, drawn_requests, present_requests
from event_accounting import Books
from lightly import lightly
from scipy import stats

from llm_sched_env import presets
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.model.arrival_rates import ArrivalModulation, ArrivalProfile
from llm_sched_env.model.instance import Instance, RequestClass
from llm_sched_env.model.length_distributions import LengthDistribution
from llm_sched_env.planning import PRICINGS, plan
from llm_sched_env.simulation.scheduling.rules import DispatchRule
from llm_sched_env.simulation.simulation import Simulation

SIZE = 20_000
ALARM = 1e-3  # of one p-value: about 40 are looked at, always the same ones
PROMPT, OUTPUT = 400.0, 150.0
OBSERVED = (0.0, 20.0, 20.0, 560.0)  # mean 150; a value may occur twice
EMPIRICAL = LengthDistribution("empirical", values=OBSERVED)
FIXED = LengthDistribution("deterministic")
RULES = [
    DispatchRule("occupancy", "solo-first", "static"),
    DispatchRule("credit", "randomized", "static"),
    DispatchRule("largest-credit", "solo-first", "dynamic"),
    DispatchRule("fcfs", "coupled", "dynamic"),
    DispatchRule("occupancy", "solo-first", "dynamic", prefill_first=True),
]


def law(lengths: LengthDistribution, mean: float) -> Any:
    """The same law by SciPy, from mean and coefficient of variation."""
    if lengths.kind == "exponential":
        return stats.expon(scale=mean)
    cv = lengths.cv
    if lengths.kind == "gamma":
        return stats.gamma(1.0 / cv**2, scale=mean * cv**2)
    deviation = math.sqrt(math.log(1.0 + cv**2))
    return stats.lognorm(deviation, scale=mean / math.sqrt(1.0 + cv**2))


CONTINUOUS = [
    LengthDistribution(),
    LengthDistribution("gamma", 0.3),
    LengthDistribution("gamma", 0.999),
    LengthDistribution("gamma", 1.001),
    LengthDistribution("gamma", 3.0),
    LengthDistribution("log-normal", 0.3),
    LengthDistribution("log-normal", 2.0),
]


def one_class(prompts: LengthDistribution, outputs: LengthDistribution) -> Instance:
    base = presets.overload()
    only = RequestClass("only", PROMPT, OUTPUT, 50.0, 0.1, prompts, outputs)
    return dataclasses.replace(base, classes=(only,))


def drawn(prompts: LengthDistribution, outputs: LengthDistribution, seed: int = 1) -> np.ndarray:
    return drawn_requests(one_class(prompts, outputs), SIZE / 50.0, seed)


def other_cv(lengths: LengthDistribution) -> LengthDistribution:
    """10% off: a wrong law that must be noticed."""
    return LengthDistribution("gamma", 1.1 * (lengths.cv or 1.0))


@pytest.mark.parametrize("lengths", CONTINUOUS, ids=str)
def test_drawn_lengths_have_the_law_that_they_state(lengths: LengthDistribution) -> None:
    records = drawn(lengths, lengths)
    for column, mean in (("prompt_tokens", PROMPT), ("output_tokens", OUTPUT)):
        tokens, exact = records[column], law(lengths, mean)
        assert len(tokens) > 0.97 * SIZE
        assert stats.kstest(tokens, exact.cdf).pvalue > ALARM
        assert stats.kstest(tokens, law(other_cv(lengths), mean).cdf).pvalue < ALARM  # power
        error = exact.std() / math.sqrt(len(tokens))
        assert abs(tokens.mean() - mean) < 3.3 * error
        # The second moment, through a variable that has all its moments.
        ranks = exact.cdf(tokens)
        assert abs(np.var(ranks) - 1 / 12) < 3.3 * math.sqrt(1 / 180 / len(ranks))


def test_fixed_and_observed_lengths() -> None:
    records = drawn(FIXED, EMPIRICAL)
    assert (records["prompt_tokens"] == PROMPT).all()
    values, counts = np.unique(records["output_tokens"], return_counts=True)
    assert values.tolist() == [0.0, 20.0, 560.0]
    expected = np.array([0.25, 0.5, 0.25]) * counts.sum()
    assert stats.chisquare(counts, expected).pvalue > ALARM


def test_extreme_variation_is_drawn_without_harm() -> None:
    for kind, cv in product(("gamma", "log-normal"), (1e-3, 1e3)):
        tokens = drawn(LengthDistribution(kind, cv), FIXED)["prompt_tokens"]
        assert np.isfinite(tokens).all()
        assert (tokens >= 0.0).all()
        if cv < 1.0:
            assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.05)


def eighths(values: np.ndarray) -> np.ndarray:
    """The eighth of its sample that each value is in."""
    return (stats.rankdata(values, "ordinal") - 1).astype(int) * 8 // len(values)


@pytest.mark.parametrize("kind", ["exponential", "gamma", "log-normal"])
def test_lengths_gaps_and_neighbours_are_independent(kind: str) -> None:
    lengths = LengthDistribution(kind, None if kind == "exponential" else 1.4)
    records = drawn(lengths, lengths, seed=5)
    prompt, output = records["prompt_tokens"], records["output_tokens"]
    gap = np.diff(records["arrival_time"], prepend=0.0)
    for a, b in (
        (prompt, output),
        (prompt, gap),
        (output, gap),
        (prompt[1:], prompt[:-1]),
        (output[1:], prompt[:-1]),
    ):
        table = np.zeros((8, 8))
        np.add.at(table, (eighths(a), eighths(b)), 1)
        assert stats.chi2_contingency(table).pvalue > ALARM


# Common random numbers.


def two_classes() -> Instance:
    base = presets.overload()
    first = RequestClass(
        "first", 400.0, 500.0, 1.0, 0.1, LengthDistribution("gamma", 1.6), EMPIRICAL_500
    )
    second = RequestClass("second", 1500.0, 200.0, 1.0, 0.0, LengthDistribution("log-normal", 0.7))
    return dataclasses.replace(base, classes=(first, second))


EMPIRICAL_500 = LengthDistribution("empirical", values=(100.0, 400.0, 1000.0))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_faces_the_same_requests(rule: DispatchRule) -> None:
    instance, n_gpus, seconds = two_classes(), 4, 120.0
    every = drawn_requests(instance, seconds, seed=7, n_gpus=n_gpus)
    controls = plan(instance).controls(n_gpus)
    cluster = Simulation(instance, rule, controls, n_gpus, np.random.SeedSequence(7))
    seen = set()
    for until in np.linspace(0.0, seconds, 9)[1:]:
        cluster.run(until)
        present = present_requests(cluster)
        same = every[present["index"]]
        for name in ("arrival_time", "request_class", "prompt_tokens", "output_tokens"):
            np.testing.assert_array_equal(present[name], same[name])
        seen |= set(present["index"].tolist())
    assert len(seen) > 0.3 * len(every)


def test_the_size_of_the_cluster_changes_no_length() -> None:
    small, large = (drawn_requests(two_classes(), 240.0 / n, 3, n) for n in (2, 6))
    for name in ("request_class", "prompt_tokens", "output_tokens"):
        shared = min(len(small), len(large))
        np.testing.assert_array_equal(small[name][:shared], large[name][:shared])
    np.testing.assert_allclose(small["arrival_time"], 3 * large["arrival_time"][: len(small)])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_drawn_requests_and_their_recording_give_the_same_run(rule: DispatchRule) -> None:
    """And the books of the recording balance."""
    instance, n_gpus, seconds = two_classes(), 4, 120.0
    stream = as_stream(drawn_requests(instance, seconds, seed=7, n_gpus=n_gpus))
    controls = plan(instance).controls(n_gpus)
    logs = []
    for recorded in (None, stream):
        cluster = Simulation(
            instance, rule, controls, n_gpus, np.random.SeedSequence(7),
            stream=recorded, log_events=8000,
        )  # fmt: skip
        cluster.run(seconds)
        logs.append(cluster.events().tolist())
    assert logs[0] == logs[1]
    assert len(logs[0]) > 2000
    Books(instance, rule, controls, n_gpus, stream).replay(cluster.events())


# Bills.


def run_of(instance: Instance, rule: DispatchRule, seconds: float = 200.0) -> Simulation:
    cluster = Simulation(instance, rule, plan(instance).controls(5), 5, np.random.SeedSequence(2))
    cluster.run(seconds)
    return cluster


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_general_lengths_are_billed_as_they_are_and_markov_ones_by_their_means(
    rule: DispatchRule,
) -> None:
    markov = presets.overload()
    first, second = markov.classes
    # One class of general lengths is enough: then every request has its own bill.
    general = dataclasses.replace(
        markov, classes=(first, dataclasses.replace(second, output_lengths=FIXED))
    )
    for instance, own in ((markov, False), (general, True)):
        metrics = run_of(instance, rule).metrics()
        prompts, outputs = metrics.prompt_tokens, metrics.output_tokens
        if not own:
            prompts = metrics.counts["prefilled"] * instance.prompt_tokens
            outputs = metrics.counts["completed"] * instance.output_tokens
        np.testing.assert_allclose(metrics.prefill_revenue, instance.prices.prefill * prompts)
        np.testing.assert_allclose(metrics.decode_revenue, instance.prices.decode * outputs)


@pytest.mark.parametrize("pricing", PRICINGS)
def test_the_plan_knows_means_only(pricing: str) -> None:
    general = two_classes()
    markov = dataclasses.replace(
        general,
        classes=tuple(
            dataclasses.replace(
                c, prompt_lengths=LengthDistribution(), output_lengths=LengthDistribution()
            )
            for c in general.classes
        ),
    )
    ours, theirs = plan(general, pricing), plan(markov, pricing)
    assert ours.value == theirs.value
    np.testing.assert_array_equal(ours.controls(9), theirs.controls(9))


# The bound. The program's constraints are balances of time averages. Its rates enter as tokens
# served per second, an upper bound whatever the law of the lengths, as no rule looks at them: the
# mean length of those admitted is the class's (Wald). The affine law adds time to iterations, and
# whole chunks add iterations: both only slow service. Profiles and bursts change when requests
# come, not how many in the long run; a horizon of whole periods has their mean. Limits of KV tokens
# slow service too, as long as no request is turned away or passed over for its length: here all
# lengths are equal (otherwise see test_hardware_options.py).
# At a finite time a law with cv > 1 has completed (cv^2 - 1) / 2 requests a slot more than its
# rate says (renewal theory): 0.1% here, within SLACK.

HORIZON, SLACK = 2000.0, 0.003
DAY = ArrivalProfile((0.0, 10.0, 10.0, 25.0), (0.2, 3.0, 0.0, 1.0))
BURSTS = ArrivalModulation((0.3, 2.0), ((0.0, 0.5), (0.5, 0.0)))


def everywhere(instance: Instance, **fields: Any) -> Instance:
    """The instance with fields of every class changed."""
    classes = tuple(dataclasses.replace(c, **fields) for c in instance.classes)
    return dataclasses.replace(instance, classes=classes)


def on(instance: Instance, **fields: Any) -> Instance:
    """The instance on changed hardware."""
    return dataclasses.replace(instance, hardware=dataclasses.replace(instance.hardware, **fields))


def lengths_of(kind: str, cv: float | None = None) -> dict[str, LengthDistribution]:
    return dict.fromkeys(("prompt_lengths", "output_lengths"), LengthDistribution(kind, cv))


OVERLOAD = presets.overload()
VARIANTS = {
    "deterministic": everywhere(OVERLOAD, **lengths_of("deterministic")),
    "gamma": everywhere(OVERLOAD, **lengths_of("gamma", 1.5)),
    "log-normal": everywhere(OVERLOAD, **lengths_of("log-normal", 1.5)),
    "affine": on(OVERLOAD, iteration_law="affine"),
    "ceil": on(OVERLOAD, chunking="ceil"),
    "day": everywhere(OVERLOAD, arrival_profile=DAY),
    "bursts": dataclasses.replace(OVERLOAD, modulation=BURSTS),
    "kv": on(everywhere(OVERLOAD, **lengths_of("deterministic")), kv_tokens=45_000),
}


@pytest.mark.parametrize("name", lightly({name: name for name in VARIANTS}, "gamma", "bursts"))
def test_nothing_beyond_the_markov_model_beats_the_bound(name: str) -> None:
    instance, n_gpus = VARIANTS[name], 20
    best = 0.0
    for rule, pricing in product(RULES, PRICINGS):
        fluid = plan(instance, pricing)
        scores = []
        for seed in np.random.SeedSequence(4).spawn(4):
            cluster = Simulation(instance, rule, fluid.controls(n_gpus), n_gpus, seed)
            cluster.run(HORIZON)
            scores.append(cluster.metrics().revenue_rate(pricing) / fluid.value)
        error = np.std(scores, ddof=1) / 2.0
        assert np.mean(scores) < 1.0 + SLACK + 3.0 * error
        best = max(best, float(np.mean(scores)))
    assert best > 0.9  # power: the bound is near


# Files and messages.


@pytest.mark.parametrize("suffix", [".json", ".toml"])
@pytest.mark.parametrize(
    "lengths",
    [FIXED, EMPIRICAL, *CONTINUOUS, LengthDistribution("gamma", np.float32(0.5))],
    ids=str,
)
def test_a_saved_distribution_is_read_back_equal(
    tmp_path: Path, lengths: LengthDistribution, suffix: str
) -> None:
    instance, path = one_class(FIXED, lengths), tmp_path / f"saved{suffix}"
    instance.save(path)
    assert Instance.load(path) == instance
    # The Markov model is what a file means that says nothing.
    assert ("output_lengths" in path.read_text()) == (lengths != LengthDistribution())


def test_observed_lengths_may_come_as_an_array() -> None:
    given = np.array(OBSERVED, np.float32)
    assert LengthDistribution("empirical", values=given) == EMPIRICAL
    assert LengthDistribution("empirical", values=list(given)) == EMPIRICAL


BAD_DISTRIBUTIONS = [
    ({"kind": "normal"}, "length kind", "'normal'", "one of exponential, deterministic"),
    ({"kind": None}, "length kind", "None", "one of exponential"),
    ({"kind": ["gamma"]}, "length kind", "['gamma']", "one of exponential"),
    *(
        ({"kind": kind, "cv": cv}, f"length cv of {kind}", repr(cv), "a number from 0.001 to 1000")
        for kind in ("gamma", "log-normal")
        for cv in (None, 0, -1.0, math.nan, math.inf, True, "1", [1], 1e-200, 1e200, 10**400)
    ),
    ({"kind": "exponential", "cv": 1.0}, "length cv", "1.0", "none for exponential"),
    ({"kind": "empirical", "cv": 1.0, "values": [1]}, "length cv", "1.0", "none for empirical"),
    ({"kind": "gamma", "cv": 1.0, "values": [1]}, "length values", "[1]", "none for gamma"),
    ({"kind": "empirical"}, "length values", "None", "a non-empty list of numbers >= 0"),
    ({"kind": "empirical", "values": []}, "length values", "[]", "a non-empty list"),
    ({"kind": "empirical", "values": "12"}, "length values", "'12'", "a non-empty list"),
    ({"kind": "empirical", "values": 5}, "length values", "5", "a non-empty list"),
    (
        {"kind": "empirical", "values": [0, 0.0]},
        "length values",
        "(0.0, 0.0)",
        "at least one length > 0",
    ),
    ({"kind": "empirical", "values": [1, -1]}, "length values", "-1", "finite numbers >= 0"),
    ({"kind": "empirical", "values": [1, math.nan]}, "length values", "nan", "finite numbers >= 0"),
    ({"kind": "empirical", "values": [[1]]}, "length values", "[1]", "finite numbers >= 0"),
    ({"kind": "empirical", "values": [1, "2"]}, "length values", "'2'", "finite numbers >= 0"),
    ({"kind": "empirical", "values": np.ones((2, 2))}, "length values", "[1.0, 1.0]", "finite"),
]


@pytest.mark.parametrize(("fields", "field", "got", "allowed"), BAD_DISTRIBUTIONS, ids=repr)
def test_a_bad_distribution_is_one_clear_line(
    fields: dict[str, Any], field: str, got: str, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LengthDistribution(**fields)
    message = str(caught.value)
    assert message.startswith(f"{field}: got {got[:100]}")
    assert f"expected {allowed}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_tokens": 151.0}, "class 'only': output_tokens: got 151.0, expected the mean"),
        (
            {"prompt_lengths": "gamma"},
            "class 'only': prompt_lengths: got 'gamma', expected a Len",
        ),
        ({"output_lengths": None}, "class 'only': output_lengths: got None, expected a Length"),
    ],
)
def test_a_class_checks_its_distributions(changes: dict[str, Any], message: str) -> None:
    good = one_class(FIXED, EMPIRICAL).classes[0]
    with pytest.raises(ConfigurationError) as caught:
        dataclasses.replace(good, **changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "gamma", "cv": 0}, "length cv of gamma: got 0"),
        ({"kind": "gamma", "CV": 1}, "instance classes[0] output_lengths: unknown key: got 'CV'"),
        ("gamma", "instance classes[0] output_lengths: got 'gamma', expected a table with"),
        (None, "instance classes[0] output_lengths: got None, expected a table with"),
    ],
)
def test_a_file_names_the_bad_place(table: Any, message: str) -> None:
    data = one_class(FIXED, EMPIRICAL).to_dict()
    data["classes"][0]["output_lengths"] = table
    with pytest.raises(ConfigurationError) as caught:
        Instance.from_dict(data)
    assert str(caught.value).startswith(message)
