"""For the docs: doctests anywhere in a docstring become code blocks, not quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^[ ]*>>> .*\n?)(?:^[ ]*\S.*\n?)*", re.MULTILINE)


class DoctestBlocks(griffe.Extension):
    """Fences each run of lines that begins with `>>>` and ends at a blank line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """The docstring with its doctests fenced, at their own indentation."""

    def fence(match: re.Match[str]) -> str:
        block = match[0].rstrip("\n")
        indent = re.match(" *", block)[0]  # type: ignore[index]
        return f"{indent}```pycon\n{block}\n{indent}```\n"

    return _DOCTEST.sub(fence, text)
