"""Data from elsewhere runs no code: no file is unpickled, evaluated, or says what to import."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llm_sched_env.errors import CheckpointError, ConfigurationError
from llm_sched_env.evaluation.comparison import ComparedWorkload, Competitor, compare
from llm_sched_env.policies.registry import resolve_policy

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("llm_sched_env", "agents", "baselines", "benchmarks", "research")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

# What unpickles, runs or unpacks what it is given.
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "yaml", "jsonpickle"}
METHODS = {"load_replay_buffer", "load_from_zip_file", "extract", "extractall", "unpack_archive"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"joblib", "numpy", "np", "torch", "th", "sb3_contrib", "stable_baselines3"}
GUARDS = {"np.load": ("allow_pickle", False), "torch.load": ("weights_only", True)}
# Where a name is imported that the user, or an installed package, gave.
IMPORTERS = {"__init__.py", "user_code.py"}


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of a chain of attributes; other expressions are dots without a name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST, importer: bool = False) -> Iterator[str]:
    """What in a source could run code of a file that it reads."""
    learned = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if package_of(a.name) in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if package_of(node.module) in MODULES:
                yield str(node.module)
            if package_of(node.module) in LOADERS:
                learned |= {alias.asname or alias.name for alias in node.names}
    yield from learned & {"load", "loads"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and is_dangerous(node, LOADERS | learned, importer):
            yield dotted(node.func)


def package_of(module: str | None) -> str:
    return str(module).partition(".")[0]


def is_dangerous(call: ast.Call, loaders: set[str], importer: bool) -> bool:
    name = dotted(call.func)
    owner, _, method = name.rpartition(".")
    given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
    if name in GUARDS:
        keyword, wanted = GUARDS[name]
        return given.get(keyword) is not wanted
    return (
        name in BUILTINS
        or method in METHODS
        or (method == "import_module" and not importer)
        or (method == "load" and owner in loaders)
        or given.get("allow_pickle") is True
        or given.get("weights_only") is False
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_reads_code_from_data(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(dangers(tree, importer=path.name in IMPORTERS)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from cloudpickle import loads",
        "import yaml as y",
        "from joblib import load",
        "import joblib\njoblib.load(x)",
        "import numpy as np\nnp.load(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import numpy as np\nnp.load(x, allow_pickle=chosen)",
        "import torch\ntorch.load(x)",
        "import torch\ntorch.load(x, weights_only=False)",
        "from stable_baselines3 import PPO\nPPO.load(x)",
        "model.load_replay_buffer(x)",
        "archive.extractall(x)",
        "eval(x)",
        "exec(x)",
        "import importlib\nimportlib.import_module(x)",
    ],
)
def test_the_check_finds_what_it_looks_for(text):
    assert list(dangers(ast.parse(text)))


def test_the_check_lets_the_rest_pass():
    assert len(SOURCES) > 200
    for text in (
        "import numpy as np\nnp.load(x, allow_pickle=False)",
        "import torch\ntorch.load(x, weights_only=True)",
        "import json\njson.loads(x)",
        "policy.eval()",
        "Checkpoint.load(x)",
    ):
        assert list(dangers(ast.parse(text))) == []


# Files that would run code


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.fixture
def trap(tmp_path):
    """A pickle, and the folder that is there once it has run."""
    place = tmp_path / "the pickle has run"
    content = pickle.dumps(Trap(place))
    pickle.loads(content)
    assert place.is_dir()
    place.rmdir()
    yield content, place
    assert not place.exists()


def object_arrays(content: bytes) -> bytes:
    """An npz file whose only array is a pickle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("policy.npy", header.getvalue() + content)
    return file.getvalue()


def test_the_trap_is_one_for_who_reads_arrays_carelessly(trap):
    content, place = trap
    with np.load(io.BytesIO(object_arrays(content)), allow_pickle=True) as arrays:
        arrays["policy"]
    assert place.is_dir()
    place.rmdir()


def small_comparison(kept):
    _, policy = resolve_policy("token-bucket")
    settings = {"horizon": 20.0, "warmup": 5.0, "replications": 1}
    return compare(
        [ComparedWorkload("base", 2)], [Competitor("rule", policy)], cache=kept, **settings
    )


def test_a_pickle_among_cached_evaluations_is_not_read(trap, tmp_path):
    content, _ = trap
    kept = tmp_path / "cells"
    first = small_comparison(kept)
    (file,) = kept.iterdir()
    # Where earlier versions kept it: ignored.
    file.with_suffix(".pickle").write_bytes(content)
    again = small_comparison(kept)
    assert [r.scores for _, r in again] == [r.scores for _, r in first]
    # Where this version keeps it: told.
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"cached evaluation.*remove the file"):
        small_comparison(kept)
    assert file.read_bytes() == content


# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("foreign checkpoint")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("torch")
    from small_training import small

    from llm_sched_env.agents.ppo import train

    return train(small(100), tmp_path_factory.mktemp("run"))


def changed(checkpoint, path, **members):
    """A copy of a checkpoint with members added, replaced or (None) left out."""
    with zipfile.ZipFile(checkpoint) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("_", "."): member for name, member in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in content.items():
            if member is not None:
                archive.writestr(name, member)
    return path


def require_refused(path, match):
    """Reading, evaluating and resuming are one line each."""
    import llm_sched_env as lse
    from llm_sched_env.agents.checkpoint import Checkpoint
    from llm_sched_env.agents.ppo import train

    for use in (
        lambda: Checkpoint.load(path),
        lambda: lse.evaluate(str(path), "overload", 5, horizon=20.0, warmup=5.0),
        lambda: train(None, path.parent, resume=True),
    ):
        with pytest.raises(CheckpointError, match=match) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights_npz", "learner_npz"])
def test_pickles_in_a_checkpoint_s_arrays_are_refused(trap, checkpoint, tmp_path, name):
    path = changed(checkpoint, tmp_path / "agent.zip", **{name: object_arrays(trap[0])})
    require_refused(path, "no agent of this package")
    require_refused(changed(checkpoint, path, **{name: trap[0]}), "no agent of this package")


def test_a_pickled_model_in_a_checkpoint_is_refused(trap, checkpoint, tmp_path):
    for name in ("model_zip", "extra_pkl", "__/__/escaped"):
        path = changed(checkpoint, tmp_path / "agent.zip", **{name: trap[0]})
        require_refused(path, "unknown member")
    assert not (tmp_path.parent.parent / "escaped").exists()


def test_a_pickle_beside_a_checkpoint_is_not_read(trap, tmp_path):
    pytest.importorskip("stable_baselines3")
    from small_training import small

    from llm_sched_env.agents.ppo import train

    off_policy = {"algorithm": "sac", "evaluation_every": 1000}
    train(small(100, **off_policy), tmp_path)
    (tmp_path / "replay.pkl").write_bytes(trap[0])
    train(small(200, **off_policy), tmp_path, resume=True)
    for content in (trap[0], object_arrays(trap[0])):
        (tmp_path / "replay.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match="no transitions of this training") as caught:
            train(small(300, **off_policy), tmp_path, resume=True)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_imports_nothing(checkpoint, tmp_path, monkeypatch):
    import json

    place = tmp_path / "imported"
    (tmp_path / "foreign.py").write_text(f"import os\nos.mkdir({str(place)!r})\nPolicy = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with zipfile.ZipFile(checkpoint) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    for changes in ({"references": ["foreign:Policy"]}, {"imitate": "foreign:Policy"}):
        metadata["configuration"] |= changes
        path = changed(checkpoint, tmp_path / "agent.zip", metadata_json=json.dumps(metadata))
        require_refused(path, "name of a registered policy")
    assert not place.exists()


def test_a_pickle_as_the_state_of_a_rule_training_is_refused(trap, tmp_path):
    import llm_sched_env as lse
    from research.rule_training.trainer import RuleTraining, train_rule

    training = RuleTraining(lse.presets.overload().to_dict(), 2, generations=1, scenarios=2)
    for content in (trap[0], object_arrays(trap[0]), b""):
        (tmp_path / "training.npz").write_bytes(content)
        with pytest.raises(
            CheckpointError, match="no state that `python -m research train-rule` wrote"
        ):
            train_rule(training, tmp_path)
