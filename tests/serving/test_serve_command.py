"""``llmsched serve`` end to end: its files, and what a stop leaves of them."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("torch")

from short_requests import short_instance

from llm_sched_env.calibration.iteration_log import read_iteration_logs
from llm_sched_env.cli import main
from llm_sched_env.validation.served_files import read_served_run
from llm_sched_env.validation.served_run import COMPLETED

# In the background of a shell SIGINT is ignored, and whoever is started there inherits that.
AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from llm_sched_env.cli import main
main()
"""


@pytest.fixture
def arguments(tmp_path):
    file = tmp_path / "short.toml"
    short_instance().save(file)
    common = ("--instance", str(file), "--shape", "tiny", "--device", "cpu")
    return ["serve", *common, "--out", str(tmp_path / "run")]


@pytest.mark.extended
def test_policies_one_after_the_other(arguments, tmp_path, capsys) -> None:
    wanted = ["fcfs-immediate", "gate-and-route"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--policies", ",".join(wanted), "--seconds", "1", "--validate"])
    assert ended.value.code == 0
    told = capsys.readouterr()
    assert told.err.count("the same") == 2
    assert "score" in told.out
    assert "measured" in told.out
    runs = [read_served_run(tmp_path / "run" / name / "requests.csv") for name in wanted]
    assert runs[0].arrival_time.tolist() == runs[1].arrival_time.tolist()
    for name, run in zip(wanted, runs, strict=True):
        folder = tmp_path / "run" / name
        log = read_iteration_logs([folder / "iterations.csv"])
        done = run.outcome == COMPLETED
        # Decode iterations, counted in the log: at least the tokens of the completed requests.
        assert run.output_tokens[done].sum() <= log.decodes.sum()
        with (folder / "decisions.csv").open() as file:
            decisions = list(csv.DictReader(file))
        assert len(decisions) >= 2 * done.sum()
        assert (folder / "validation" / "table.md").is_file()


@pytest.mark.extended
@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.extended)]
)
def test_a_stopped_run_leaves_whole_files(arguments, tmp_path, how) -> None:
    command = [sys.executable, "-c", AS_IN_A_TERMINAL, *arguments]
    process = subprocess.Popen(
        [*command, "--policy", "fcfs-immediate", "--seconds", "60"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "serving under" in process.stderr.readline()
    time.sleep(2.0)
    process.send_signal(how)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "wrote" in told
    folder = tmp_path / "run"
    assert sorted(p.name for p in folder.iterdir()) == [
        "decisions.csv",
        "iterations.csv",
        "requests.csv",
    ]
    run = read_served_run(folder / "requests.csv")
    assert len(run) > 0
    assert np.nanmax(run.end) < 30.0
    assert (run.outcome == COMPLETED).any()
    assert len(read_iteration_logs([folder / "iterations.csv"])) > 10


def test_what_cannot_be_served_is_one_line(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--policy", "fluid-mpc", "--validate"])
    assert ended.value.code == 2
    assert "compiled rules" in capsys.readouterr().err
