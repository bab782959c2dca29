"""``llmsched``: results on stdout, one clear line and exit code 2 for bad input."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest

import llm_sched_env as lse
from llm_sched_env.workloads.locations import find_azure_2023

SHORT = ["--horizon", "60", "--warmup", "20", "--replications", "2"]


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "mini_chat.csv"
    rows = [f"2023-11-16 18:15:{46 + k // 2}.{k % 2}805900,{300 + k},{40 + k}" for k in range(20)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return path


def test_plan(run):
    code, out, _ = run("plan", "--instance", "base", "--json")
    assert code == 0
    data = json.loads(out)
    assert data["value"] == pytest.approx(297.7032, abs=1e-4)
    assert data["x"] == pytest.approx([0.018258, 0.194953], abs=1e-6)
    keys = {"y_mixed", "y_solo", "q_prefill", "q_decode", "solo_probability"}
    assert keys | {"admission_fraction", "mixed_fraction", "duals"} <= set(data)
    separate = json.loads(run("plan", "--pricing", "separate", "--json")[1])
    assert separate["value"] == pytest.approx(298.5866, abs=1e-4)
    assert "297.7032" in run("plan")[1]


def test_plan_of_a_file_says_when_it_is_overloaded_without_abandonment(run, tmp_path):
    plain = lse.presets.overload().to_dict()
    plain["classes"][0]["patience_rate"] = 0.0
    path = tmp_path / "patient.toml"
    lse.Instance.from_dict(plain).save(path)
    code, out, err = run("plan", "--instance", str(path), "--json")
    assert code == 0
    assert json.loads(out)["q_prefill"][0] is None
    assert "grows without bound" in err


def test_evaluate_prints_one_json_object_and_nothing_else(run):
    arguments = ["evaluate", "--instance", "overload", "--policy", "GG-SP", "--gpus", "5", *SHORT]
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    data = json.loads(out)
    assert data["policy"] == "gate-and-route"
    assert len(data["score"]["ci95"]) == 2
    assert run(*arguments)[1].startswith("gate-and-route on overload")


def test_evaluate_and_replay_a_trace(run, trace):
    code, out, _ = run("evaluate", "--policy", "token-bucket", "--trace", str(trace), "--json")
    assert code == 0
    assert json.loads(out)["requests"]["arrived"] == 4 * 20
    code, out, err = run("replay", str(trace), "--gpus", "1", "--json")
    assert code == 0
    account = json.loads(out)["requests"]
    assert account["arrived"] == 20
    assert account["completed"] + account["abandoned"] + account["inside"] == 20
    assert "20 requests" in err


def test_traces_are_listed_with_commas_or_by_repetition(run, trace, tmp_path):
    second = tmp_path / "mini_code.csv"
    second.write_text(trace.read_text())
    shared = ["evaluate", "--policy", "token-bucket", "--replications", "1", "--json"]
    commas = json.loads(run(*shared, "--trace", f"{trace},{second}")[1])
    repeated = json.loads(run(*shared, "--trace", str(trace), "--trace", str(second))[1])
    assert [c["name"] for c in commas["classes"]] == ["chat", "code"]
    assert commas["scores"] == repeated["scores"]


def test_replay_of_the_azure_traces_accounts_for_every_request(run):
    paths = find_azure_2023()
    if not paths:
        pytest.skip("the Azure traces 2023 are not in data/ or ../shared/data")
    code, out, _ = run("replay", *map(str, paths), "--gpus", "5", "--json")
    assert code == 0
    account = json.loads(out)["requests"]
    assert account["arrived"] == 28_185
    assert account["completed"] + account["abandoned"] + account["inside"] == 28_185


def test_compare_writes_table_figure_and_page(run, tmp_path, trace):
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    arguments = ["compare", "--instance", "base,overload", "--gpus", "2,4"]
    arguments += ["--policies", "GG-SP,token-bucket", "--trace", str(trace), "--trace-gpus", "2"]
    code, text, _ = run(*arguments, *SHORT, "--out", str(out))
    assert code == 0
    assert "Revenue in % of R*" in text
    assert "± is half a 95% interval" in " ".join(text.split())
    table = (out / "table.md").read_text()
    assert table.startswith("| instance | n | gate-and-route | token-bucket |")
    assert "| overload | 4 |" in table
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 2 + 1)
    again = lse.evaluate(
        "token-bucket", "overload", 4, horizon=60, warmup=20, replications=2, seed=0
    )
    row = next(r for r in rows if (r["instance"], r["n_gpus"]) == ("overload", "4"))
    assert row["policy"] == "gate-and-route"
    by_policy = {r["policy"]: r for r in rows if (r["instance"], r["n_gpus"]) == ("overload", "4")}
    assert float(by_policy["token-bucket"]["score"]) == again.score.mean
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "<script src" not in page  # opens without a network
    assert "<link" not in page
    assert "overload" in page
    first = (out / "results.csv").read_bytes()
    assert run(*arguments, *SHORT, "--out", str(out))[0] == 0
    assert (out / "results.csv").read_bytes() == first


def test_lists_and_instance_files(run, tmp_path):
    names = json.loads(run("instances", "--json")[1])
    assert set(names) == set(lse.presets.NAMED_INSTANCES)
    path = tmp_path / "mine.json"
    assert run("instances", "--show", "dolly15k", "--save", str(path))[0] == 0
    assert lse.Instance.load(path) == lse.presets.dolly15k()
    policies = json.loads(run("policies", "--json")[1])
    assert policies["gate-and-route"]["aliases"] == ["GG-SP"]
    assert "overload" in run("instances")[1]
    assert "token-bucket" in run("policies")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--instance", "bas"], "expected base, overload, dolly15k"),
        (["plan", "--pricing", "free"], "bundled or separate"),
        (["plan", "--instance", "missing.json"], "readable file"),
        (["plan", "--instnce", "base"], "No such option"),
        (["plann"], "No such command"),
        (["evaluate"], "policy"),
        (["evaluate", "--policy", "nobody"], "expected one of"),
        (["evaluate", "--policy", "token-bucket", "--gpus", "0"], "n_gpus"),
        (["evaluate", "--policy", "token-bucket", "--gpus", "many"], "valid int"),
        (["evaluate", "--policy", "token-bucket", "--jobs", "0"], "jobs"),
        (["evaluate", "--policy", "token-bucket", "--instance", "azure2023"], "--trace"),
        (["evaluate", "--policy", "token-bucket", "--trace", "none.csv"], "readable file"),
        (["replay", "none.csv"], "readable file"),
        (["compare", "--gpus", "5,,6", "--out", "x"], "integers"),
        (["compare", "--instance", "base,nowhere", "--out", "x"], "nowhere"),
        (["compare", "--agents", "overload2=a.zip", "--out", "x"], "INSTANCE"),
        (["compare", "--policies", "GG-SP,gate-and-route", "--out", "x"], "twice on 'base'"),
        (["instances", "--save", "x.json"], "one instance"),
        (["bench", "--gpus", "-3"], "integers"),
        (["train", "--out", "x", "--steps", "0"], "steps"),
        (["train", "--out", "/proc/x"], "can be made"),
        (["compare", "--out", "/proc/x"], "can be made"),
        (["train", "--out", "x", "--resume"], "no such file"),
        (["train", "--out", "x", "--seed", "99999999999"], "seed"),
        (["sweep", "--out", "x", "--seeds", "99999999999"], "seed"),
        (["compare", "--out", "x", "--replications", "0"], "--replications"),
        (["compare", "--out", "x", "--seed", "-1"], "--seed"),
        (["compare", "--out", "x", "--horizon", "nan"], "--horizon"),
        (["compare", "--out", "x", "--warmup", "inf"], "--warmup"),
        (["compare", "--out", "x", "--pricing", "free"], "--pricing"),
        (["compare", "--out", "x", "--agents", "none.zip"], "no such file"),
        (["evaluate", "--policy", "token-bucket", "--horizon", "nan"], "horizon"),
        (["evaluate", "--policy", "token-bucket", "--horizon", "-1"], "horizon"),
        (["evaluate", "--policy", "token-bucket", "--warmup", "inf"], "warmup"),
        (["evaluate", "--policy", "token-bucket", "--seed", "-1"], "seed"),
        (["evaluate", "--policy", "none.zip"], "no such file"),
        (["evaluate", "--policy", "none.json"], "no such file"),
        (["evaluate", "--policy", "token-bucket", "--save-requests", "n/x.csv"], "cannot be wr"),
        (["path", "--horizon", "1e-320"], "at least 1e-06 s"),
        (["path", "--horizon", "nan"], "--horizon"),
        (["path", "--every", "-1"], "--every"),
        (["path", "--backlog", "nan,1"], "--backlog"),
        (["optimum", "--gpus", "0"], "gpus"),
        (["optimum", "--gpus", "1", "--tolerance", "nan"], "tolerance"),
        (["trace", "none.csv"], "readable file"),
        (["trace", "none.csv", "--save", "none/x.csv"], "cannot be written"),
        (["trace", "."], "readable file"),
        (["lengths", "none.csv"], "readable file"),
        (["calibrate", "."], "readable file"),
        (["instances", "--show", "base", "--save", "none/x.toml"], "cannot be written"),
        (["instances", "--hardware", "none.toml"], "readable file"),
        (["export", "none.zip", "--out", "x.zip"], "no such file"),
        (["bench", "--seconds", "nan"], "--seconds"),
        (["bench", "--scaling", "0"], "--scaling"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, arguments, message, tmp_path, monkeypatch):
    if arguments[0] in ("train", "compare", "sweep", "export"):
        pytest.importorskip("stable_baselines3")
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("llmsched: ")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--bins", "1000000"], ["--replications", "10000000"]])
def test_fits_of_lengths_have_a_greatest_size(run, trace, options):
    code, out, err = run("lengths", trace, *options)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"llmsched: {options[0][2:]}: got")
    assert "at most" in err


def test_the_version_is_a_line(run):
    code, out, err = run("--version")
    assert (code, err, out.count("\n")) == (0, "", 1)
    for name in ("llm-sched-env", "numpy", "numba", "scipy", "gymnasium"):
        assert f"{name} {version(name)}" in out
    assert f"Python {platform.python_version()}" in out


def test_without_a_command_there_is_help(run):
    for arguments in ([], ["--help"]):
        code, out, _ = run(*arguments)
        assert code == 0
        for option in ("--version", "--debug", "evaluate"):
            assert option in out


def test_every_command_has_help_with_an_example(run):
    commands = ("plan", "evaluate", "compare", "train", "replay", "trace")
    commands += ("lengths", "calibrate", "instances", "policies", "bench", "path")
    commands += ("optimum", "sweep", "export", "validate", "adapt", "serve", "profile")
    commands += ("import-logs",)
    for command in commands:
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"Example: llmsched {command}" in " ".join(out.split())


def test_module_entry_point():
    command = [sys.executable, "-m", "llm_sched_env", "plan", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["instance"] == "base"


def test_a_checkpoint_without_the_extra_is_one_clear_line(tmp_path):
    """As on a machine with the core only."""
    code = (
        "import sys; sys.modules['stable_baselines3'] = None\n"
        "from llm_sched_env.cli import main\n"
        "main(['evaluate', '--policy', 'agent.zip'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "llm-sched-env[agents]" in done.stderr
