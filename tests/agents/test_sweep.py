"""Sweeps of training runs: the same agents wherever they are trained and however often stopped."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("torch")

import llm_sched_env as lse
from llm_sched_env.agents.checkpoint import Checkpoint, load_policy
from llm_sched_env.agents.configuration import TrainingConfiguration
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.sweep import sweep, training_runs
from llm_sched_env.errors import CheckpointError, ConfigurationError
from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare, rows
from llm_sched_env.evaluation.evaluation_cache import evaluation_file
from llm_sched_env.evaluation.executor import Executor

SMALL = {"n_envs": 4, "rollout_steps": 25, "batch_size": 50, "horizon": 50.0}
PART = 150
ONE = Executor(jobs=1)


def small(steps=300, seed=0, **more):
    settings = {"n_gpus": 3, "total_steps": steps, "seed": seed, **SMALL, **more}
    return TrainingConfiguration(lse.presets.overload().to_dict(), **settings)


def swept(configurations, out, *, part=PART, executor=ONE, on_part=None):
    """The runs after a sweep."""
    runs = training_runs(configurations, out, part)
    sweep(runs, executor, on_part)
    return runs


def weights(path):
    """Of the learner, in their order, with the moments of its optimiser."""
    learner = Checkpoint.load(path).learner
    return [learner[name].tolist() for name in sorted(learner) if name.startswith("policy")]


# One worker trains what they all look at.
pytestmark = pytest.mark.xdist_group("sweep")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two seeds, trained one after the other without a stop."""
    out = tmp_path_factory.mktemp("whole")
    return swept([small(), small(seed=1)], out)


@pytest.mark.extended
def test_every_run_has_a_folder_and_its_steps(whole):
    assert len({run.folder for run in whole}) == 2
    for run, seed in zip(whole, (0, 1), strict=True):
        saved = Checkpoint.load(run.folder / "agent.zip")
        assert (saved.configuration, saved.steps) == (small(seed=seed), 300)
        assert run.folder.name.startswith(f"overload-n3-seed{seed}-")
        assert [path.name for path in run.folder.iterdir()] == ["agent.zip"]
    assert weights(whole[0].checkpoint) != weights(whole[1].checkpoint)


@pytest.mark.extended
def test_a_run_of_one_part_is_what_train_gives(tmp_path):
    run = swept([small(200)], tmp_path / "sweep", part=200)[0]
    assert weights(run.checkpoint) == weights(train(small(200), tmp_path / "train"))


@pytest.mark.extended
def test_finished_runs_are_left_alone(whole):
    before = [run.checkpoint.stat().st_mtime_ns for run in whole]
    trained = []
    configurations = [run.configuration for run in whole]
    again = swept(configurations, whole[0].folder.parent, on_part=trained.append)
    assert (trained, again) == ([], whole)
    assert [run.checkpoint.stat().st_mtime_ns for run in again] == before


@pytest.mark.extended
def test_a_run_that_was_killed_before_its_last_evaluation_is_finished(tmp_path):
    run = swept([small(100)], tmp_path)[0]
    whole = Checkpoint.load(run.checkpoint)
    dataclasses.replace(whole, held_out={}).save(run.checkpoint)
    assert run.next_target() == 100
    swept([small(100)], tmp_path)
    again = Checkpoint.load(run.checkpoint)
    assert (again.held_out, again.steps) == (whole.held_out, whole.steps)
    assert run.next_target() is None


@pytest.mark.extended
def test_a_stopped_sweep_goes_on_to_the_same_agents(whole, tmp_path):
    configurations = [run.configuration for run in whole]

    def stop(_run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(configurations, tmp_path, on_part=stop)
    assert len(list(tmp_path.rglob("agent.zip"))) == 1
    trained = []
    runs = swept(configurations, tmp_path, on_part=trained.append)
    assert len(trained) == 3
    for run, uninterrupted in zip(runs, whole, strict=True):
        assert weights(run.checkpoint) == weights(uninterrupted.checkpoint)


@pytest.mark.extended
def test_more_steps_continue_a_run_and_other_settings_are_another(tmp_path):
    first = swept([small(100)], tmp_path)[0]
    more = swept([small(250)], tmp_path)[0]
    assert first.folder == more.folder
    assert Checkpoint.load(more.checkpoint).steps >= 250
    for other, part in (
        (small(100, learning_rate=0.1), PART),
        (small(100, pricing="separate"), PART),
        (small(100), PART + 1),
    ):
        run = training_runs([other], tmp_path, part)[0]
        assert run.folder != first.folder
        assert run.next_target() == 100


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["joblib", "ray"])
def test_workers_train_the_same_agents(whole, tmp_path, backend, request):
    address = request.getfixturevalue("ray_address") if backend == "ray" else None
    configurations = [run.configuration for run in whole]
    runs = swept(configurations, tmp_path, executor=Executor(2, backend, address))
    for run, one_by_one in zip(runs, whole, strict=True):
        assert weights(run.checkpoint) == weights(one_by_one.checkpoint)


@pytest.mark.extended
@pytest.mark.slow
def test_agents_are_compared_in_other_processes(whole):
    def scores(executor):
        agents = [Competitor(run.folder.name, load_policy(run.checkpoint)) for run in whole]
        settings = {"horizon": 20.0, "warmup": 5.0, "replications": 2}
        return rows(
            compare([ComparedWorkload("overload", 3)], agents, **settings, executor=executor)
        )

    assert scores(Executor(jobs=2)) == scores(Executor(jobs=1))


@pytest.mark.extended
def test_the_evaluation_of_an_agent_is_known_by_its_weights(whole, tmp_path):
    files = [
        evaluation_file(tmp_path, [load_policy(run.checkpoint)], {})
        for run in (whole[0], whole[0], whole[1])
    ]
    assert files[0] == files[1] != files[2]


def test_a_run_that_is_there_twice_or_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match="twice; remove one"):
        training_runs([small(), small(500)], tmp_path)
    run = training_runs([small()], tmp_path)[0]
    run.folder.mkdir()
    run.checkpoint.write_text("hello")
    with pytest.raises(CheckpointError, match="no agent of this package"):
        sweep([run], ONE)
    assert run.checkpoint.read_text() == "hello"


@pytest.mark.extended
def test_the_command_trains_every_combination_once(run, tmp_path):
    arguments = ("sweep", "--instance", "base,overload", "--gpus", 2, "--seeds", "3")
    arguments += ("--steps", 1, "--jobs", 1, "--out", tmp_path, "--json")
    code, out, _ = run(*arguments)
    assert code == 0
    found = json.loads(out)["runs"]
    assert [(r["instance"], r["n_gpus"], r["seed"]) for r in found] == [
        ("base", 2, 3),
        ("overload", 2, 3),
    ]
    default = TrainingConfiguration({})
    assert {r["steps"] for r in found} == {default.n_envs * default.rollout_steps}
    assert run(*arguments)[1] == out
    saved = Checkpoint.load(found[0]["checkpoint"]).configuration
    wanted = {"n_gpus": 2, "seed": 3, "total_steps": 1}
    assert saved == dataclasses.replace(default, instance=saved.instance, **wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "0,-1"), "--seeds"),
        (("--seeds", "0,0"), "twice; remove one"),
        (("--gpus", "0"), "--gpus"),
        (("--steps", "0"), "--steps"),
        (("--part-steps", "0"), "--part-steps"),
        (("--instance", "bas"), "expected base, overload"),
        (("--backend", "dask"), "joblib or ray"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tmp_path, arguments, message):
    code, out, err = run("sweep", "--out", tmp_path / "out", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []
