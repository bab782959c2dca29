"""Formulas of a page as MathML."""

from __future__ import annotations

import html
import re

from math_core import LatexToMathML

# What pymdownx.arithmatex leaves of $...$ and of $$...$$.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_LONG = 40
_DISPLAYED = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)


def with_mathml(page: str) -> str:
    r"""The HTML of a page with every formula as MathML; raises for what is no LaTeX.

    >>> with_mathml(r'<span class="arithmatex">\(x^2\)</span>')
    '<math><msup><mi>x</mi><mn>2</mn></msup></math>'
    """
    converter = LatexToMathML()

    def inline(found: re.Match[str]) -> str:
        formula: str = converter.convert_with_local_state(
            html.unescape(found[1]), displaystyle=False
        )
        if len(found[1]) > _LONG:  # wider than a phone: it scrolls by itself
            formula = f'<span class="formula" tabindex="0">{formula}</span>'
        return formula

    def displayed(found: re.Match[str]) -> str:
        formula = converter.convert_with_local_state(html.unescape(found[1]), displaystyle=True)
        return f'<div class="formula" tabindex="0">{formula}</div>'

    return _DISPLAYED.sub(displayed, _INLINE.sub(inline, page))
