"""Evaluation during training: the numbers of ``evaluate``, paired, and no trace in the training."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

from routing_cases import talking_instance
from small_training import SMALL, small

import llm_sched_env as lse
from llm_sched_env.agents.checkpoint import Checkpoint, load_policy
from llm_sched_env.agents.controller import Controller
from llm_sched_env.agents.curve_files import write_curve
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.training_evaluation import HELD_OUT_SEED, SELECTION_SEED, PairedEvaluation
from llm_sched_env.agents.training_variants import variant


def one_by_one(policy, instance, configuration, seed, runs):
    return lse.evaluate(
        policy,
        instance,
        configuration.n_gpus,
        horizon=configuration.evaluation_horizon,
        warmup=configuration.evaluation_warmup,
        replications=runs,
        seed=seed,
    ).scores


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("evaluated training")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    # Exploration and steps that lead away from the rule; the last weights are looked at.
    return Checkpoint.load(train(small(learning_rate=0.01), tmp_path_factory.mktemp("run")))


def test_all_runs_at_once_earn_what_evaluate_gives_one_by_one(trained):
    configuration = trained.configuration
    evaluation = PairedEvaluation(configuration, 11, runs=3)
    policy = load_policy_of(trained)
    controller = policy.controller(evaluation.plan.instance, evaluation.plan, 5)
    assert evaluation.scores(controller) == pytest.approx(
        one_by_one(policy, "overload", configuration, 11, 3), abs=1e-6
    )
    for name, scores in evaluation.references().items():
        assert scores.tolist() == list(one_by_one(name, "overload", configuration, 11, 3))


def load_policy_of(checkpoint):
    from llm_sched_env.agents.trained_policy import TrainedPolicy

    return TrainedPolicy(checkpoint)


@pytest.mark.extended
def test_all_runs_at_events_earn_what_evaluate_gives_one_by_one(tmp_path):
    configuration = variant("event").configuration(
        lse.presets.overload().to_dict(),
        **{**SMALL, "total_steps": 100, "imitation_steps": 400, "imitate": ""},
    )
    path = train(configuration, tmp_path)
    policy = load_policy(path)
    evaluation = PairedEvaluation(configuration, 11, runs=3)
    controller = policy.controller(evaluation.plan.instance, evaluation.plan, 5)
    assert evaluation.scores(controller) == pytest.approx(
        one_by_one(policy, "overload", configuration, 11, 3), abs=1e-9
    )


@pytest.mark.extended
def test_all_runs_of_a_router_earn_what_evaluate_gives_one_by_one(tmp_path):
    """On conversations, which are drawn for each run; beside compiled routers on the same."""
    configuration = variant("routing").configuration(
        talking_instance().to_dict(),
        **{**SMALL, "total_steps": 100, "imitation_steps": 400, "evaluation_horizon": 30.0},
    )
    policy = load_policy(train(configuration, tmp_path))
    evaluation = PairedEvaluation(configuration, 11, runs=3)
    controller = policy.controller(evaluation.plan.instance, evaluation.plan, 5)
    given = (talking_instance(), configuration, 11, 3)
    assert evaluation.scores(controller) == pytest.approx(one_by_one(policy, *given), abs=1e-9)
    for name, scores in evaluation.references().items():
        assert scores.tolist() == list(one_by_one(name, *given))


def test_intervals_are_those_of_the_paired_t_test(trained):
    evaluation = PairedEvaluation(trained.configuration, 11, runs=6)
    policy = load_policy_of(trained)
    controller = policy.controller(evaluation.plan.instance, evaluation.plan, 5)
    row, scores = evaluation.row(controller), evaluation.scores(controller)
    for name in ("token-bucket", "gate-and-route"):
        expected = stats.ttest_rel(scores, evaluation.references()[name]).confidence_interval()
        measured = row[f"minus {name} low"], row[f"minus {name} high"]
        assert measured == pytest.approx(tuple(expected))


@pytest.mark.extended
def test_evaluating_does_not_change_the_training(tmp_path, trained):
    seldom = small(learning_rate=0.01, evaluation_every=1000)
    other = Checkpoint.load(train(seldom, tmp_path))
    assert [row["steps"] for row in trained.evaluations] == [0, 200, 300]
    assert [row["steps"] for row in other.evaluations] == [0, 300]
    first, *_, last = trained.evaluations
    assert {**other.evaluations[0], "seconds": 0} == {**first, "seconds": 0}
    assert {**other.evaluations[1], "seconds": 0} == {**last, "seconds": 0}
    assert other.normaliser == trained.normaliser


def test_the_first_evaluation_is_the_rule_itself(trained):
    row = trained.evaluations[0]
    for end in ("", " low", " high"):
        assert row[f"minus trunk-reservation{end}"] == pytest.approx(0.0, abs=1e-12)
    assert row["minus gate-and-route"] > 0.1


@pytest.mark.extended
def test_held_out_runs_chose_nothing(trained):
    """Other requests than those of the curve, twice as many runs, of the weights that are kept."""
    assert SELECTION_SEED != HELD_OUT_SEED
    configuration = trained.configuration
    runs = 2 * configuration.evaluation_runs
    given = ("overload", configuration, HELD_OUT_SEED, runs)
    rule = one_by_one(load_policy_of(trained), *given)
    assert trained.held_out["score"] == pytest.approx(np.mean(rule), abs=1e-6)


def test_large_clusters_are_evaluated_in_fewer_runs():
    assert [small(n_gpus=n).evaluation_runs for n in (5, 50, 100, 200, 500)] == [32, 32, 16, 8, 8]


def test_curve_files(tmp_path, trained):
    written = write_curve(trained, tmp_path)
    lines = (tmp_path / "curve.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    steps = {row["steps"] for row in trained.curve} | {0.0, 200.0, 300.0}
    assert [float(row["steps"]) for row in rows] == sorted(steps)
    assert float(rows[-1]["score"]) == trained.evaluations[-1]["score"]
    assert written[0].name == "curve.csv"


class Recorder:
    """A network that notes what it is shown, and says nothing."""

    def __init__(self):
        self.shown = []

    def predict(self, observation, state, episode_start, deterministic):
        self.shown.append((observation.copy(), state, episode_start.copy()))
        assert deterministic
        return np.zeros((len(observation), 2)), len(self.shown)


def test_a_controller_remembers_frames_and_state_until_an_episode_begins():
    network = Recorder()
    controller = Controller(
        network, np.array([1.0, 0.0]), np.array([4.0, 1.0]), frames=2, center=np.array([0.2, 0.9])
    )
    controller.begin(3)
    for value in (3.0, 5.0):
        controls = controller.act(np.full((3, 2), value))
        np.testing.assert_allclose(controls, np.tile([0.2, 0.9], (3, 1)))
    controller.begin(1)
    controller.act(np.full((1, 2), 7.0))
    first, second, third = network.shown
    np.testing.assert_allclose(first[0][0], [0, 0, 1, 3], atol=1e-6)
    np.testing.assert_allclose(second[0][0], [1, 3, 2, 5], atol=1e-6)
    np.testing.assert_allclose(third[0][0], [0, 0, 3, 7], atol=1e-6)
    assert [shown[1] for shown in network.shown] == [None, 1, None]
    assert [shown[2].all() for shown in network.shown] == [True, False, True]
