"""Every file is written whole or not at all, and a failure is one line with path and cause."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import llm_sched_env as lse
from llm_sched_env.errors import FileError
from llm_sched_env.files.atomic import make_folder, require_writable, whole_file, write_whole

ROOT = Path(__file__).parents[2]
FOLDERS = ("llm_sched_env", "agents", "baselines", "benchmarks", "research")


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with whole_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyError("unrelated")

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_rights_stay(tmp_path):
    path, link = tmp_path / "file.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_written_is_named_with_cause_and_remedy(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    cases = {
        tmp_path / "folder": ("Is a directory", "name a file"),
        tmp_path / "none" / "file": ("No such file", "make its folder first"),
        tmp_path / "file" / "below": ("Not a directory", "one of its folders is a file"),
        tmp_path / ("x" * 300): ("name too long", "a shorter name"),
    }
    for path, (cause, remedy) in cases.items():
        with pytest.raises(FileError) as caught, whole_file(path):
            pass
        message = str(caught.value)
        assert message.startswith(f"{path}: cannot be written (")
        assert cause in message
        assert remedy in message
        with pytest.raises(FileError):
            require_writable(path)
    with pytest.raises(FileError, match="can be made"):
        make_folder(tmp_path / "file" / "below")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_device_is_written_to_and_stays(tmp_path):
    full, link = Path("/dev/full"), tmp_path / "base.json"
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    link.symlink_to(full)
    with pytest.raises(FileError, match=r"No space left on device.*free some space"):
        lse.presets.base().save(link)
    assert full.is_char_device()


def test_asking_whether_a_file_can_be_written_leaves_it(tmp_path):
    path = tmp_path / "file.txt"
    require_writable(path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    require_writable(path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["results.csv", "table.md", "figure.png", "report.html"])
def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(run, tmp_path, monkeypatch, name):
    pytest.importorskip("matplotlib")
    out = tmp_path / "results"
    out.mkdir()
    (out / name).write_bytes(b"old")
    arguments = ["compare", "--instance", "base", "--gpus", "2", "--policies", "token-bucket"]
    arguments += ["--horizon", "20", "--warmup", "5", "--replications", "1", "--out", str(out)]
    opened = Path.open

    class Full:
        """A file on a disk with room for a few bytes."""

        def __init__(self, file):
            self._file = file

        def __enter__(self):
            self._file.__enter__()
            return self

        def __exit__(self, *error):
            return self._file.__exit__(*error)

        def write(self, content):
            self._file.write(content[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def open_full(path, *arguments, **options):
        file = opened(path, *arguments, **options)
        return Full(file) if path.name.startswith(f"{name}.") else file

    monkeypatch.setattr(Path, "open", open_full)
    code, _, err = run(*arguments)
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"llmsched: {out / name}: cannot be written (No space left on device)")
    assert "Traceback" not in err
    assert (out / name).read_bytes() == b"old"
    assert not [p for p in out.iterdir() if p.suffix == ".part"]


def test_a_limit_of_file_sizes_is_met_like_a_full_disk(tmp_path):
    pytest.importorskip("resource")
    code = """
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        from llm_sched_env.cli import main
        main(["instances", "--show", "dolly15k", "--save", sys.argv[1]])
    """
    path = tmp_path / "dolly.json"
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(code), str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{path}: cannot be written (File too large)" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_behind_the_output_is_one_line():
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-m", "llm_sched_env", "plan", "--json"]
    with full.open("w") as output:
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == "llmsched: the output cannot be written (No space left on device)\n"


WRITERS = {"write_text", "write_bytes", "savefig", "to_csv", "tofile", "write_image", "write_html"}


def writing_calls(tree: ast.AST) -> list[tuple[int, str]]:
    """Calls that write a file without :mod:`llm_sched_env.files.atomic`."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        modes = [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
        texts = [m.value for m in modes if isinstance(m, ast.Constant) and isinstance(m.value, str)]
        opens = name in {"open", "fdopen"} and any(set(t) & set("wax+") for t in texts[:2])
        # numpy.save, json.dump, ... take a path or a file: only a file in memory is fine here.
        saves = name in {"save", "savetxt"} and ast.unparse(node.func).startswith(("np.", "numpy."))
        dumps = name == "dump" and ast.unparse(node.func) in {"json.dump", "pickle.dump"}
        if name in WRITERS or opens or saves or dumps:
            found.append((node.lineno, ast.unparse(node.func)))
    return found


def test_the_guard_finds_what_writes():
    bad = (
        "open(p, 'w'); p.open('wb'); p.write_text(t); f.savefig(p); np.save(p, a); json.dump(a, f)"
    )
    assert len(writing_calls(ast.parse(bad))) == 6
    assert writing_calls(ast.parse("p.open(); p.open('rb'); p.open(encoding='utf-8')")) == []


def test_nothing_else_in_the_package_writes_files():
    sources = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(sources) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line} {call}"
        for path in sources
        if path != ROOT / "llm_sched_env" / "files" / "atomic.py"
        for line, call in writing_calls(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
