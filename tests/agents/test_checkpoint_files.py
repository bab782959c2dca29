"""Checkpoints that were not written here, or are damaged, are one clear line."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")
pytest.importorskip("torch")

from small_training import small

import llm_sched_env as lse
from llm_sched_env.agents import archives, checkpoint
from llm_sched_env.agents.checkpoint import Checkpoint
from llm_sched_env.agents.ppo import train
from llm_sched_env.errors import CheckpointError

# One worker makes what the tests share, once.
pytestmark = pytest.mark.xdist_group("checkpoint files")


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    path = train(small(100), tmp_path_factory.mktemp("run"))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def arrays(content, **changes):
    """An npz file with arrays added, replaced or (None) left out."""
    with np.load(io.BytesIO(content)) as found:
        changed = dict(found) | changes
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in changed.items() if array is not None})
    return file.getvalue()


def require_one_line(path, match, use=Checkpoint.load):
    with pytest.raises(CheckpointError, match=match) as caught:
        use(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_file_is_read_and_written_alike(members, tmp_path):
    path = written(tmp_path / "agent.zip", members)
    Checkpoint.load(path).save(tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        assert archive.namelist() == ["weights.npz", "learner.npz", "metadata.json"]
        assert archive.read("metadata.json") == members["metadata.json"]
        for name in ("weights.npz", "learner.npz"):
            first, again = (np.load(io.BytesIO(c)) for c in (members[name], archive.read(name)))
            assert first.files == again.files
            assert all(first[n].tobytes() == again[n].tobytes() for n in first.files)


@pytest.mark.parametrize("name", ["weights.npz", "metadata.json"])
def test_a_missing_member_is_named(members, tmp_path, name):
    rest = {key: value for key, value in members.items() if key != name}
    require_one_line(written(tmp_path / "agent.zip", rest), f"member '{name}' is missing")


def test_a_member_that_is_there_twice_is_refused(members, tmp_path):
    path = written(tmp_path / "agent.zip", members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("weights.npz", b"")
    require_one_line(path, "a member is there twice")


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(members, tmp_path, monkeypatch):
    """A megabyte of zeros is a kilobyte in the file."""
    zeros = bytes(2**20)
    monkeypatch.setattr(checkpoint, "_MOST_BYTES", dict.fromkeys(checkpoint._MOST_BYTES, 500_000))
    bomb = written(tmp_path / "agent.zip", members | {"metadata.json": zeros})
    assert bomb.stat().st_size < 250_000
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    require_one_line(bomb, "'metadata.json' of 1,048,576 bytes, at most 500,000")


def test_arrays_that_unpack_to_too_much_are_refused(members, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_MOST_BYTES", dict.fromkeys(checkpoint._MOST_BYTES, 500_000))
    nested = io.BytesIO()
    np.savez_compressed(nested, a=np.zeros(2**16), b=np.zeros(2**16 - 1000))
    assert len(nested.getvalue()) < 10_000
    path = written(tmp_path / "agent.zip", members | {"weights.npz": nested.getvalue()})
    require_one_line(path, r"at most 500,000|more than 500,000 bytes")


def test_an_array_that_claims_more_than_it_has_is_refused(members, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    )
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as archive:
        archive.writestr("a.npy", header.getvalue() + bytes(80))
    require_one_line(
        written(tmp_path / "agent.zip", members | {"weights.npz": nested.getvalue()}),
        "no agent of this package",
    )


@pytest.mark.parametrize("cut", [0, 1, 100, 0.5, 0.99])
def test_cut_files_are_refused(members, tmp_path, cut):
    path = written(tmp_path / "agent.zip", members)
    content = path.read_bytes()
    path.write_bytes(content[: cut if isinstance(cut, int) else int(cut * len(content))])
    require_one_line(path, "no agent of this package")


def test_flipped_bytes_are_refused_or_change_nothing(members, tmp_path):
    path = written(tmp_path / "agent.zip", members)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    whole, refused = Checkpoint.load(path), 0
    for place in rng.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(bytes(changed))
        try:
            found = Checkpoint.load(path)
        except CheckpointError:
            refused += 1
            continue
        assert found.configuration == whole.configuration
        assert all((found.weights[n] == whole.weights[n]).all() for n in whole.weights)
    assert refused > 100


@pytest.fixture
def require_refused(members, tmp_path):
    """Check that a checkpoint with other metadata is one line."""

    def require(metadata):
        content = json.dumps(metadata)
        path = written(tmp_path / "agent.zip", members | {"metadata.json": content})
        require_one_line(path, "no agent of this package")

    return require


@pytest.fixture
def metadata(members):
    return json.loads(members["metadata.json"])


def test_facts_of_other_types_are_refused(metadata, require_refused):
    for name in metadata:
        require_refused({key: value for key, value in metadata.items() if key != name})
        for wrong in ("x", -1, True, ["x"], {"x": 1}, [[{"a": []}]], 1e999):
            require_refused(metadata | {name: wrong})
    for wrong in ([], "x", None, 3, {}, metadata | {"more": 1}):
        require_refused(wrong)
    row = metadata["evaluations"][0]
    for column in row:
        less = {key: value for key, value in row.items() if key != column}
        require_refused(metadata | {"evaluations": [row, less]})


def test_settings_of_other_types_are_refused(metadata, require_refused):
    configuration = metadata["configuration"]
    instance = configuration["instance"]
    wrongs = [
        (name, wrong)
        for name in configuration
        for wrong in (None, -1.5, ["x", 1], {"x": 1}, float("nan"))
        if (name, wrong) != ("initial_log_std", -1.5)
    ]
    for name, wrong in (
        *wrongs,
        ("hidden_units", [10**9]),
        ("hidden_units", [64] * 1000),
        ("frame_stack", 10**6),
        ("references", ["a.b:C"]),
        ("references", ["/etc/passwd.json"]),
        ("instance", instance | {"hardware": "gpu.toml"}),
        ("instance", instance | {"classes": []}),
    ):
        require_refused(metadata | {"configuration": configuration | {name: wrong}})


def test_moments_that_are_none_are_refused(metadata, require_refused):
    moments = metadata["normaliser"]["observation"]
    for wrong in (
        moments | {"mean": moments["mean"][1:]},
        moments | {"var": [-1.0, *moments["var"][1:]]},
        moments | {"mean": ["nan", *moments["mean"][1:]]},
        moments | {"count": -1.0},
        moments | {"more": 1.0},
    ):
        normaliser = metadata["normaliser"] | {"observation": wrong}
        require_refused(metadata | {"normaliser": normaliser})


def test_deep_json_and_files_of_earlier_versions_are_refused(members, tmp_path):
    path = tmp_path / "agent.zip"
    for content in ("[" * 100_000, '{"format": 1}', "\xff"):
        written(path, members | {"metadata.json": content})
        require_one_line(path, "no agent of this package")
    written(path, {"model.zip": b""} | members)
    require_one_line(path, "unknown member 'model.zip'.*earlier versions cannot be read")


def test_weights_of_other_networks_are_refused(members, tmp_path):
    """What is read without error, but is no network of the configuration."""
    content, path = members["weights.npz"], tmp_path / "agent.zip"

    def evaluated(path):
        lse.evaluate(str(path), "overload", 5, horizon=20.0, warmup=5.0, replications=1)

    name = "action_net.weight"
    with np.load(io.BytesIO(content)) as found:
        usual = found[name]
    for changes in (
        {name: None},
        {name: usual[:, 1:]},
        {"more": usual},
        {name: usual * np.nan},
        {name: np.array(["text"])},
    ):
        written(path, members | {"weights.npz": arrays(content, **changes)})
        require_one_line(path, "checkpoint", evaluated)
    metadata = json.loads(members["metadata.json"])
    short = {key: values[1:] for key, values in metadata["observation"].items()}
    written(path, members | {"metadata.json": json.dumps(metadata | {"observation": short})})
    require_one_line(path, "moments of 15 features, expected 16", evaluated)


def test_learners_of_other_networks_are_refused(members, tmp_path):
    content, path = members["learner.npz"], tmp_path / "agent.zip"
    name, moment = "policy:action_net.weight", "policy.optimizer:0:exp_avg"
    with np.load(io.BytesIO(content)) as found:
        usual, moments = found[name], found[moment]
    for changes in (
        {name: None},
        {name: usual[:, 1:]},
        {name: usual.astype(np.float64)},
        {moment: None},
        {moment: moments[1:]},
        {"policy.optimizer:99:exp_avg": moments},
        {"policy.optimizer:x:exp_avg": moments},
        {"__class__": moments},
        {"count:updates": np.array(-1)},
        {"count:updates": np.array(1.5)},
        {"recent:returns": np.zeros((2, 2))},
        {"recent:lengths": np.zeros(200)},
    ):
        written(path, members | {"learner.npz": arrays(content, **changes)})
        require_one_line(
            path, "another learner", lambda _: train(small(200), tmp_path, resume=True)
        )
    assert [file.name for file in tmp_path.iterdir()] == ["agent.zip"]


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="no numbers"):
        archives.arrays_content({"a": np.array([object()])})
