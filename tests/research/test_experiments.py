"""Studies: cells are kept, resumed and computed anywhere; the page tells what came out."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import counting_study
import numpy as np
import pytest
from counting_study import Counting

import llm_sched_env
from llm_sched_env.errors import ConfigurationError, StudyError
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.evaluation.results import Estimate
from research.framework import source_stamp
from research.framework.cell_runs import run_cells
from research.framework.cell_store import cell_file, cell_key, read_rows
from research.framework.claims import Claim, Criterion, exact
from research.framework.estimates import decay_exponent, jackknifed, share_of
from research.framework.paper_page import INTRODUCTION, is_quick, parts, with_paragraph
from research.framework.registry import STUDIES
from research.framework.study import seeds
from research.framework.study_files import StudyRun
from research.pages import update_paper

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
ONE = Executor(jobs=1)
RESULTS = ("counting.csv", "counting.png", "paper.md")


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS]


@pytest.fixture
def study(tmp_path):
    return Counting(tmp_path / "computed.log")


# Cells


def test_the_longest_cells_start_first_and_rows_keep_the_order_of_cells(study, tmp_path):
    cells = study.cells(quick=False, seed=0)
    rows = run_cells(study, cells, tmp_path / "cells", executor=ONE)
    work = [cells[k]["work"] for k in study.computed()]
    assert work == sorted(work, reverse=True)
    assert [row["k"] for row in rows] == [k for k in range(8) for _ in range(3)]


def test_finished_cells_are_not_computed_again(study, tmp_path):
    cells_folder, counts = tmp_path / "cells", []
    first = run_cells(study, study.cells(quick=True, seed=0), cells_folder, executor=ONE)
    cells = study.cells(quick=False, seed=0)
    rows = run_cells(study, cells, cells_folder, executor=ONE, on_cell=counts.append)
    assert sorted(study.computed()) == list(range(8))
    assert rows[:12] == first
    assert counts == [4, 5, 6, 7, 8]
    run_cells(study, study.cells(quick=True, seed=1), cells_folder, executor=ONE)
    assert len(study.computed()) == 12


def test_a_damaged_cell_is_told_before_anything_runs(study, tmp_path):
    cells, folder = study.cells(quick=True, seed=0), tmp_path / "cells"
    rows = run_cells(study, cells[:2], folder, executor=ONE)
    file, other = (cell_file(folder, study, cell) for cell in cells[:2])
    whole = file.read_bytes()
    list_in_row = json.loads(whole)
    list_in_row["result"][0]["k"] = [1]
    for content in (b"", whole[:-5], other.read_bytes(), json.dumps(list_in_row).encode()):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"^The cached study cell .*remove ") as caught:
            run_cells(study, cells, folder, executor=ONE)
        assert "\n" not in str(caught.value)
    assert sorted(study.computed()) == [0, 1]
    file.unlink()
    assert run_cells(study, cells, folder, executor=ONE)[: len(rows)] == rows
    assert sorted(study.computed()) == [0, 0, 1, 2, 3]


def test_parallel_and_serial_runs_leave_the_same_bytes(study, tmp_path):
    pytest.importorskip("matplotlib")
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        folder.mkdir()
        StudyRun(study, folder).run(Executor(jobs))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(study.computed()) == 16


def test_a_killed_run_goes_on_where_it_stopped(study, tmp_path):
    pytest.importorskip("matplotlib")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    code = (
        "import sys; from pathlib import Path; from counting_study import Counting\n"
        "from research.framework.study_files import StudyRun\n"
        "from llm_sched_env.evaluation.executor import Executor\n"
        "run = StudyRun(Counting(Path(sys.argv[1]), deadly=5), Path(sys.argv[2]))\n"
        "run.run(Executor(1))"
    )
    command = [sys.executable, "-c", code, str(study.log), str(killed)]
    folders = os.pathsep.join(map(str, (ROOT, Path(counting_study.__file__).parent)))
    environment = os.environ | {"PYTHONPATH": folders}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    before = study.computed()
    assert 0 < len(before) < 8
    assert not any((killed / name).exists() for name in RESULTS)
    assert [p for p in killed.rglob("*") if p.suffix == ".part"] == []
    StudyRun(study, killed).run(ONE)
    assert sorted(study.computed()) == list(range(8))
    StudyRun(study, whole).run(ONE)
    assert contents(killed) == contents(whole)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_error_in_a_cell_names_it_and_keeps_the_others(study, tmp_path, jobs):
    study.wrong, cells_folder = 3, tmp_path / "cells"
    cells = study.cells(quick=True, seed=0)
    with pytest.raises(StudyError, match=r"counting cell \{'k': 3.*no plan today"):
        run_cells(study, cells, cells_folder, executor=Executor(jobs))
    study.wrong = None
    run_cells(study, cells, cells_folder, executor=Executor(jobs))
    assert sorted(study.computed()) == list(range(4))


def test_a_cell_is_known_by_its_data_its_sources_and_versions(study, monkeypatch):
    cell = study.cells(quick=True, seed=0)[0]
    key = cell_key(study, cell)
    assert key == cell_key(study, dict(reversed(cell.items())))
    assert key != cell_key(study, cell | {"work": 9})
    with monkeypatch.context() as patched:
        patched.setattr("research.framework.cell_store.versions", lambda: {"llm-sched-env": "9.9"})
        assert key != cell_key(study, cell)
    monkeypatch.setattr("research.framework.cell_store.source_stamp", lambda _: "other")
    assert key != cell_key(study, cell)


def test_the_stamp_covers_what_computes_and_not_what_presents(tmp_path):
    source = (
        "import numpy as np\n"
        "from research.setups.simulated_runs import simulate\n"
        "from research.framework.claims import exact\n"
        "SCALE: float = 2.0\n"
        "OTHER = 3.0\n"
        "class Example:\n"
        "    def compute(self, cell):\n"
        "        return [self._row(cell)]\n"
        "    def _row(self, cell):\n"
        "        return helper(np.sum(cell)) + simulate(cell)\n"
        "    def findings(self, rows):\n"
        "        return exact(OTHER)\n"
        "def helper(value):\n"
        "    return SCALE * value\n"
    )
    path = tmp_path / "example.py"

    def stamp(old="", new=""):
        assert old in source
        path.write_text(source.replace(old, new) if old else source)
        return source_stamp._computing_source(path)

    same = stamp()
    for old, new in (("exact(OTHER)", "1"), ("= 3.0", "= 4.0"), ("SCALE: float", "SCALE:  float")):
        assert stamp(old, new) == same, old
    for old, new in (
        ("[self._row(cell)]", "[]"),
        ("np.sum(cell)", "np.max(cell)"),
        ("SCALE * value", "SCALE + value"),
        ("= 2.0", "= 2.5"),
        ("simulated_runs", "random_instances"),
    ):
        assert stamp(old, new) != same, old
    assert "def simulate(" in same
    assert "Findings" not in same


def test_the_stamp_covers_the_model(study):
    model, policies = source_stamp._model_sources(), source_stamp._registered_sources()
    names = {path.name for path in (*model, *policies)}
    assert {"gates.py", "fluid.py", "evaluate.py", "dispatch_rules.py"} <= names
    assert names.isdisjoint({"cli.py", "report.py", "experiment.py", "paper_page.py"})
    assert "default_rng" in source_stamp._computing_source(Path(counting_study.__file__))
    # Every file and folder that is named there exists.
    package = Path(llm_sched_env.__file__).parent
    assert all((package / name).exists() for name in source_stamp._ELSEWHERE)
    assert all(find_spec(f"llm_sched_env.{name}") for name in source_stamp._PLAYERS)
    assert Path(source_stamp.__file__).is_relative_to(
        ROOT / source_stamp._FRAMEWORK.replace(".", "/")
    )


def test_seeds_of_two_runs_never_meet():
    assert set(seeds(0, 1000)).isdisjoint(seeds(1, 1000))
    with pytest.raises(ValueError, match="at most"):
        seeds(0, 1001)


# Claims and estimates


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.2, 0.4, "agrees"),
        (0.5, 0.6, "agrees"),
        (0.1, 0.15, "differs"),
        (0.7, 0.8, "differs"),
        (0.1, 0.3, "undecided"),
        (0.1, 0.9, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_a_outcome_follows_from_the_interval(low, high, outcome):
    estimate = Estimate((low + high) / 2, (low, high))
    claim = Claim("s", "1.1", "q", estimate, Criterion(0.2, 0.6), {outcome: "because"})
    assert (claim.outcome, claim.reason) == (outcome, "because")
    assert json.loads(json.dumps(claim.to_dict(), allow_nan=False))["outcome"] == outcome


def test_a_claim_shows_its_number_and_its_criterion():
    claim = Claim("s", "1.1", "q", exact(0.25), Criterion(low=0.2), shown=".2f")
    assert (claim.number(), claim.criterion.text(".2f")) == ("0.25", "at least 0.20")
    assert Criterion(high=3).text(".0f") == "at most 3"
    assert Criterion(1, 2).text(".1f") == "1.0 to 2.0"
    assert "one run" in Claim("s", "", "q", Estimate.of(np.ones(1)), Criterion(0, 1)).number()


def test_the_jackknife_of_a_mean_is_the_interval_of_student():
    values = np.random.default_rng(0).normal(size=12)
    wanted = Estimate.of(values)
    found = jackknifed(float, values)
    assert found.mean == pytest.approx(wanted.mean)
    assert found.ci95 == pytest.approx(wanted.ci95)


def test_the_exponent_of_a_known_law_is_covered():
    sizes = np.array([5, 20, 100, 500])
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        noise = rng.normal(scale=0.2, size=(8, len(sizes)))
        found = decay_exponent(sizes, 0.3 * sizes**-0.5 * (1 + noise))
        covered += found.ci95[0] <= -0.5 <= found.ci95[1]
    # 190 expected; 180 is three standard deviations below.
    assert covered >= 180
    assert math.isnan(decay_exponent([1, 2], np.array([[1.0, -1.0], [1.0, 0.5]])).mean)


def test_a_share_of_trials_has_wilsons_interval():
    found = share_of(30, 30)
    # 1 / (1 + z^2 / n), the closed form for no failure.
    assert found.ci95 == pytest.approx((1 / (1 + 1.959964**2 / 30), 1.0))
    assert share_of(10, 40).mean == 0.25


# Files and page


def test_a_run_leaves_rows_figure_and_its_part_of_the_page(study, tmp_path):
    pytest.importorskip("matplotlib")
    run = StudyRun(study, tmp_path, quick=True, seed=3)
    run.run(ONE)
    with (tmp_path / "counting.csv").open() as file:
        rows = list(csv.DictReader(file))
    cell = study.cells(quick=True, seed=3)[0]
    kept = read_rows(cell_file(tmp_path / "cells", study, cell), cell)
    assert [float(row["draw"]) for row in rows[:3]] == [row["draw"] for row in kept]
    assert (tmp_path / "counting.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "paper.md").read_text()
    assert page.startswith(INTRODUCTION.partition("<!-- overview -->")[0])
    assert "| `counting` | Sums of draws | 1 | 1 | 0 |" in page
    part = parts(page)["counting"]
    assert is_quick(part)
    assert "- (1) agrees" not in part
    assert "| 2 | all cells ran (0.2) |" in part
    assert "- (2) differs: a quick run has fewer." in part
    for text in ("**Quick run**", "| 12 | 24 to 24 | **differs** |", "a\\|b", "A remark."):
        assert text in part, text
    assert "`python -m research experiment counting --quick --seed 3` with llm-sched-env" in part
    before = contents(tmp_path)
    run.run(ONE)
    assert contents(tmp_path) == before


def test_a_quick_run_does_not_take_the_place_of_a_full_one(study, tmp_path):
    pytest.importorskip("matplotlib")
    StudyRun(study, tmp_path, quick=True).require_place()
    StudyRun(study, tmp_path, quick=True).run(ONE)
    StudyRun(study, tmp_path).require_place()
    StudyRun(study, tmp_path).run(ONE)
    with pytest.raises(ConfigurationError, match="full result of counting"):
        StudyRun(study, tmp_path, quick=True).require_place()


def block(name, text, quick=""):
    return f"<!-- experiment: {name}{quick} -->\n{text}\n<!-- end of experiment: {name} -->"


def test_parts_replace_their_own_marks_and_keep_the_order():
    order = ["a", "b", "c"]
    page = "head\n"
    for name in ("c", "a", "b"):
        page = with_paragraph(page, name, block(name, f"of {name}"), order)
    assert list(parts(page)) == order
    page = page.replace("of a", "of a\n\nby hand") + "tail\n"
    changed = with_paragraph(page, "b", block("b", "new \\1", " (quick)"), order)
    assert changed == page.replace(block("b", "of b"), block("b", "new \\1", " (quick)"))
    assert [is_quick(part) for part in parts(changed).values()] == [False, True, False]


@pytest.mark.parametrize(
    "page",
    [
        "<!-- experiment: a -->\n",
        "<!-- end of experiment: a -->\n",
        block("a", "1") + block("a", "2"),
        "<!-- end of experiment: a --><!-- experiment: a -->",
    ],
)
def test_broken_marks_are_reported(page):
    with pytest.raises(ConfigurationError, match=r"page of claims.*restore one pair of marks"):
        with_paragraph(page, "a", block("a", "new"), ["a"])


def test_only_full_results_go_into_the_documentation(study, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    docs, rows = tmp_path / "docs" / "results", tmp_path / "research" / "results" / "paper"
    docs.mkdir(parents=True)
    rows.mkdir(parents=True)
    monkeypatch.setattr(update_paper, "ROOT", tmp_path)
    main = update_paper.main
    StudyRun(study, tmp_path, quick=True).run(ONE)
    with pytest.raises(SystemExit, match="quick runs of counting"):
        main(str(tmp_path))
    assert not (docs / "paper.md").exists()
    StudyRun(study, tmp_path).run(ONE)
    main(str(tmp_path))
    page = (docs / "paper.md").read_text()
    assert "](paper/counting.png)" in page
    assert "](../../research/results/paper/counting.csv)" in page
    assert (rows / "counting.csv").read_bytes() == contents(tmp_path)[0]


def test_the_documentation_holds_full_results_with_their_files():
    docs = ROOT / "docs" / "results"
    found = parts((docs / "paper.md").read_text(encoding="utf-8"))
    assert found
    assert set(found) <= {study.name for study in STUDIES}
    for name, part in found.items():
        assert not is_quick(part)
        for file in (f"../../research/results/paper/{name}.csv", f"paper/{name}.png"):
            assert f"({file})" in part
            assert 0 < (docs / file).stat().st_size < 400_000


# Command line


def test_studies_are_listed(run_research):
    names = [study.name for study in STUDIES]
    for arguments in ((), ("--list",), ("convergence", "--list")):
        code, out, _ = run_research("experiment", *arguments)
        assert code == 0
        assert "convergence" in out
    assert list(json.loads(run_research("experiment", "--json")[1])) == names


def test_names_of_studies_are_unique_and_can_be_marks():
    names = [study.name for study in STUDIES]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").isalnum() for name in names)


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_cells_are_plain_data_and_each_is_there_once(study):
    for quick in (False, True):
        cells = study.cells(quick=quick, seed=0)
        texts = [json.dumps(cell, sort_keys=True, allow_nan=False) for cell in cells]
        assert [json.loads(text) for text in texts] == cells
        assert len(set(texts)) == len(texts)
        assert all(study.cost(cell) > 0 for cell in cells)
    first, second = (
        {json.dumps(cell, sort_keys=True) for cell in study.cells(quick=False, seed=seed)}
        for seed in (0, 1)
    )
    # Runs are other ones; what is not random is the same.
    assert all('"seed":' not in text for text in first & second)
    assert all('"seed":' in text for text in first ^ second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convergense"], "convergence, occupancy"),
        (["convergence", "--jobs", "0"], "jobs"),
        (["convergence", "--seed", "-1"], "--seed"),
        (["convergence", "--out", "/proc/x"], "can be made"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    run_research, arguments, message, tmp_path, monkeypatch
):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_research("experiment", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_the_page_tells_how_long_was_simulated(study, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    cells = [{"k": k, "seed": 0, "work": 1, "n_gpus": 5 + k} for k in range(4)]
    for times, text in (
        ([(9, 3)] * 4, "Runs of 9 s, 3 s of them warm-up."),
        (
            [(9, 3)] * 2 + [(4, 2)] * 2,
            "warm-up (n = 5 to 6); 4 s, 2 s of them warm-up (n = 7 to 8)",
        ),
        ([(9, 3), (4, 2), (5, 1), (6, 2)], "Runs of 4 to 9 s, of which 1 to 3 s are warm-up."),
    ):
        timed = [c | {"horizon": h, "warmup": w} for c, (h, w) in zip(cells, times, strict=True)]
        monkeypatch.setattr(study, "cells", lambda timed=timed, **_: timed)
        StudyRun(study, tmp_path).run(ONE)
        assert text in (tmp_path / "paper.md").read_text()


def test_a_quick_study_through_the_command_line(run, run_research, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "quick"
    arguments = ("experiment", "convergence", "--quick", "--jobs", "1", "--out", out)
    code, text, err = run_research(*arguments, "--json")
    assert code == 0
    claims = json.loads(text)["convergence"]
    assert {claim["outcome"] for claim in claims} <= {"agrees", "differs", "undecided"}
    assert "wrote CSV" in err
    with (out / "convergence.csv").open() as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if (row["n_gpus"], row["seed"]) == ("5", "2"))
    arguments = ("--gpus", 5, "--seed", 2, "--replications", 1, "--horizon", 300, "--warmup", 100)
    code, text, _ = run("evaluate", "--policy", "gate-and-route", *arguments, "--json")
    assert float(row["share"]) == json.loads(text)["score"]["mean"]
