"""The on-disk cache of compiled code survives an upgrade in place."""

from __future__ import annotations

import pickle
import sys
import types

from llm_sched_env.simulation.runtime import compiled


class _Index:
    """What Numba's cache does with its index: unpickle it."""

    def __init__(self, path):
        self._index_path = str(path)
        self._path = path

    def _load_index(self):
        if self._path.exists():
            pickle.loads(self._path.read_bytes())


def test_an_index_that_names_a_module_of_before_is_removed(tmp_path, monkeypatch):
    before = types.ModuleType("layout_of_before")
    before.State = type("State", (), {"__module__": "layout_of_before"})
    monkeypatch.setitem(sys.modules, "layout_of_before", before)
    index = tmp_path / "engine.nbi"
    index.write_bytes(pickle.dumps(before.State()))
    compiled._forget_unreadable(_Index(index))
    assert index.exists()
    monkeypatch.delitem(sys.modules, "layout_of_before")
    compiled._forget_unreadable(_Index(index))
    assert not index.exists()
    compiled._forget_unreadable(_Index(index))
