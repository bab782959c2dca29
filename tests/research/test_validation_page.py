"""docs/validation.md is what the measured runs give."""

from __future__ import annotations

import pytest

from llm_sched_env.errors import FileError
from research.pages import update_validation


def test_the_page_is_what_comes_out(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    kept = (update_validation.DOCS / "validation.md").read_text(encoding="utf-8")
    monkeypatch.setattr(update_validation, "DOCS", tmp_path)
    try:
        update_validation.main()
    except FileError as missing:
        pytest.skip(str(missing))
    assert (tmp_path / "validation.md").read_text(encoding="utf-8") == kept
    assert (tmp_path / "validation.png").stat().st_size > 0
