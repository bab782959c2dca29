"""docs/robustness.md counts what is tried."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from fuzzing import MANY_CASES, USUAL_CASES

ROOT = Path(__file__).parents[2]


def properties() -> set[str]:
    """Tests that draw their cases."""
    found = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            decorators = node.decorator_list if isinstance(node, ast.FunctionDef) else []
            if any(ast.unparse(decorator) == "fuzzed" for decorator in decorators):
                found.add(node.name)
    return found


def test_the_page_has_every_property_and_its_cases() -> None:
    page = (ROOT / "docs" / "robustness.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if "| `test_" in line]
    listed: list[str] = []
    for _, names, usual, many in rows:
        own = re.findall(r"`(\w+)`", names)
        listed += own
        assert int(usual.replace(",", "")) == USUAL_CASES * len(own)
        assert int(many.replace(",", "")) == MANY_CASES * len(own)
    assert len(rows) == 9
    assert sorted(listed) == sorted(properties())
