"""What docstrings say of arguments: the help of commands and protocols is written once, beside the code."""

from __future__ import annotations

import re


def described(docstring: str) -> dict[str, str]:
    """What the section `Args` of a docstring says of each argument.

    >>> described("Args:\\n    k: neighbours;\\n        all of them.\\n    a, b: two\\n\\nReturns:\\n    c: no")
    {'k': 'neighbours; all of them', 'a': 'two', 'b': 'two'}
    """
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    entries = re.split(r"^ {4}(?! )", section[1], flags=re.MULTILINE)[1:] if section else []
    descriptions: dict[str, str] = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        descriptions |= {name.strip(): " ".join(text.split()).removesuffix(".") for name in names.split(",")}
    return descriptions


def summary(docstring: str) -> str:
    """A docstring without its sections.

    >>> summary("Do it.\\n\\nSlowly.\\n\\nArgs:\\n    k: neighbours")
    'Do it.\\n\\nSlowly.'
    """
    return re.split(r"^(?:Args|Returns|Raises):\n", docstring + "\n", maxsplit=1, flags=re.MULTILINE)[0].strip()
