"""Training of rules: gradients, momentum, files, and that a run is the same however it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import LearnedRule, corrected_rule, load_rule, rounded
from llm_sched_env.errors import CheckpointError, ConfigurationError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.versions import versions
from llm_sched_env.model.priority_network import (
    CLASS_FEATURES,
    CORRECTIONS,
    HIDDEN_INPUTS,
    STATE_FEATURES,
    RankCorrection,
    weight_shapes,
)
from llm_sched_env.planning import plan
from llm_sched_env.planning.class_profile import class_profile
from llm_sched_env.planning.slot_ranks import slot_ranks
from llm_sched_env.simulation.simulation import Simulation
from llm_sched_env.workloads.generated import requests_of_run
from llm_sched_env.workloads.trace import Trace
from research.rule_training import evolution
from research.rule_training.evolution import Momentum, Population, sampled_gradient
from research.rule_training.paired_runs import scores_of_pairs
from research.rule_training.replayed_scenarios import (
    SECONDS,
    SPEEDS,
    fingerprint,
    replayed_scenario,
)
from research.rule_training.scenarios import TrainingScenario
from research.rule_training.trainer import RULE_NAME, RuleTraining, train_rule

TINY = RuleTraining(
    lse.presets.overload().to_dict(), 2, generations=5, scenarios=2, pairs=2, hidden_units=3,
    validation_scenarios=2, validate_every=2, output_noise=0.2,
)  # fmt: skip
SCENARIO = TrainingScenario(lse.presets.overload(), 3, warmup=20.0, horizon=80.0)


def random_weights(seed: int, hidden: int) -> np.ndarray:
    sizes = [np.prod(shape) for shape in weight_shapes(hidden).values()]
    return np.random.default_rng(seed).normal(0.0, 0.5, sum(sizes))


# The evolution strategy.


def on_a_known_landscape(monkeypatch: pytest.MonkeyPatch, slope: np.ndarray) -> None:
    """Scores are linear in the weights, with a bend and the noise that a pair shares."""

    def scores(scenario: Any, pairs: np.ndarray, hidden: int, seeds: list[Any]) -> np.ndarray:
        shared = np.array([np.random.default_rng(seed).normal() for seed in seeds])
        return pairs @ slope - 0.01 * (pairs**2).sum(axis=-1) + shared[:, None]

    monkeypatch.setattr(evolution, "scores_of_pairs", scores)


def everything(pairs: int) -> Population:
    """All weights of a network of one hidden unit are trained."""
    return Population(
        pairs, 0.1, 0.3, 0.2, 0.4, 1,
        inputs=(*CLASS_FEATURES, *STATE_FEATURES),
        reactions=CORRECTIONS,
        corrections=CORRECTIONS,
        gains=CLASS_FEATURES,
    )  # fmt: skip


def test_the_sampled_gradient_points_uphill(monkeypatch: pytest.MonkeyPatch) -> None:
    population = everything(9000)
    rng = np.random.default_rng(3)
    slope = rng.normal(size=len(population.deviations))
    on_a_known_landscape(monkeypatch, slope)
    weights = 0.1 * rng.normal(size=len(slope))
    gradient, mean = sampled_gradient(SCENARIO, weights, population, np.random.SeedSequence(1))
    uphill = population.deviations * (slope - 0.02 * weights)
    cosine = gradient @ uphill / np.linalg.norm(gradient) / np.linalg.norm(uphill)
    assert cosine > 0.9
    # In shares of the usual difference, it is a unit vector and some noise.
    assert 0.9 < np.linalg.norm(gradient) < 1.2
    assert mean == pytest.approx(weights @ slope, abs=1.0)
    again, _ = sampled_gradient(SCENARIO, weights, population, np.random.SeedSequence(1))
    np.testing.assert_array_equal(gradient, again)


def test_what_is_at_stake_counts_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    population = everything(50)
    slope = np.ones(len(population.deviations))
    start = np.zeros(len(slope))
    lengths = []
    for scale in (1e-6, 1.0, 1e4):
        on_a_known_landscape(monkeypatch, scale * slope)
        gradient = sampled_gradient(SCENARIO, start, population, np.random.SeedSequence(2))[0]
        lengths.append(np.linalg.norm(gradient))
    assert lengths[0] < 0.01 * lengths[1], "where nothing is at stake"
    assert lengths[1] == pytest.approx(lengths[2], rel=0.01)


def test_noise_is_by_kind_of_weight() -> None:
    network = RankCorrection.from_parameters(everything(1).deviations, 1)
    assert (network.output[:, :-1] == 0.3).all()
    assert (network.output[:, -1] == 0.2).all()
    assert not network.gain[:, :-1].any()
    assert (network.gain[:, -1] == 0.4).all()
    assert (network.static == 0.1).all()
    assert (network.state == 0.1).all()


def test_what_is_not_trained_has_no_noise() -> None:
    chosen = Population(
        1, 0.1, 0.3, 0.0, 0.4, 2,
        inputs=(CLASS_FEATURES[4], STATE_FEATURES[7]),
        reactions=CORRECTIONS[1:3],
        corrections=CORRECTIONS[3:5],
        gains=(CLASS_FEATURES[9],),
    )  # fmt: skip
    network = RankCorrection.from_parameters(chosen.deviations, 2)
    assert np.flatnonzero(network.static.any(axis=0)).tolist() == [4]
    assert np.flatnonzero(network.state.any(axis=0)).tolist() == [7]
    assert np.argwhere(network.output).tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert np.argwhere(network.gain).tolist() == [[3, 2, 9], [4, 2, 9]]


def test_momentum_is_a_weighted_mean_from_the_first_step_on() -> None:
    gradients = np.random.default_rng(1).normal(size=(30, 7))
    momentum = Momentum(np.zeros(7))
    for count in range(1, len(gradients) + 1):
        direction = momentum.step(gradients[count - 1])
        ages = np.arange(count)[::-1]
        weights = 0.9**ages / (0.9**ages).sum()
        square = weights @ (gradients[:count] ** 2).mean(axis=1)
        np.testing.assert_allclose(direction, weights @ gradients[:count] / np.sqrt(square))
    # Weights that are not trained do not make the steps of the others longer.
    padded, plain = Momentum(np.zeros(9)), Momentum(np.zeros(7))
    for gradient in gradients[:3]:
        wider = padded.step(np.append(gradient, [0.0, 0.0]))
        np.testing.assert_allclose(wider[:7], plain.step(gradient))
    constant = Momentum(np.zeros(7))
    for _ in range(5):
        np.testing.assert_allclose(
            constant.step(gradients[0]), gradients[0] / np.sqrt(np.mean(gradients[0] ** 2))
        )


def test_scores_are_shares_of_the_bound_on_shared_requests() -> None:
    """Of each row the same as a run alone; equal networks of a pair earn the same."""
    weights = [random_weights(1, 2), random_weights(2, 2)]
    pairs = np.array([[weights[0], weights[1]], [weights[1], weights[1]]])
    seeds = np.random.SeedSequence(4).spawn(2)
    scores = scores_of_pairs(SCENARIO, pairs, 2, seeds)
    assert scores.shape == (2, 2)
    assert scores[1, 0] == scores[1, 1] != scores[0, 1]
    fluid, n = plan(SCENARIO.instance), SCENARIO.n_gpus
    for k, seed in enumerate(seeds):
        for side in range(2):
            rule = corrected_rule(RankCorrection.from_parameters(pairs[k, side], 2))
            alone = Simulation(
                SCENARIO.instance, rule, fluid.controls(n), n, seed, fluid.occupancy,
                ranks=slot_ranks(fluid, n), profile=class_profile(fluid, n),
            )  # fmt: skip
            alone.run(SCENARIO.warmup)
            alone.reset_metrics()
            alone.run(SCENARIO.horizon)
            rate = alone.metrics().bundled_revenue.sum() / (SCENARIO.horizon - SCENARIO.warmup)
            assert scores[k, side] == pytest.approx(rate / n / fluid.value, rel=1e-9)


# A training run.


def content(path: Path) -> dict[str, Any]:
    """Of a rule file, but for what clocks say."""
    data = json.loads(path.read_text())
    del data["seconds"]
    for row in data["curve"]:
        del row["seconds"]
    return data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_rule(TINY, tmp_path_factory.mktemp("trained"))


@pytest.mark.core
def test_a_run_leaves_a_rule_with_its_history(trained: Path) -> None:
    rule = LearnedRule.load(trained)
    assert rule.generations == TINY.generations
    assert rule.network.hidden_units == TINY.hidden_units
    assert [row["generation"] for row in rule.curve] == [2, 4]
    assert all(abs(row["gain"]) < 1 and row["gain_error"] >= 0 for row in rule.curve)
    assert rule.configuration == json.loads(json.dumps(TINY.__dict__))
    assert rule.versions == versions()
    assert np.abs(rule.network.output).max() > 0
    assert not list(trained.parent.glob("*partial*"))


def test_the_seed_decides_and_processes_do_not(trained: Path, tmp_path: Path) -> None:
    again = train_rule(TINY, tmp_path / "again", executor=Executor(jobs=2))
    assert content(again) == content(trained)
    other = train_rule(replace(TINY, seed=1), tmp_path / "other")
    assert content(other)["weights"] != content(trained)["weights"]


@pytest.mark.parametrize("killed_in", [1, pytest.param(2, marks=pytest.mark.core), 3, 5])
def test_a_killed_run_goes_on_to_the_same_rule(
    trained: Path, tmp_path: Path, killed_in: int
) -> None:
    def kill(row: dict[str, float]) -> None:
        if row["generation"] == killed_in:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rule(TINY, tmp_path, on_generation=kill)
    assert (tmp_path / RULE_NAME).exists() == (killed_in >= TINY.validate_every)
    seen: list[float] = []
    path = train_rule(TINY, tmp_path, on_generation=lambda row: seen.append(row["generation"]))
    assert seen[0] == 1 + killed_in // TINY.validate_every * TINY.validate_every
    assert seen[-1] == TINY.generations
    assert content(path) == content(trained)


def test_a_finished_run_is_not_trained_again(trained: Path) -> None:
    before = content(trained)
    rows: list[Any] = []
    train_rule(TINY, trained.parent, on_generation=rows.append)
    assert not rows
    assert content(trained) == before


@pytest.mark.core
def test_other_settings_in_the_folder_are_refused(trained: Path) -> None:
    before = trained.read_bytes()
    with pytest.raises(ConfigurationError) as error:
        train_rule(replace(TINY, step=0.5, pairs=3), trained.parent)
    message = str(error.value)
    assert "\n" not in message
    assert "pairs, step" in message
    assert "another folder" in message
    assert trained.read_bytes() == before


def test_a_training_may_start_from_a_rule(trained: Path, tmp_path: Path) -> None:
    network = LearnedRule.load(trained).network
    still = replace(TINY, generations=1, step=1e-9, weight_decay=0.0, initial="trained")
    path = train_rule(still, tmp_path / "still", initial=network)
    for name in weight_shapes(1):
        np.testing.assert_allclose(
            getattr(LearnedRule.load(path).network, name), getattr(network, name), atol=2e-5
        )
    with pytest.raises(ConfigurationError, match=r"hidden_units: got 2.*least 3, the hidden"):
        train_rule(replace(still, hidden_units=2), tmp_path / "narrow", initial=network)


def test_a_rule_with_more_units_is_the_same_at_first_and_may_change(
    trained: Path, tmp_path: Path
) -> None:
    network = LearnedRule.load(trained).network
    more = replace(TINY, hidden_units=5, generations=1, initial="trained", reactions=CORRECTIONS)
    same, changed = (
        LearnedRule.load(train_rule(settings, tmp_path / name, initial=network)).network
        for name, settings in (("same", replace(more, step=1e-9)), ("changed", more))
    )
    new = HIDDEN_INPUTS[3:5]
    assert [STATE_FEATURES[f] for f in np.argmax(same.state[3:], axis=1)] == list(new)
    assert not same.output[:, 3:5].any()
    assert changed.output[:, 3:5].all()
    scores = [
        lse.evaluate(
            corrected_rule(own, TINY.foresight), "overload", 2,
            horizon=80, warmup=20, replications=2,
        ).scores
        for own in (network, same)
    ]  # fmt: skip
    assert scores[0] == scores[1]


@pytest.mark.core
def test_an_untrained_rule_is_trunk_reservation(tmp_path: Path) -> None:
    """Hidden units read a feature each, without effect; a tiny step is rounded away."""
    path = train_rule(replace(TINY, generations=1, step=1e-9), tmp_path)
    network = LearnedRule.load(path).network
    assert np.argwhere(network.output).tolist() == [[CORRECTIONS.index("by prefill time"), 0]]
    assert (np.count_nonzero(np.hstack([network.static, network.state]), axis=1) == 1).all()
    settings = {"horizon": 60.0, "warmup": 10.0, "replications": 2}
    rule, trunk = (
        lse.evaluate(policy, "overload", 3, **settings)
        for policy in (str(path), "trunk-reservation")
    )
    assert rule.scores == trunk.scores


def test_step_sizes_fall_to_a_tenth() -> None:
    sizes = [TINY.step_size(g) for g in range(TINY.generations + 1)]
    assert sizes[0] == TINY.step
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(0.1 * TINY.step)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generations", 0), ("scenarios", 0.5), ("pairs", True), ("hidden_units", 0),
        ("validation_scenarios", 1), ("validate_every", 0), ("seed", -1), ("step", 0.0),
        ("noise", float("nan")), ("output_noise", -1.0), ("n_gpus", None), ("foresight", 0.0),
        ("reactions", ("no such",)), ("horizon", 60.0),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_line(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field) as error:
        replace(TINY, **{field: value})
    assert "\n" not in str(error.value)


def test_a_reacting_specialist_has_a_unit_for_every_deviation() -> None:
    plain = RuleTraining.specialist(lse.presets.base(), 2)
    reacting = RuleTraining.specialist(lse.presets.base(), 2, reacting=True, horizon=900.0)
    assert plain.hidden_units < reacting.hidden_units == len(HIDDEN_INPUTS)
    assert set(plain.reactions) < set(reacting.reactions)
    assert plain.scenario(0).horizon < reacting.scenario(0).horizon == 900.0
    assert reacting.corrections == plain.corrections


# A recorded trace.


def recorded(seed: int = 0) -> Trace:
    """Ten minutes of requests of two classes for two GPUs."""
    return requests_of_run("base", 2, 600.0, seed)


def test_parts_of_a_trace_are_its_requests_at_another_speed() -> None:
    trace = recorded()
    parts = [replayed_scenario(trace, lse.presets.base(), 2, k) for k in range(12)]
    first = []
    for part in parts:
        stream, tokens = part.stream, trace.prompt_tokens.tolist()
        assert stream is not None
        assert 0.0 <= stream.arrival_time[0] <= stream.arrival_time[-1] <= part.horizon == SECONDS
        start = tokens.index(stream.prompt_tokens[0])
        rows = slice(start, start + len(stream.prompt_tokens))
        first.append(start)
        np.testing.assert_array_equal(stream.prompt_tokens, trace.prompt_tokens[rows])
        np.testing.assert_array_equal(stream.request_class, trace.request_class[rows])
        gaps = np.diff(trace.arrival_time[rows]) / np.diff(stream.arrival_time)
        assert SPEEDS[0] <= np.median(gaps) <= SPEEDS[1]
        np.testing.assert_allclose(gaps, np.median(gaps), rtol=1e-6)
    assert len(set(first)) == len(parts)
    again = replayed_scenario(trace, lse.presets.base(), 2, 3).stream
    assert again is not None
    np.testing.assert_array_equal(again.arrival_time, parts[3].stream.arrival_time)
    whole = replayed_scenario(trace.window(0.0, 60.0), lse.presets.base(), 2, 0)
    assert whole.horizon < 80.0


def test_what_a_trace_brings_is_what_is_served() -> None:
    """The same stream brings the same to all, another one something else."""
    weights = np.tile(random_weights(1, 2), (2, 2, 1))
    shares = []
    for part in (0, 0, 1):
        scenario = replayed_scenario(recorded(), lse.presets.base(), 2, part)
        shares.append(scores_of_pairs(scenario, weights, 2, np.random.SeedSequence(4).spawn(2)))
    np.testing.assert_array_equal(shares[0], shares[1])
    assert (shares[0] != shares[2]).all()
    assert (shares[0][:, 0] == shares[0][:, 1]).all()
    assert 0.2 < shares[0].min() <= shares[0].max() < 1.5


def test_a_training_on_a_trace_names_it(tmp_path: Path) -> None:
    trace = recorded()
    named = replace(TINY, trace=fingerprint(trace), generations=1, validate_every=1)
    rule = LearnedRule.load(train_rule(named, tmp_path / "trace", trace=trace))
    assert rule.configuration["trace"]["requests"] == len(trace)
    assert rule.configuration["trace"]["sha256"] != fingerprint(recorded(1))["sha256"]
    drawn = train_rule(replace(named, trace=None), tmp_path / "drawn")
    assert content(drawn)["weights"] != content(tmp_path / "trace" / RULE_NAME)["weights"]
    for other, configuration in ((recorded(1), named), (None, named), (trace, TINY)):
        with pytest.raises(ConfigurationError, match="trace") as error:
            train_rule(configuration, tmp_path / "other", trace=other)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "other").exists()


# Files.


@pytest.mark.core
def test_a_file_holds_the_rule_to_the_last_bit(trained: Path, tmp_path: Path) -> None:
    rule = LearnedRule.load(trained)
    network = RankCorrection.from_parameters(rounded(random_weights(5, 4)), 4)
    rule = replace(rule, network=network)
    rule.save(tmp_path / "copy.json")
    copy = LearnedRule.load(tmp_path / "copy.json")
    np.testing.assert_array_equal(copy.network.parameters, network.parameters)
    for field in ("configuration", "generations", "seconds", "curve", "versions"):
        assert getattr(copy, field) == getattr(rule, field)
    copy.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "copy.json").read_bytes()
    correction = load_rule(tmp_path / "copy.json").correction
    assert correction is not None
    np.testing.assert_array_equal(correction.parameters, network.parameters)


def damaged(trained: Path) -> dict[str, str]:
    data = json.loads(trained.read_text())

    def changed(**fields: Any) -> str:
        return json.dumps({**data, **fields})

    weights = data["weights"]
    ragged = {**weights, "state": [*weights["state"][:-1], weights["state"][-1][:-1]]}
    return {
        "garbage": "\x00no rule\nat all",
        "empty": "",
        "a list": "[1, 2]",
        "a text": '"rule"',
        "cut": trained.read_text()[:300],
        "other features": changed(state_features=data["state_features"][::-1]),
        "features of classes": changed(class_features=data["class_features"][1:]),
        "other outputs": changed(corrections=["priority"]),
        "no foresight": changed(configuration={**data["configuration"], "foresight": "far"}),
        "no settings": changed(configuration={}),
        "no weights": json.dumps({k: v for k, v in data.items() if k != "weights"}),
        "fewer weights": changed(weights={k: weights[k] for k in ("static", "state")}),
        "more weights": changed(weights={**weights, "third": [[1.0]]}),
        "ragged weights": changed(weights=ragged),
        "weights of no size": changed(weights={k: [] for k in weights}),
        "no number": changed(weights={**weights, "output": [["a"]]}),
        "infinite": trained.read_text().replace(str(weights["output"][0][0]), "Infinity"),
        "more fields": changed(further=1),
    }


@pytest.mark.core
def test_files_that_are_no_rule_are_refused_in_one_line(trained: Path, tmp_path: Path) -> None:
    for name, text in damaged(trained).items():
        path = tmp_path / "damaged.json"
        path.write_text(text)
        with pytest.raises(CheckpointError) as error:
            LearnedRule.load(path)
        message = str(error.value)
        assert "\n" not in message, name
        assert "damaged.json" in message
        assert "train-rule" in message
        with pytest.raises(CheckpointError):
            lse.evaluate(str(path), "base", 1, horizon=10.0, warmup=0.0, replications=1)
    faults = {tmp_path / "none.json": "no such file", tmp_path: "expected a file"}
    for missing, message in faults.items():
        with pytest.raises(CheckpointError, match=message):
            LearnedRule.load(missing)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError):
        LearnedRule.load(tmp_path / "binary.json")


# The command.


@pytest.mark.core
def test_the_command_trains_a_rule_that_evaluate_runs(
    run: Any, run_research: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = ["train-rule", "--instance", "base", "--gpus", 1, "--generations", 2, "--jobs", 1]
    code, out, _ = run_research(*arguments, "--out", folder, "--json")
    assert code == 0
    report = json.loads(out)
    assert report["generations"] == 2
    assert Path(report["rule"]) == folder / RULE_NAME
    short = ["--horizon", 60, "--warmup", 20, "--replications", 2]
    code, out, _ = run(
        "evaluate",
        "--policy",
        report["rule"],
        "--instance",
        "dolly15k",
        "--gpus",
        3,
        *short,
        "--json",
    )
    assert code == 0
    record = json.loads(out)
    assert record["policy"] == "run"
    assert 0.3 < record["score"]["mean"] < 1.2
    more = ["--initial", report["rule"], "--reacting", "--seconds", 90]
    code, out, _ = run_research(*arguments, "--out", tmp_path / "next", *more)
    assert code == 0
    assert "2 generations" in out
    reacting = LearnedRule.load(tmp_path / "next" / RULE_NAME)
    assert reacting.network.hidden_units == len(HIDDEN_INPUTS)
    assert reacting.configuration["horizon"] == 90.0
    code, _, err = run_research(*arguments, "--out", folder, "--seed", 4)
    assert code == 2
    *progress, message = err.splitlines()
    assert "other settings of seed" in message
    assert not any("python -m research" in line for line in progress)


def test_the_command_trains_on_a_window_of_a_trace(run_research: Any, tmp_path: Path) -> None:
    recorded().save(tmp_path / "requests.csv")
    command = ["train-rule", "--trace", tmp_path / "requests.csv", "--gpus", 2, "--jobs", 1]
    more = ["--window", "0,300", "--speed", 1.5, "--generations", 1, "--look-ahead", 20]
    code, out, err = run_research(*command, *more, "--out", tmp_path / "run", "--json")
    assert code == 0, err
    rule = LearnedRule.load(json.loads(out)["rule"])
    assert rule.rule.foresight == rule.configuration["foresight"] == 20.0
    assert set(rule.configuration["trace"]["classes"]) == {"decode-heavy", "prefill-heavy"}
    assert 150.0 < rule.configuration["trace"]["seconds"] <= 200.0
    code, _, err = run_research(*command, "--instance", "base", "--out", tmp_path / "both")
    assert code == 2
    assert "--instance" in err


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--look-ahead", 0], "foresight"),
        (["--window", "0,9"], "--window"),
        (["--instance", "base"], "--gpus"),
        (["--gpus", 3], "--instance"),
        (["--generations", 0], "--generations"),
        (["--initial", "nowhere.json"], "nowhere.json"),
        (["--instance", "nowhere", "--gpus", 2], "nowhere"),
        (["--reacting"], "--reacting"),
        (["--seconds", 900], "--seconds"),
        (["--instance", "base", "--gpus", 2, "--seconds", 30], "horizon"),
    ],
)
def test_the_command_refuses_in_one_line(
    run_research: Any, tmp_path: Path, wrong: list[Any], word: str
) -> None:
    code, out, err = run_research("train-rule", "--out", tmp_path / "run", *wrong)
    assert code == 2
    assert out == ""
    assert word in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
