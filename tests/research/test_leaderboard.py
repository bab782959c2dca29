"""The leaderboard: who competes, what is kept, what is compared, and how it is published."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import llm_sched_env as lse
from llm_sched_env.agents.learned_rule import LearnedRule
from llm_sched_env.errors import ConfigurationError
from llm_sched_env.evaluation.results import Estimate
from llm_sched_env.model.priority_network import RankCorrection
from llm_sched_env.policies.registry import registered_policies
from research.framework import source_stamp
from research.framework.cell_store import cell_key
from research.framework.estimates import mean_over_cells, ratio_over_cells
from research.framework.registry import STUDIES
from research.leaderboard import entrants, grid, leaderboard, run_files
from research.leaderboard.differences import (
    BEST,
    CREDIT,
    TRUNK,
    Difference,
    Differences,
    Tally,
)
from research.leaderboard.leaderboard import Leaderboard
from research.leaderboard.ranking_page import END, FULL, UNFIT
from research.leaderboard.run_files import FILES
from research.leaderboard.standings import Standings, ranking
from research.pages import update_leaderboard

ROOT = Path(__file__).parents[2]
OUTSIDE = "outside_scheduler:LessThanPlanned"
THREE = f"TRUNK-reservation,token-bucket,{OUTSIDE}"


@pytest.fixture
def tiny(monkeypatch):
    """A leaderboard of two instances and two sizes that takes a second."""
    pytest.importorskip("matplotlib")
    runs = dict.fromkeys((2, 6), 3)
    monkeypatch.setattr(grid, "PRESETS", ("overload",))
    monkeypatch.setattr(grid, "CLASSES", (3,))
    monkeypatch.setattr(grid, "SIZES", tuple(runs))
    measured = dict.fromkeys(runs, 60.0)
    monkeypatch.setattr(grid, "_FULL", grid._Lengths(0.1, 20.0, measured, runs, 3))


@pytest.fixture
def computed(monkeypatch):
    """Labels of cells that this process simulates, in their order."""
    found, simulate = [], leaderboard.simulate

    def noted(cell):
        found.append(cell["policy"])
        return simulate(cell)

    monkeypatch.setattr(leaderboard, "simulate", noted)
    return found


def play(run_research, out, policies=THREE, jobs=1, *more):
    code, text, err = run_research(
        "leaderboard", "--policies", policies, "--jobs", jobs, "--out", out, *more
    )
    assert code == 0, err
    return text


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def lines(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# A leaderboard, end to end


def test_a_leaderboard_of_two_rules_and_an_entrant_from_outside(run_research, tmp_path, tiny):
    shown = json.loads(play(run_research, tmp_path, THREE, 1, "--json"))
    rows = lines(tmp_path / "results.csv")
    names = ["trunk-reservation", "token-bucket", "LessThanPlanned"]
    assert [row["policy"] for row in rows] == names * 4
    assert [(row["instance"], row["n_gpus"]) for row in rows[::3]] == [
        (name, n) for name in ("overload", "random-2026-0-3-classes") for n in ("2", "6")
    ]
    assert len({row["seed"] for row in rows}) == 4

    # A row is an evaluation like any other, on the same requests for all of its case.
    from outside_scheduler import LessThanPlanned

    for policy, row in (("token-bucket", rows[1]), (LessThanPlanned(), rows[2])):
        keys = {"horizon": 80.0, "warmup": 20.0, "replications": 3, "seed": int(row["seed"])}
        result = lse.evaluate(policy, "overload", 2, **keys)
        assert [float(x) for x in row["scores"].split()] == list(result.scores)
        assert float(row["ttft_p99"]) == result.ttft.p99
        assert float(row["tpot_p99"]) == result.tpot.p99
        assert float(row["abandoned_share"]) == result.abandoned["share"]
        assert float(row["score_low"]) == pytest.approx(result.score.ci95[0])

    # Differences are paired; the entrant that admits half is below both rules.
    scores = {(r["instance"], r["n_gpus"], r["policy"]): r["scores"].split() for r in rows}
    found = lines(tmp_path / "differences.csv")
    assert len(found) == 4 * (2 + 2 + 3)
    for line in found:
        place = (line["instance"], line["n_gpus"])
        own, other = (
            np.array(scores[(*place, line[key])], float) for key in ("policy", "reference")
        )
        test = stats.ttest_rel(own, other)
        interval = test.confidence_interval(0.95)
        assert float(line["difference"]) == pytest.approx((own - other).mean(), abs=1e-12)
        assert float(line["low"]) == pytest.approx(interval.low, abs=1e-9)
        assert float(line["p_value"]) == pytest.approx(test.pvalue)
        outcome = "above" if interval.low > 0 else "below" if interval.high < 0 else "within noise"
        assert line["outcome"] == outcome
        if line["against"] == BEST:
            rules = {p: np.mean(np.array(scores[(*place, p)], float)) for p in names[:2]}
            rules.pop(line["policy"], None)
            assert line["reference"] == max(rules, key=rules.get)
    assert "below" in {line["outcome"] for line in found if line["policy"] == "LessThanPlanned"}

    page = (tmp_path / "leaderboard.md").read_text()
    assert page.startswith(UNFIT)
    assert page.endswith(f"{END}\n")
    assert "### `LessThanPlanned`" in page
    assert "### `token-bucket`" not in page
    assert "12 comparisons: were all means equal, about 1 of" in page
    assert "llm-sched-env 0." in page
    assert f"--policies {THREE}" in page
    assert shown["ranking"] == ranking(Standings(shown["results"]))
    assert [row["policy"] for row in shown["ranking"]][2] == "LessThanPlanned"
    assert (tmp_path / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert "random-2026-0-3-classes" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.core
def test_only_what_is_missing_is_computed(run_research, tmp_path, tiny, computed):
    play(run_research, tmp_path)
    assert len(computed) == 12
    first = contents(tmp_path)
    play(run_research, tmp_path)
    assert len(computed) == 12
    assert contents(tmp_path) == first
    # A killed run: some cells are there, the rest are computed.
    lost = sorted((tmp_path / "cells" / "leaderboard").iterdir())[::3]
    for file in lost:
        file.unlink()
    play(run_research, tmp_path)
    assert len(computed) == 12 + len(lost)
    assert contents(tmp_path) == first
    computed.clear()
    play(run_research, tmp_path, f"{THREE},gate-and-route")
    assert computed == ["gate-and-route"] * 4


def test_the_rows_do_not_depend_on_the_jobs(run_research, tmp_path, tiny):
    for jobs in (1, 2):
        play(run_research, tmp_path / str(jobs), jobs=jobs)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.core
def test_the_leaderboard_shows_its_ranking(run_research, tmp_path, tiny):
    text = play(run_research, tmp_path)
    assert "Mean score in % of R*" in text
    assert "n = 6" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "5"], "No such option: --gpus"),
        (["--instance", "base"], "No such option: --instance"),
        (["--seed", "1"], "No such option: --seed"),
        (["--pricing", "separate"], "No such option: --pricing"),
        (["--trace", "x.csv"], "No such option: --trace"),
        (["--jobs", "0"], "jobs: got 0"),
        (["--ray-address", "local"], "needs backend='ray'"),
        (["--policies", "token-bucket,nobody"], "nobody"),
        (["--policies", "token-bucket,"], "without empty items"),
        (["--policies", "outside_scheduler:Nobody"], "package.module:Name"),
        (["--policies", f"{OUTSIDE},{OUTSIDE}"], "Two entrants have the name"),
        (["--agents", "missing.zip"], "missing.zip"),
        (["--agents", "mars=a.zip"], "INSTANCE"),
        (["--out", "/proc/x"], "can be made"),
    ],
)
def test_bad_options_are_one_line_and_compute_nothing(
    run_research, arguments, message, tmp_path, monkeypatch, tiny, computed
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_research("leaderboard", "--out", "leaderboard", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert computed == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.core
@pytest.mark.parametrize("option", ["--all", "--quick"])
def test_a_comparison_has_no_options_of_the_leaderboard(run, tmp_path, option):
    code, _, err = run("compare", "--out", tmp_path / "x", option)
    assert code == 2
    assert f"No such option: {option}" in err
    assert not (tmp_path / "x").exists()


def test_a_quick_leaderboard_does_not_take_the_place_of_a_full_one(run_research, tmp_path):
    page = tmp_path / "leaderboard.md"
    page.write_text(f"{FULL}\nfull")
    code, _, err = run_research("leaderboard", "--quick", "--out", tmp_path)
    assert code == 2
    assert "has a full leaderboard" in err
    assert page.read_text() == f"{FULL}\nfull"


# Who competes, where


@pytest.mark.core
def test_the_full_leaderboard_is_what_is_documented():
    cases = grid.leaderboard_cases()
    instances = {case.instance.name: case.instance for case in cases}
    assert list(instances)[:3] == ["base", "overload", "dolly15k"]
    assert [i.n_classes for i in instances.values()][3:] == [2, 2, 2, 2, 2, 3, 4, 6, 8, 16]
    assert {case.n_gpus for case in cases} == {5, 20, 50, 200, 500, 2000}
    assert len(cases) == 13 * 6
    assert len({case.seed for case in cases}) == len(cases)
    assert all(case.horizon % 10 == case.warmup % 10 == 0 for case in cases)
    assert all(case.replications >= 3 for case in cases)
    competing = entrants.entrants(cases)
    assert [e.label for e in competing] == [*registered_policies()]
    study = Leaderboard(competing)
    cells = study.cells(quick=False)
    assert len(cells) == sum(e.enters(case) for case in cases for e in competing)
    assert all(e.enters(case) for case in cases for e in competing if e.is_rule)
    assert json.loads(json.dumps(cells, allow_nan=False)) == cells
    # What `python -m research leaderboard` promises: about an hour of one processor.
    assert 20 * 60 < sum(map(study.cost, cells)) < 90 * 60
    python = [e.label for e in competing if not e.compiled]
    assert "fluid-mpc" in python
    assert "trunk-reservation" not in python


def test_nobody_else_draws_from_the_seeds_of_the_leaderboard():
    """Studies run with small seeds by default; training environments with small ones, too."""
    case = grid.leaderboard_cases()[0]
    assert case.seed >= 2026000
    drawn = {case.instance.name for case in grid.leaderboard_cases()[18:]}
    assert all(name.startswith("random-2026-") for name in drawn)


def test_names_restrict_the_leaderboard_and_paths_enter_in_addition():
    cases = grid.leaderboard_cases(quick=True)

    def labels(*policies):
        return [e.label for e in entrants.entrants(cases, policies)]

    everybody = [*registered_policies()]
    assert labels(OUTSIDE) == [*everybody, "LessThanPlanned"]
    assert labels("GG-SP", OUTSIDE) == ["gate-and-route", "LessThanPlanned"]
    kinds = {e.label: e.kind for e in entrants.entrants(cases, [OUTSIDE])}
    assert kinds["LessThanPlanned"] == entrants.OUTSIDE
    assert kinds["token-bucket"] == entrants.RULE
    with pytest.raises(ConfigurationError, match="Two entrants have the name"):
        labels("gate-and-route", "GG-SP")


@pytest.mark.core
def test_rules_with_a_trained_network_do_not_count_as_rules():
    for name, entry in registered_policies().items():
        assert entry.trained == (getattr(entry.make(), "correction", None) is not None), name


def test_a_registered_policy_that_was_trained_is_a_challenger(monkeypatch):
    trained = dataclasses.replace(registered_policies()["token-bucket"], trained=True)
    monkeypatch.setattr(entrants, "registered_policies", lambda: {"token-bucket": trained})
    (entrant,) = entrants.entrants(grid.leaderboard_cases(quick=True))
    assert entrant.kind == entrants.TRAINED
    assert not entrant.is_rule


def test_entrants_compete_where_they_know_the_classes(tiny):
    cases = grid.leaderboard_cases()
    competing = entrants.entrants(cases, ["token-bucket", "outside_scheduler:TwoClasses"])
    cells = Leaderboard(competing).cells(quick=False)
    found = [c["instance"]["name"] for c in cells if c["label"] == "TwoClasses"]
    assert found == ["overload"] * 2


def test_trained_rules_enter_by_the_name_of_their_folder(tmp_path):
    rule = LearnedRule(RankCorrection.none(), {"foresight": 10.0}, 1, 0.0, [], {})
    files = [tmp_path / name / "rule.json" for name in ("mine", "other")]
    for file in files:
        rule.save(file)
    single = [
        entrants.Agent(str(file), name)
        for file, name in zip(files, ("base", "overload"), strict=True)
    ]
    given = [entrants.Agent(str(files[0])), *single]
    found = entrants.entrants(grid.leaderboard_cases(quick=True), ["token-bucket"], given)[1:]
    assert [e.label for e in found] == ["mine", "tuned-rule", "tuned-rule"]
    assert all(e.compiled and e.kind == entrants.TRAINED for e in found)


@pytest.mark.slow
def test_agents_of_single_instances_are_one_entrant(run_research, tmp_path, tiny, computed):
    pytest.importorskip("stable_baselines3")
    from llm_sched_env.agents.configuration import TrainingConfiguration
    from llm_sched_env.agents.ppo import train

    small = {"n_gpus": 2, "n_envs": 2, "rollout_steps": 25, "batch_size": 50, "horizon": 50.0}
    configuration = TrainingConfiguration(lse.presets.overload().to_dict(), total_steps=50, **small)
    file = train(configuration, tmp_path / "trained")
    policies = ("--policies", "token-bucket", "--jobs", 1, "--out", tmp_path / "leaderboard")
    for given, label in ((file, "trained"), (f"overload={file}", "ppo-residual")):
        code, _, err = run_research("leaderboard", *policies, "--agents", given)
        assert code == 0, err
        rows = lines(tmp_path / "leaderboard" / "results.csv")
        agents = [row["instance"] for row in rows if row["policy"] == label]
        # It knows two classes only.
        assert agents == ["overload"] * 2
    assert "### `ppo-residual`" in (tmp_path / "leaderboard" / "leaderboard.md").read_text()
    computed.clear()
    shutil.copyfile(train(configuration, tmp_path / "again"), file)
    run_research("leaderboard", *policies, "--agents", f"overload={file}")
    assert len(computed) == 2


# What a kept cell depends on


def test_a_new_registered_policy_leaves_the_other_cells_valid(monkeypatch):
    cases = grid.leaderboard_cases(quick=True)

    def keys():
        source_stamp.source_stamp.cache_clear()
        study = Leaderboard(entrants.entrants(cases, ["token-bucket", "fluid-mpc"]))
        return [cell_key(study, cell) for cell in study.cells(quick=True)]

    def other_studies():
        source_stamp.source_stamp.cache_clear()
        return {source_stamp.source_stamp(type(study)) for study in STUDIES}

    before, others = keys(), other_studies()
    assert len(set(before)) == 12
    known = source_stamp.entry_points
    added = EntryPoint("new", "outside_scheduler:LessThanPlanned", source_stamp.POLICY_GROUP)
    monkeypatch.setattr(source_stamp, "entry_points", lambda **k: [*known(**k), added])
    assert {p.name for p in source_stamp._registered_sources()} >= {"outside_scheduler.py"}
    assert keys() == before
    # Other studies may look the registry through: theirs are not.
    assert others.isdisjoint(other_studies())
    source_stamp.source_stamp.cache_clear()


def test_the_stamp_of_a_policy_is_that_of_what_it_does(tmp_path, monkeypatch):
    rule = lse.DispatchRule(gate="credit", pools="dynamic")
    stamp = source_stamp.policy_stamp
    assert stamp(rule) == stamp(lse.DispatchRule(gate="credit", pools="dynamic"))
    assert stamp(rule) != stamp(dataclasses.replace(rule, credit_cap=4.0))
    package = tmp_path / "some_package"
    package.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(
        "class Mine:\n    def reset(self, *a): pass\n    def act(self, o, i): pass\n"
    )
    from some_package.mine import Mine

    seen = [stamp(Mine())]
    for name in ("weights.json", "helper.py"):
        (package / name).write_text("1")
        seen.append(stamp(Mine()))
    assert len(set(seen)) == 3
    (package / "notes.txt").write_text("1")
    assert stamp(Mine()) == seen[-1]


# Estimates and outcomes


def test_one_cell_has_the_usual_interval():
    values = np.random.default_rng(0).normal(0.9, 0.1, 7)
    one, usual = mean_over_cells([values]), Estimate.of(values)
    assert (one.mean, *one.ci95) == pytest.approx((usual.mean, *usual.ci95))
    assert np.isnan(mean_over_cells([values, values[:1]]).ci95).all()
    assert mean_over_cells([np.ones(3), np.full(2, 3.0)]) == Estimate(2.0, (2.0, 2.0))


def test_two_cells_have_welchs_interval():
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 0.1, 4), rng.normal(3.0, 0.5, 9)
    welch = stats.ttest_ind(first, -second, equal_var=False).confidence_interval(0.95)
    found = mean_over_cells([first, second])
    assert found.ci95 == pytest.approx((welch.low / 2, welch.high / 2))


def test_intervals_over_cells_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    means, deviations = np.array([0.6, 0.9, 0.95]), np.array([0.02, 0.05, 0.01])
    covered = np.zeros(2)
    for _ in range(1500):
        other = [rng.normal(m, s, k) for m, s, k in zip(means, deviations, (4, 6, 8), strict=True)]
        own = [scores + rng.normal(0.02, 0.01, len(scores)) for scores in other]
        gaps = [1.0 - scores for scores in other]
        gains = [a - b for a, b in zip(own, other, strict=True)]
        closed = 0.02 / (1.0 - means.mean())
        for k, (estimate, truth) in enumerate(
            [(mean_over_cells(own), means.mean() + 0.02), (ratio_over_cells(gains, gaps), closed)]
        ):
            low, high = estimate.ci95
            covered[k] += low <= truth <= high
    assert (np.abs(covered / 1500 - 0.95) < 0.025).all()


def standings(**scores):
    """A leaderboard of one instance at one size; policies by name with _ for -."""
    return Standings(
        [
            {
                "instance": "here",
                "n_gpus": 5,
                "policy": name.replace("_", "-"),
                "scores": " ".join(map(repr, values)),
            }
            for name, values in scores.items()
        ]
    )


def test_gaps_closed_and_best_rules_by_hand():
    place = ("here", 5)
    found = standings(
        trunk_reservation=[0.95, 0.97],
        token_bucket=[0.90, 0.92],
        mine=[0.98, 0.99],
        same=[0.95 + 1e-13, 0.97],
    )
    compared = Differences(found, ["trunk-reservation", "token-bucket"])
    assert compared.best_rule(place) == "trunk-reservation"
    assert compared.best_rule(place, without="trunk-reservation") == "token-bucket"
    mine = compared.at(place, "mine", BEST)
    assert mine.reference == "trunk-reservation"
    assert mine.estimate.mean == pytest.approx(0.025)
    assert compared.gap_closed([place], "mine") is None  # 0.09 ± 0.127 is no clear gap
    same = compared.at(place, "same", TRUNK)
    assert (same.outcome, same.p_value, same.estimate.mean) == ("within noise", 1.0, 0.0)
    assert compared.at(place, "token-bucket", CREDIT) is None
    clear = standings(token_bucket=[0.90, 0.91, 0.89], mine=[0.95, 0.96, 0.94])
    closed = Differences(clear, ["token-bucket"]).gap_closed([place], "mine")
    assert closed.mean == pytest.approx(0.5)
    assert clear.ranked() == ["mine", "token-bucket"]


def test_the_tally_counts_what_chance_would_do():
    rng = np.random.default_rng(3)

    def difference(mean):
        values = rng.normal(mean, 1.0, 8)
        p = float(stats.ttest_1samp(values, 0.0).pvalue)
        return Difference(("here", 5), "mine", TRUNK, TRUNK, values, p)

    noise = [difference(0.0) for _ in range(400)]
    tally = Tally.of(noise)
    assert tally.by_chance == pytest.approx(20.0)
    assert tally.above + tally.noise + tally.below == 400
    low, high = stats.binom.ppf([0.0005, 0.9995], 400, 0.05)
    assert low <= tally.above + tally.below <= high
    assert tally.above_controlled + tally.below_controlled <= 1
    clear = Tally.of([*noise[:20], *(difference(8.0) for _ in range(5)), difference(-8.0)])
    assert (clear.above_controlled, clear.below_controlled) == (5, 1)
    assert Tally.of([]) == Tally(0, 0, 0, 0.0, 0, 0)


# Publication


@pytest.fixture
def documentation(tmp_path, monkeypatch):
    """A copy of what ``make leaderboard`` changes."""
    docs = tmp_path / "docs" / "results"
    docs.mkdir(parents=True)
    (tmp_path / "research" / "results").mkdir(parents=True)
    shutil.copyfile(ROOT / "docs/results/leaderboard.md", docs / "leaderboard.md")
    monkeypatch.setattr(update_leaderboard, "ROOT", tmp_path)
    return docs


def test_only_a_full_leaderboard_goes_into_the_documentation(
    run_research, tmp_path, tiny, documentation, monkeypatch
):
    everybody = {name: registered_policies()[name] for name in ("token-bucket", "fcfs-and-route")}
    for module in (entrants, run_files):
        monkeypatch.setattr(module, "registered_policies", lambda: everybody)
    update = update_leaderboard.main
    before = (documentation / "leaderboard.md").read_text()
    out = tmp_path / "leaderboard"
    play(run_research, out, "token-bucket")
    with pytest.raises(SystemExit, match="part of the leaderboard"):
        update(str(out))
    assert (documentation / "leaderboard.md").read_text() == before
    assert not (documentation / "leaderboard.png").exists()
    play(run_research, out, OUTSIDE)
    assert (out / "leaderboard.md").read_text().startswith(FULL)
    for _ in range(2):
        update(str(out))
    page = (documentation / "leaderboard.md").read_text()
    assert page.startswith(before.partition(FULL)[0])
    for name in (*everybody, "LessThanPlanned"):
        assert f"| {name} |" in page
    assert "](../../research/results/leaderboard.csv)" in page
    assert "](results.csv)" not in page
    published = (tmp_path / "research" / "results" / "leaderboard.csv").read_bytes()
    assert published == (out / "results.csv").read_bytes()
    assert (documentation / "leaderboard.png").exists()


@pytest.mark.core
def test_the_documentation_has_places_for_the_leaderboard():
    page = (ROOT / "docs" / "results" / "leaderboard.md").read_text(encoding="utf-8")
    assert page.count(FULL) == page.count(END) == 1
