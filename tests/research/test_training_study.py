"""Studies of training: cells are finished once, go on when killed, and become one table."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

import llm_sched_env as lse
from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.ppo import train
from llm_sched_env.agents.training_variants import VARIANTS, variant
from llm_sched_env.errors import ConfigurationError
from research.agent_training import study as training_study
from research.agent_training.page import markdown_table, write_page
from research.agent_training.seeds_page import (
    BEST,
    PAPER,
    interquartile,
    seeds_table,
    write_seeds_page,
)
from research.agent_training.study import (
    REPORT_SEED,
    Cell,
    cells,
    finished_results,
    run_cells,
)


def tiny(name, steps=200):
    configuration = variant(name).configuration(
        lse.presets.overload().to_dict(),
        n_gpus=2,
        total_steps=steps,
        n_envs=4,
        rollout_steps=25,
        batch_size=50,
        horizon=25.0,
        evaluation_every=1,
        evaluation_warmup=2.0,
        evaluation_horizon=12.0,
        checkpoint_every=1,
    )
    return Cell(name, name, configuration, runs=3, warmup=5.0, horizon=25.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    wanted = [tiny("ppo-residual"), tiny("plan")]
    return wanted, folder, run_cells(wanted, folder)


def test_finished_cells_are_read_not_trained(study, monkeypatch):
    wanted, folder, results = study
    monkeypatch.setattr(training_study, "train", None)
    assert run_cells(wanted, folder) == results
    assert finished_results([*wanted, tiny("ppo")], folder) == results


def test_a_cell_with_other_settings_is_trained_anew(study, tmp_path):
    _, folder, _ = study
    shutil.copytree(folder / "plan", tmp_path / "plan")
    assert len(finished_results([tiny("plan")], tmp_path)) == 1
    result = run_cells([tiny("plan", steps=100)], tmp_path)[0]
    assert result["steps"] == 100
    assert finished_results([tiny("plan")], tmp_path) == []


def test_a_damaged_result_is_told_and_stays(study, tmp_path):
    _, folder, _ = study
    shutil.copytree(folder / "plan", tmp_path / "plan")
    file = tmp_path / "plan" / "result.json"
    content = json.loads(file.read_bytes())
    del content["result"]["report"]
    for damaged in (json.dumps(content).encode(), file.read_bytes()[:-3]):
        file.write_bytes(damaged)
        with pytest.raises(ConfigurationError, match="cached training result"):
            run_cells([tiny("plan")], tmp_path)
        assert file.read_bytes() == damaged


def test_the_report_is_what_evaluate_says_of_the_small_file(study):
    wanted, folder, results = study
    for cell, result in zip(wanted, results, strict=True):
        scores = lse.evaluate(
            str(folder / cell.name / "exported.zip"),
            "overload",
            2,
            horizon=25.0,
            warmup=5.0,
            replications=3,
            seed=REPORT_SEED,
        )
        assert result["report"]["score"] == pytest.approx(scores.score.mean, abs=1e-6)
        assert result["agent_bytes"] == (folder / cell.name / "exported.zip").stat().st_size


def test_a_killed_cell_goes_on(tmp_path):
    """Its checkpoint is there, its result is not."""
    cell = tiny("ppo-residual", steps=300)
    folder = tmp_path / cell.name
    train(tiny("ppo-residual", steps=100).configuration, folder)
    saved = Checkpoint.load(folder / "agent.zip")
    (folder / "settings.json").write_text(json.dumps(cell.settings()))
    result = run_cells([cell], tmp_path)[0]
    assert result["steps"] == 300
    assert result["evaluations"][: len(saved.evaluations)] == saved.evaluations


def test_one_table_one_figure(study, tmp_path):
    _, _, results = study
    pytest.importorskip("matplotlib")
    table, rows, figure = write_page(results, tmp_path, figure=True)
    assert table.read_text() == markdown_table(results)
    lines = markdown_table(results).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {12}
    assert "| overload | 2 | plan | 200 |" in lines[3]
    with rows.open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["score"]) for row in read] == [r["report"]["score"] for r in results]
    assert figure.stat().st_size > 1000


def test_interquartile_means_are_of_the_middle_half() -> None:
    mean, low, high = interquartile(np.array([0.0, 1.0, 2.0, 3.0, 100.0]))
    assert mean == 2.0
    assert 0.0 <= low < mean < high
    curves = interquartile(np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [9.0, 5.0]]))
    assert [c.tolist()[1] for c in curves] == [5.0, 5.0, 5.0]
    assert curves[0].tolist()[0] == 1.5
    alone = interquartile(np.array([7.0]))
    assert [float(end) for end in alone] == [7.0, 7.0, 7.0]


def test_trainings_that_differ_in_seeds_are_one_row(study, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    _, _, results = study
    one = results[0]
    rows = [
        {"steps": steps, "score": 0.5 + gain, f"minus {PAPER}": gain, f"minus {BEST}": gain - 0.1}
        for steps, gain in ((0.0, -0.2), (100.0, 0.05), (200.0, 0.095))
    ]
    seeds = [{**one, "seed": seed, "evaluations": rows} for seed in range(5)]
    line = seeds_table(seeds).splitlines()[2]
    assert line.startswith("| overload | 2 | ppo-residual | 5 | 200 |")
    assert line.endswith("| 100 | 200 |")
    score = f"{100 * one['report']['score']:.2f}"
    assert f"| {score} ({score} to {score}) |" in line
    never = [{**result, "evaluations": rows[:1]} for result in seeds]
    assert seeds_table(never).splitlines()[2].endswith("| never | never |")
    table, _, figure = write_seeds_page(seeds, tmp_path, figure=True)
    assert table.read_text() == seeds_table(seeds)
    assert figure.stat().st_size > 1000


def test_the_cells_of_the_studies():
    variants = cells("variants", quick=False, seed=0)
    at_20 = {cell.variant for cell in variants if cell.configuration.n_gpus == 20}
    names = {v.name for v in VARIANTS} - {"routing", "ppo-rates", "ppo-lagrangian"}
    assert {cell.variant for cell in variants} == names
    assert at_20 == names - {"event"}
    assert len({cell.configuration.total_steps for cell in variants}) == 1
    scale = cells("scale", quick=False, seed=3, scale_variant="per-class")
    sizes = {(c.configuration.instance["name"], c.configuration.n_gpus) for c in scale}
    expected = {(i, n) for i in ("base", "overload", "dolly15k") for n in (5, 20, 50, 200, 500)}
    assert sizes == expected
    assert {cell.configuration.seed for cell in scale} == {3}
    assert {cell.variant for cell in scale} == {"per-class"}
    scratch = cells("scratch", quick=False, seed=1)
    kinds = {(c.variant, c.configuration.n_gpus, c.configuration.seed) for c in scratch}
    assert len(kinds) == len(scratch) == (5 + 2 * 2) * 5
    assert {c.configuration.seed for c in scratch} == {1, 2, 3, 4, 5}
    for study in (variants, scale, scratch):
        assert len({cell.name for cell in study}) == len(study)
    with pytest.raises(ConfigurationError, match="variants, scale or scratch"):
        cells("other", quick=False, seed=0)


def test_bad_options_are_one_line(tmp_path, run_research):
    for arguments, message in (
        (["train-study", "other", "--out", tmp_path / "a"], "variants, scale or scratch"),
        (["train-study", "scale", "--variant", "dqn", "--out", tmp_path / "a"], "variant"),
    ):
        code, out, err = run_research(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_trains_and_writes_its_table(tmp_path, run_research, monkeypatch):
    wanted = [tiny("plan", steps=100)]
    monkeypatch.setattr(training_study, "cells", lambda *_, **__: wanted)
    code, out, err = run_research("train-study", "variants", "--out", tmp_path)
    assert code == 0, err
    assert "| overload | 2 | plan | 100 |" in out
    assert out == markdown_table(finished_results(wanted, tmp_path))
