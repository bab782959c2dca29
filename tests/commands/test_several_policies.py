"""``--policies``: one row each, all on the same requests over the same time."""

from __future__ import annotations

import json

import pytest

SHORT = ["--instance", "overload", "--gpus", "4", "--horizon", "40", "--replications", "2"]
VOLATILE = ("wall_seconds", "events_per_second", "decision_milliseconds")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "mini_chat.csv"
    rows = [f"2023-11-16 18:15:{46 + k // 2}.{k % 2}805900,{300 + k},{40 + k}" for k in range(20)]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    return path


def plain(text):
    data = json.loads(text)
    for result in data.get("results", [data]):
        for name in VOLATILE:
            del result[name]
    return data


def test_each_row_is_what_the_policy_gets_alone(run):
    names = ["token-bucket", "GG-SP", "trunk-reservation"]
    code, out, _ = run("evaluate", "--policies", ",".join(names), *SHORT, "--json")
    assert code == 0
    results = plain(out)["results"]
    alone = [plain(run("evaluate", "--policy", n, *SHORT, "--json")[1]) for n in names]
    assert results == alone
    assert [r["policy"] for r in results] == ["token-bucket", "gate-and-route", "trunk-reservation"]
    table = run("evaluate", "--policies", ",".join(names), *SHORT)[1]
    for result in results:
        (row,) = [line for line in table.splitlines() if line.startswith(f" {result['policy']} ")]
        half = result["score"]["ci95"][1] - result["score"]["mean"]
        cells = row.split()[1:]
        assert cells[0] == f"{result['score']['mean']:.4f}±{half:.4f}"
        assert cells[1] == f"{result['revenue_rate']['mean']:.2f}"
        assert cells[2] == f"{result['ttft']['p99']:.3f}"
        assert cells[3] == f"{result['tpot']['p99']:.3f}"
        assert cells[4] == f"{result['abandoned']['share']:.2%}"


def test_one_name_is_still_a_list(run, trace):
    out = run("replay", trace, "--policies", "token-bucket", "--gpus", "1", "--json")[1]
    single = run("replay", trace, "--policy", "token-bucket", "--gpus", "1", "--json")[1]
    assert plain(out) == {"results": [plain(single)]}


def test_a_replay_of_several_has_an_account_of_each(run, trace):
    code, out, err = run("replay", trace, "--policies", "token-bucket,GG-SP", "--gpus", "1")
    assert code == 0
    assert " gate-and-route" in out
    assert "token-bucket: 20 requests: 16 completed" in err
    assert "gate-and-route: 20 requests: 16 completed" in err


def test_all_run_as_long_as_the_one_that_acts_at_intervals(run, trace):
    out = run("replay", trace, "--policies", "GG-SP,fluid-mpc", "--gpus", "1", "--json")[1]
    rule, python = json.loads(out)["results"]
    assert rule["horizon"] == python["horizon"] == 10.0
    assert rule["bound"] == python["bound"]
    assert rule["requests"]["arrived"] == python["requests"]["arrived"] == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "a", "--policies", "b,c"], "`--policy` cannot be combined with `--policies`"),
        (["--policies", "token-bucket,,GG-SP"], "without empty items"),
        (["--policies", ""], "without empty items"),
        (["--policies", "token-bucket,token-bucket"], "each policy once"),
        (["--policies", "GG-SP,gate-and-route"], "two names stand for 'gate-and-route'"),
        (["--policies", "token-bucket,nobody"], "expected one of"),
    ],
)
def test_names_that_cannot_be_meant_are_one_line(run, trace, options, message):
    for command in (["evaluate"], ["replay", trace]):
        code, out, err = run(*command, *options)
        assert (code, out) == (2, "")
        assert message in err
        assert err.splitlines()[-1].startswith(
            ("llmsched: --polic", "llmsched: `--polic", "llmsched: policy")
        )
