"""Studies of training: cells are finished once, go on when killed, and become one table."""

from __future__ import annotations

import csv
import json
import shutil

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
    wanted = [tiny("trunk"), tiny("plan")]
    return wanted, folder, run_cells(wanted, folder)


def test_finished_cells_are_read_not_trained(study, monkeypatch):
    wanted, folder, results = study
    monkeypatch.setattr(training_study, "train", None)
    assert run_cells(wanted, folder) == results
    assert finished_results([*wanted, tiny("raw")], folder) == results


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
    cell = tiny("trunk", steps=300)
    folder = tmp_path / cell.name
    train(tiny("trunk", steps=100).configuration, folder)
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


def test_the_cells_of_both_studies():
    variants = cells("variants", quick=False, seed=0)
    at_20 = {cell.variant for cell in variants if cell.configuration.n_gpus == 20}
    names = {v.name for v in VARIANTS} - {"routing", "ppo-lagrangian"}
    assert {cell.variant for cell in variants} == names
    assert at_20 == names - {"event"}
    assert len({cell.configuration.total_steps for cell in variants}) == 1
    scale = cells("scale", quick=False, seed=3, scale_variant="per-class")
    sizes = {(c.configuration.instance["name"], c.configuration.n_gpus) for c in scale}
    expected = {(i, n) for i in ("base", "overload", "dolly15k") for n in (5, 20, 50, 200, 500)}
    assert sizes == expected
    assert {cell.configuration.seed for cell in scale} == {3}
    assert {cell.variant for cell in scale} == {"per-class"}
    for study in (variants, scale):
        assert len({cell.name for cell in study}) == len(study)
    with pytest.raises(ConfigurationError, match="variants or scale"):
        cells("other", quick=False, seed=0)


def test_bad_options_are_one_line(tmp_path, run_research):
    for arguments, message in (
        (["train-study", "other", "--out", tmp_path / "a"], "variants or scale"),
        (["train-study", "scale", "--variant", "dqn", "--out", tmp_path / "a"], "variant"),
    ):
        code, out, err = run_research(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.core
def test_the_command_trains_and_writes_its_table(tmp_path, run_research, monkeypatch):
    wanted = [tiny("plan", steps=100)]
    monkeypatch.setattr(training_study, "cells", lambda *_, **__: wanted)
    code, out, err = run_research("train-study", "variants", "--out", tmp_path)
    assert code == 0, err
    assert "| overload | 2 | plan | 100 |" in out
    assert out == markdown_table(finished_results(wanted, tmp_path))
