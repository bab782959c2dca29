"""Public names and parameters change on purpose: they are listed in public_names.txt."""

from __future__ import annotations

from public_names import FILE, public_names


def test_public_names_are_those_of_the_list() -> None:
    listed = FILE.read_text(encoding="utf-8").splitlines()
    found = public_names()
    gone, new = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    assert (gone, new) == ([], []), (
        "public names have changed; say so in CHANGELOG.md and run "
        "`python tests/helpers/public_names.py`"
    )
    assert listed == found
