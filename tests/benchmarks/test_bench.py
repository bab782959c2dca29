"""``llmsched bench``: who is measured, in which order, and what is written."""

from __future__ import annotations

import csv
import dataclasses
import json
import os

import numpy as np
import pytest

import llm_sched_env as lse
from llm_sched_env.benchmarks import simulators, vector_speed
from llm_sched_env.benchmarks.cost_per_event import log_grid, measure_costs
from llm_sched_env.benchmarks.engine_cluster import EngineCluster
from llm_sched_env.benchmarks.engine_speed import measure
from llm_sched_env.benchmarks.peak_memory import measure_memory
from llm_sched_env.benchmarks.rounds import Spread, pinned, ratio_spread, speeds
from llm_sched_env.benchmarks.simulators import ENGINE, SIMULATORS, chosen_simulators
from llm_sched_env.errors import ConfigurationError

BASE = lse.presets.base()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only work moves."""
    now = [0.0]
    monkeypatch.setattr("llm_sched_env.benchmarks.rounds.time.perf_counter", lambda: now[0])
    return now


def test_every_round_has_every_simulator_in_rotating_order(clock):
    order = []

    def worker(name, units_per_second):
        def work(amount):
            order.append((name, amount))
            clock[0] += amount / units_per_second
            return amount

        return work

    works = {"fast": worker("fast", 1000.0), "slow": worker("slow", 2.0)}
    measured = speeds(works, 3, 0.5, 0.01)
    assert [name for name, _ in order[-6:]] == ["fast", "slow", "slow", "fast", "fast", "slow"]
    # Each has its own amount of work, which fills a run.
    assert dict(order[-6:]) == pytest.approx({"fast": 500.0, "slow": 1.0})
    assert measured == {
        "fast": pytest.approx((1000.0,) * 3),
        "slow": pytest.approx((2.0,) * 3),
    }


def test_a_ratio_is_of_medians_with_the_range_within_rounds():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert ratio_spread([8.0, 9.0, 30.0], [1.0, 3.0, 5.0]) == Spread(3.0, 3.0, 8.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no threads")
def test_a_pinned_thread_is_released_also_after_an_error():
    before = os.sched_getaffinity(0)
    with pinned() as done:
        assert done
        assert len(os.sched_getaffinity(0)) == 1
    with pytest.raises(RuntimeError), pinned():
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


@pytest.mark.extended
def test_all_simulators_count_the_same_events():
    """Events per second compare only if an event is the same thing everywhere."""
    plan = lse.plan(BASE)
    counted = {}
    for simulator in SIMULATORS:
        if simulator.available():
            advance = simulator.prepare(BASE, plan, 20, seed=0, warmup=30.0)
            counted[simulator.name] = advance(1000.0)
    engine = counted.pop(ENGINE.name)
    assert "heapq" in counted
    # A difference of two counts of 60,000 has a standard deviation of about 1%; the floor's rates
    # are those of the fluid plan, 1.5% below.
    for name, events in counted.items():
        assert events == pytest.approx(engine, rel=0.06), name


def test_a_simulator_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(simulators, "find_spec", lambda _: None)
    chosen = chosen_simulators(["simpy", "heapq"])
    assert [c.name for c in chosen] == ["llm-sched-env", "heapq", "simpy"]
    rows = {row.simulator: row for row in measure(BASE, [2], 1, simulators=chosen, seconds=0.01)}
    assert rows["simpy"].note == "not installed: pip install simpy"
    assert rows["simpy"].median is None
    assert rows["llm-sched-env"].ratio == 1.0
    assert rows["heapq"].ratio > 1.0


def test_a_simulator_is_left_out_where_it_would_take_too_long():
    ciw = next(c for c in SIMULATORS if c.name == "ciw")
    small = dataclasses.replace(ciw, package="", most_gpus=100)
    assert small.obstacle(100) == ""
    assert "100 GPUs" in small.obstacle(101)
    with pytest.raises(ConfigurationError, match=r"simpi.*heapq, simpy"):
        chosen_simulators(["simpi"])


@pytest.mark.extended
def test_cost_per_event_is_measured_on_a_logarithmic_grid():
    assert log_grid(1) == [1]
    assert log_grid(100) == [1, 3, 10, 30, 100]
    assert log_grid(1_000_000)[-4:] == [30_000, 100_000, 300_000, 1_000_000]
    assert log_grid(500)[-2:] == [300, 500]
    rows = measure_costs(BASE, [1, 3], runs=2, seconds=0.01)
    assert [row.n_gpus for row in rows] == [1, 3]
    assert all(0 < row.least <= row.median <= row.greatest for row in rows)
    assert all(0 < row.floor < row.median for row in rows)


def test_a_cluster_near_the_plan_is_full_at_once():
    plan = lse.plan(BASE)
    simulation = EngineCluster(BASE, plan, 50, 0, at_plan=True).simulation
    inside = simulation.metrics().inside
    assert inside == pytest.approx(50 * plan.occupancy.sum(axis=0), abs=10)
    assert EngineCluster(BASE, plan, 50, 0).simulation.metrics().inside.tolist() == [0, 0]


@pytest.mark.extended
def test_memory_is_that_of_a_process_of_its_own():
    small, large = (measure_memory(BASE, n) for n in (10, 20_000))
    assert large.events > 100 * small.events
    if small.peak_bytes is not None:
        # Twenty thousand GPUs with sixteen slots: tens of megabytes, not what this process has.
        grown = large.peak_bytes - small.peak_bytes
        assert 1e7 < grown < 1e9


@pytest.mark.extended
def test_the_bench_writes_its_tables(run, tmp_path):
    pytest.importorskip("matplotlib")
    options = ["--gpus", "3,5", "--runs", "2", "--seconds", "0.01", "--scaling", "3"]
    options += ["--simulators", "heapq,floor", "--out", str(tmp_path / "results")]
    code, out, _ = run("bench", *options)
    assert code == 0
    assert "Peak resident memory of a run at n = 3" in out
    results = tmp_path / "results"
    with (results / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["n_gpus"], row["simulator"]) for row in rows] == [
        (n, name) for n in ("3", "5") for name in ("llm-sched-env", "heapq", "floor")
    ]
    for row in rows:
        assert float(row["least"]) <= float(row["median"]) <= float(row["greatest"])
    page = (results / "speed.md").read_text()
    assert "| 5 | heapq | gate-and-route |" in page
    assert "Instance base, seed 0" in page
    assert f"numpy {np.__version__}" in page
    with (results / "cost_per_event.csv").open() as file:
        assert [row["n_gpus"] for row in csv.DictReader(file)] == ["1", "3"]
    assert (results / "cost_per_event.png").read_bytes().startswith(b"\x89PNG")


def test_the_bench_in_json_has_every_number(run):
    options = ["--gpus", "20", "--runs", "1", "--seconds", "0.05", "--simulators", "heapq"]
    data = json.loads(run("bench", *options, "--json")[1])
    speed = {row["simulator"]: row["median"] for row in data["rows"]}
    # The contract asks for far more; this guards against losing compilation altogether.
    assert speed["llm-sched-env"] > 5 * speed["heapq"]
    assert data["machine"]["numpy"] == np.__version__
    assert data["memory"] is None


@pytest.mark.extended
def test_vector_environments_are_compared_with_gymnasium(run, tmp_path, monkeypatch):
    measured = vector_speed.measure_vector(BASE, runs=2, seconds=0.02, num_envs=16, n_gpus=2)
    rows = {row.environment: row for row in measured}
    assert rows["SyncVectorEnv"].ratio == 1.0
    assert rows["native, 1 thread"].ratio > 1.0
    two = rows["native, 2 threads"]
    assert two.median > 0
    monkeypatch.setattr(vector_speed, "NUM_ENVS", 2)
    options = ["--vector", "--runs", "1", "--seconds", "0.02", "--out", str(tmp_path)]
    data = json.loads(run("bench", *options, "--json")[1])
    assert data["api_overhead_microseconds"]["median"] > 0
    assert [row["environment"] for row in data["decisions"]] == ["native", "SyncVectorEnv"]
    assert "| SyncVectorEnv |" in (tmp_path / "vector.md").read_text()
    assert "decisions/s" in (tmp_path / "vector.md").read_text()
    assert (tmp_path / "vector.csv").exists()
    assert (tmp_path / "decisions.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--simulators", "fastest"],
            "some of llm-sched-env, llm-sched-env-kv, heapq, simpy, ciw, floor",
        ),
        (["--runs", "0"], "runs"),
        (["--seconds", "0"], "--seconds"),
        (["--scaling", "0"], "--scaling"),
        (["--seed", "-1"], "seed"),
        (["--out", "/proc/x"], "can be made"),
    ],
)
def test_bad_options_are_one_line(run, arguments, message):
    code, out, err = run("bench", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
