"""What to try next, as lines that run when they are pasted."""

from __future__ import annotations

from itertools import islice
from shlex import quote

import numpy as np

from nearfar.search.index.stored_index import Index

LONGEST = 40
"""Letters of a caption that are taken for a query."""


def search_commands(index: Index, *, by: str = "text") -> list[str]:
    """Lines that search an index and open its page: by the caption of an item, or by its picture (`by="image"`), where
    one has a caption, or a file."""
    where = f"--index {quote(str(index.directory))}"
    items = index.table.records(np.arange(min(1000, len(index))))
    if by == "image":
        queries = (f"--image {quote(path)}" for item in items if (path := item["path"]))
    else:
        captions = (item["captions"] for item in items if item["captions"])
        queries = (quote(words(texts[0])) for texts in captions if words(texts[0]))
    return [*(f"nearfar search {query} {where}" for query in islice(queries, 1)), f"nearfar serve {where}"]


def words(caption: str) -> str:
    """The beginning of a caption, cut between words; nothing of one that a shell would take for a flag.

    >>> words("a red car at night, parked beside a long grey wall"), words("a\\ncat"), words("--help")
    ('a red car at night, parked beside a long', 'a cat', '')
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in caption).split())
    if len(line) > LONGEST:
        line = line[: LONGEST + 1].rpartition(" ")[0] or line[:LONGEST]
    return "" if line.startswith("-") else line
