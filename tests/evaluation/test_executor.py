"""Computations give the same results wherever they run, and a failure costs little."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

import llm_sched_env as lse
from llm_sched_env.errors import ConfigurationError, PlanError, WorkerError
from llm_sched_env.evaluation import executor, ray_cluster
from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare, rows
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.ray_cluster import connect_to_ray, installation_digest
from llm_sched_env.policies.registry import resolve_policy
from llm_sched_env.workloads.generated import requests_of_run


def numbered(limit, number):
    """The number, the process that took it; an error at the limit."""
    if number == limit:
        raise ConfigurationError("number", number, f"less than {limit}", "take another")
    time.sleep(0.05 * (number % 3))
    return number, os.getpid()


def test_results_come_with_their_numbers(way):
    found = dict(way.run(partial(numbered, 100), range(10, 18)))
    assert {k: number for k, (number, _) in found.items()} == dict(enumerate(range(10, 18)))
    processes = {process for _, process in found.values()}
    assert (os.getpid() in processes) == (way.jobs == 1)
    assert len(processes) <= 2 + (way.backend == "ray")
    assert [n for n, _ in way.in_order(partial(numbered, 100), range(4))] == [0, 1, 2, 3]


def test_after_an_error_nothing_is_started_and_what_ran_is_kept(way):
    found = []
    with pytest.raises(ConfigurationError, match=r"^number: got 3, expected less than 3; take"):
        found.extend(number for number, _ in way.run(partial(numbered, 3), range(50)))
    assert {0, 1, 2} <= set(found) <= set(range(3 + 2 * 2))


def small_comparison(way):
    return compare(
        [ComparedWorkload("base", 3), ComparedWorkload("overload", 4)],
        [Competitor("rule", "token-bucket"), Competitor("mpc", "fluid-mpc", "overload")],
        horizon=30.0,
        warmup=10.0,
        replications=2,
        executor=way,
    )


@pytest.mark.slow
def test_a_comparison_is_the_same(way):
    found = small_comparison(way)
    assert rows(found) == rows(small_comparison(Executor(jobs=1)))
    labels = [(result.instance, label) for label, result in found]
    assert labels == [("base", "rule"), ("overload", "rule"), ("overload", "mpc")]


def test_a_comparison_goes_on_where_it_stopped(tmp_path, trace_of_two_classes):
    """What is kept is found again by its content; what was not written by this package is not."""
    workloads = [
        ComparedWorkload("base", 3),
        ComparedWorkload("azure2023", 2, trace_of_two_classes),
    ]
    told = []

    def run(policies=None, kept=tmp_path, **more):
        told.clear()
        policies = policies or [resolve_policy(name)[1] for name in ("token-bucket", "fluid-mpc")]
        competitors = [Competitor(str(k), policy) for k, policy in enumerate(policies)]
        settings = {"horizon": 20.0, "warmup": 5.0, "replications": 1, "on_result": told.append}
        found = compare(workloads, competitors, cache=kept, **(settings | more))
        return [result for _, result in found]

    def stop(_text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(on_result=stop)
    assert len(list(tmp_path.iterdir())) == 1
    first = run()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 4
    again = run()
    assert len(told) == 4
    # The wall time of a simulation tells whether it ran again.
    assert [r.wall_seconds for r in again] == [r.wall_seconds for r in first]
    assert [r.scores for r in again] == [r.scores for r in run(kept=None)]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    for more in ({"seed": 1}, {"pricing": "separate"}, {"slos": ["tpot@price=3000"]}):
        count = len(list(tmp_path.iterdir()))
        run(**more)
        assert len(list(tmp_path.iterdir())) == count + 4
    count = len(list(tmp_path.iterdir()))
    run([AlwaysThePlan(), "token-bucket"])
    assert len(list(tmp_path.iterdir())) == count
    next(iter(files)).write_bytes(b"no")
    with pytest.raises(ConfigurationError, match=r"cached evaluation.*remove the file"):
        run()


class AlwaysThePlan:
    """A policy that is not of the package."""

    def reset(self, instance, plan, n_gpus, rng):
        self.action = plan.action

    def act(self, observation, info):
        return self.action


@pytest.fixture
def trace_of_two_classes():
    return requests_of_run("base", 2, 40.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["trunk-reservation", "fluid-mpc"])
def test_replications_are_the_same(way, policy):
    settings = {"horizon": 20.0, "warmup": 5.0, "replications": 3, "seed": 4}
    here = lse.evaluate(policy, "overload", 3, **settings)
    spread = lse.evaluate(policy, "overload", 3, **settings, executor=way)
    assert spread.scores == here.scores
    assert spread.ttft == here.ttft
    assert (spread.decision_milliseconds is None) == (here.decision_milliseconds is None)


@pytest.mark.extended
def test_a_machine_with_other_sources_is_refused(ray_address, monkeypatch):
    monkeypatch.setattr(executor, "installation_digest", lambda *_: "other")
    with pytest.raises(WorkerError, match=r"^worker on \S+: got other sources or versions"):
        Executor(2, "ray", ray_address).in_order(abs, [-1])


def test_the_digest_covers_all_sources(monkeypatch):
    read = set()
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(path.name) or b"")
    ray_cluster.installation_digest.__wrapped__()
    assert {"gates.py", "fluid_mpc.py", "ppo.py"} <= read
    assert "cell_runs.py" not in read
    ray_cluster.installation_digest.__wrapped__("research")
    assert {"cell_runs.py", "specialists.py"} <= read
    monkeypatch.undo()
    assert installation_digest("research") != installation_digest() == installation_digest("abs")
    assert installation_digest() == installation_digest.__wrapped__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"jobs": 0}, "jobs: got 0"),
        ({"backend": "dask"}, "backend: got 'dask', expected joblib or ray"),
        ({"ray_address": "auto"}, "`ray_address` needs backend='ray'"),
    ],
)
def test_bad_settings_are_one_line(arguments, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Executor(**arguments)
    assert "\n" not in str(caught.value)


def test_without_ray_the_extra_is_named(monkeypatch, run, run_research, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(executor, "find_spec", lambda _: None)
    monkeypatch.chdir(tmp_path)
    commands = (
        (run, "compare", "--out", "x"),
        (run, "evaluate", "--policy", "token-bucket"),
        (run_research, "experiment", "convergence", "--quick"),
    )
    for command, *arguments in commands:
        code, out, err = command(*arguments, "--backend", "ray")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "pip install 'llm-sched-env[ray]'" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999", "x"])
def test_a_wrong_address_is_told_at_once(address, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("nobody answers there"))
    with pytest.raises(ConfigurationError, match="Ray address: got"):
        connect_to_ray(address, 2)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigurationError, match="Ray address: got"):
        connect_to_ray(None, 2)


def test_a_wrong_address_is_one_line_of_the_command(run, run_research, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.chdir(tmp_path)
    options = ("--backend", "ray", "--ray-address", "127.0.0.1:1")
    study = ("experiment", "convergence", "--quick")
    for program, command, arguments in (
        ("llmsched", run, ("compare", "--out", "x")),
        ("python -m research", run_research, study),
    ):
        code, out, err = command(*arguments, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{program}: Ray address: got '127.0.0.1:1'" in err
    assert list(tmp_path.iterdir()) == []


def test_errors_survive_the_way_from_another_process():
    import pickle

    for error in (ConfigurationError("n", 0, "more", "add"), PlanError("no"), WorkerError("x")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        assert getattr(again, "field", None) == getattr(error, "field", None)
