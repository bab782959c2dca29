"""The table of docs/serving.md is that of the measured rows."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("torch")

from research.pages import update_serving

pytestmark = pytest.mark.core


def test_the_table_is_that_of_the_rows(tmp_path, monkeypatch) -> None:
    page = tmp_path / "serving.md"
    shutil.copy(update_serving.PAGE, page)
    monkeypatch.setattr(update_serving, "PAGE", page)
    rows = update_serving.read_rows()
    update_serving.write_page(rows)
    assert page.read_text(encoding="utf-8") == (
        update_serving.ROOT / "docs" / "serving.md"
    ).read_text(encoding="utf-8")
    assert all(row["replayed"] == 1.0 for row in rows)
