"""What a user's code raises: its own exception in Python, one line on the command line."""

from __future__ import annotations

import traceback

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor

import llm_sched_env as lse
from llm_sched_env.evaluation.executor import Executor
from llm_sched_env.plugins.user_code import user_error_line
from llm_sched_env.policies import registry as policies

SHORT = ["--horizon", "20", "--warmup", "5", "--replications", "2", "--gpus", "3"]
SOURCE = """\
import numpy as np
import llm_sched_env as lse
class Resets:
    def reset(self, *run): raise KeyError("seed")
    def act(self, observation, info): return None
class Acts:
    environment = {"controls": "admission", "router": "solo-first", "pools": "dynamic"}
    def reset(self, *run): self.calls = 0
    def act(self, observation, info):
        self.calls += 1
        return np.ones(2) if self.calls < 7 else np.ones(3).reshape(7)
class Needs:
    def __init__(self, argument): pass
class Environment(Resets):
    environment = 5
def factory(): return lse.plan("nowhere")
def exits(): raise SystemExit(3)
def gives_text(): return "text"
number = 5
class Level(lse.ServiceLevel):
    name = "mine"
    def indicator(self, instance): return instance.nothing
class Numbers(lse.ServiceLevel):
    name = "numbers"
    def indicator(self, instance): return 5
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A user's modules, importable by name, also in other processes."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine_of_test.py").write_text(SOURCE)
    (folder / "syntax_of_test.py").write_text("x = = 3\n")
    (folder / "raises_of_test.py").write_text("\n1 / 0\n")
    (folder / "imports_of_test.py").write_text("import nothing_of_this_name\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        patched.setenv("PYTHONPATH", str(folder))
        yield folder


@pytest.mark.parametrize(
    ("policy", "said", "place"),
    [
        ("os:system", "TypeError: system() missing required argument", None),
        ("sys:exit", "SystemExit", None),
        ("os:path", "expected a DispatchRule or an object with reset", None),
        ("mine_of_test:number", "got 5", None),
        ("mine_of_test:gives_text", "got 'text'", None),
        ("mine_of_test:Environment", "a mapping of arguments", None),
        ("mine_of_test:missing", "no attribute 'missing'", None),
        ("nothing_of_this_name:x", "No module named", None),
        (".relative:x", "package.module:Name", None),
        ("mine_of_test:", "package.module:Name", None),
        ("mine_of_test:Needs", "TypeError: Needs.__init__() missing 1 required", None),
        ("mine_of_test:Resets", "raised KeyError: 'seed'", "mine_of_test.py:4 in reset"),
        ("mine_of_test:Acts", "ValueError: cannot reshape", "mine_of_test.py:11 in act"),
        ("mine_of_test:factory", "ConfigurationError: instance", "mine_of_test.py:16 in factory"),
        ("mine_of_test:exits", "SystemExit: 3", "mine_of_test.py:17 in exits"),
        ("syntax_of_test:x", "SyntaxError: invalid syntax", "syntax_of_test.py:1"),
        ("raises_of_test:x", "ZeroDivisionError: division by zero", "raises_of_test.py:2"),
        ("imports_of_test:x", "No module named 'nothing_of", "imports_of_test.py:1"),
    ],
)
def test_a_policy_that_cannot_be_used_is_one_line(run, mine, policy, said, place):
    code, out, err = run("evaluate", "--policy", policy, *SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("llmsched: ")
    assert said in err
    if place:
        assert f"({mine / place})" in err


@pytest.mark.parametrize(
    ("level", "said", "place"),
    [
        ("mine_of_test:Level@limit=1", "AttributeError", "mine_of_test.py:22 in indicator"),
        ("mine_of_test:Numbers@limit=1", "got 5, expected an Indicator", None),
        ("raises_of_test:x@price=1", "ZeroDivisionError", "raises_of_test.py:2"),
        ("os:system@price=1", "a subclass of ServiceLevel", None),
    ],
)
def test_a_service_level_that_cannot_be_used_is_one_line(run, mine, level, said, place):
    for command in (["plan"], ["evaluate", "--policy", "token-bucket", *SHORT]):
        code, out, err = run(*command, "--slo", level)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err
        if place:
            assert f"({mine / place})" in err


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_whole_traceback(run, mine, place):
    command = ["evaluate", "--policy", "mine_of_test:Resets", *SHORT]
    code, _, err = run(*(["--debug", *command] if place == "before" else [*command, "--debug"]))
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert 'raise KeyError("seed")' in err
    assert err.splitlines()[-1].startswith("llmsched: policy mine_of_test:Resets raised KeyError")


def test_in_python_the_exception_is_the_users_own(mine):
    with pytest.raises(KeyError) as caught:
        lse.evaluate("mine_of_test:Resets", "base", 3, horizon=10.0, replications=1)
    assert traceback.extract_tb(caught.value.__traceback__)[-1].line == (
        'def reset(self, *run): raise KeyError("seed")'
    )
    assert caught.value.args == ("seed",)


def test_the_place_is_known_across_processes(mine):
    get_reusable_executor().shutdown()  # processes of earlier tests do not look into this folder
    with pytest.raises(ValueError, match="reshape") as caught:
        lse.evaluate(
            "mine_of_test:Acts", "base", 3, horizon=20.0, replications=2, executor=Executor(2)
        )
    assert f"{mine / 'mine_of_test.py'}:11 in act" in str(user_error_line(caught.value))


class Broken:
    """An entry point of another package."""

    name, value = "broken", "other_package:POLICY"

    def load(self):
        return 1 / 0


def test_an_entry_point_of_another_package_that_raises_is_one_line(run, monkeypatch):
    known = policies.entry_points

    def with_broken(**which):
        found = known(**which)
        return [*found, Broken()] if which["group"] == policies.POLICY_GROUP else found

    policies.registered_policies.cache_clear()
    monkeypatch.setattr(policies, "entry_points", with_broken)
    code, out, err = run("policies")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "registered policy broken (other_package:POLICY) raised ZeroDivisionError" in err


def test_a_checkpoint_that_raises_is_one_line(run, tmp_path, monkeypatch):
    class Loader:
        dist = None

        def load(self):
            return lambda path: np.load(path)["weights"]

    class Points(dict):
        names = property(dict.keys)

    known = policies.entry_points
    points = Points(npz=Loader())
    monkeypatch.setattr(
        policies,
        "entry_points",
        lambda **which: points if which["group"] == policies.CHECKPOINT_GROUP else known(**which),
    )
    path = tmp_path / "agent.npz"
    np.savez(path, other=np.ones(2))
    code, out, err = run("evaluate", "--policy", path, *SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"checkpoint {path} raised KeyError" in err
    assert "test_user_code.py" in err
    np.savez(path, weights=np.ones(2))
    assert "a DispatchRule or an object with reset" in run("evaluate", "--policy", path, *SHORT)[2]
