"""Cells of studies are the same wherever they are computed, and a failure costs little."""

from __future__ import annotations

import json

import pytest
from counting_study import Counting

from llm_sched_env.errors import StudyError, WorkerError
from llm_sched_env.evaluation.executor import Executor
from research.framework.cell_runs import run_cells

pytestmark = pytest.mark.core


def test_cells_are_the_same_and_this_process_keeps_them(way, tmp_path):
    study = Counting(tmp_path / "computed.log")
    cells = study.cells(quick=False, seed=0)
    found = run_cells(study, cells, tmp_path / "cells", executor=way)
    assert found == [row for cell in cells for row in study.compute(cell)]
    parts = {path.name for path in (tmp_path / "cells").rglob("*.json")}
    assert len(parts) == len(cells)


def test_a_failed_cell_leaves_the_others(way, tmp_path):
    study, folder = Counting(tmp_path / "computed.log", wrong=3), tmp_path / "cells"
    cells = study.cells(quick=True, seed=0)
    with pytest.raises(StudyError, match=r"^counting cell \{'k': 3.*no plan today$"):
        run_cells(study, cells, folder, executor=way)
    study.wrong = None
    run_cells(study, cells, folder, executor=way)
    assert sorted(study.computed()) == list(range(4))


@pytest.mark.extended
@pytest.mark.parametrize("way", ["joblib-2", "ray-2"], indirect=True)
def test_a_killed_worker_is_one_line_and_leaves_finished_cells(way, tmp_path):
    study, folder = Counting(tmp_path / "computed.log", deadly=0), tmp_path / "cells"
    cells = study.cells(quick=False, seed=0)
    assert study.cost(cells[0]) == 0  # the last one
    with pytest.raises(WorkerError, match="ended without a result") as caught:
        run_cells(study, cells, folder, executor=way)
    assert "\n" not in str(caught.value)
    finished = {json.loads(path.read_text())["of"]["k"] for path in folder.rglob("*.json")}
    assert finished >= {2, 4, 7, 1}
    study.deadly = None
    assert len(run_cells(study, cells, folder, executor=Executor(jobs=1))) == 3 * 8
    assert set(study.computed()) == set(range(8))
