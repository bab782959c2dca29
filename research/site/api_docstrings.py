"""An extension of Griffe, which reads the docstrings of the API pages (mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

import griffe

from research.site.docstrings import with_links

_EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class ReadableDocstrings(griffe.Extension):  # type: ignore[misc]
    """Examples as sections of code, and roles as links."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of what has been read, before it is parsed."""
        if obj.docstring is not None:
            text = with_links(obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", text)
