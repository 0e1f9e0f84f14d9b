"""Which columns of a table hold pairs of texts: the published names of sentence data, and what records call them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.data.sources.record_text import captions

FIRST = "sentence1 sentence_1 sentence_a sent0 text1 anchor premise"
"""Names of the first text, the most usual first."""
SECOND = "text2 sentence2 sentence_2 sentence_b sent1 positive hypothesis"
SCORE = "score similarity_score relatedness_score similarity relatedness"
NEGATIVE = re.compile(r"(negative|negatives|negative_text|hard_neg|hard_negative|neg)(_?\d+)?")
"""STS-B, SICK and GLUE have `sentence1`, `sentence2` or `sentence_A`, `sentence_B`; SimCSE's NLI has `sent0`, `sent1`,
`hard_neg`; sentence-transformers has `anchor`, `positive`, `negative` or `negative_1`, `negative_2` ..."""


class PairColumns:
    """The columns of pairs of texts, by the keys of a record: `text2`, `score`, `negative_text`. Empty where there is
    no second text.

    Args:
        columns: all columns of the data.
        used: those that play another part.
        row: the first row, as far as it is known: numbers with a fraction under `label` are scores (GLUE).

    >>> PairColumns(["sentence1", "sentence2", "label"], row={"label": 3.8}).of
    {'text2': ('sentence2',), 'score': ('label',)}
    >>> PairColumns(["anchor", "positive", "negative_1", "negative_2"], used=["anchor"]).of["negative_text"]
    ('negative_1', 'negative_2')
    """

    def __init__(
        self, columns: Sequence[str], *, used: Sequence[str | None] = (), row: Mapping[str, Any] | None = None
    ) -> None:
        folded = {column.strip().lower(): column for column in reversed(columns) if column not in used}
        second = next((folded[name] for name in SECOND.split() if name in folded), None)
        self.of: dict[str, tuple[str, ...]] = {}
        if second is None:
            return
        self.of["text2"] = (second,)
        score = next((folded[name] for name in SCORE.split() if name in folded), None)
        if score is None and "label" in folded and is_score((row or {}).get(folded["label"])):
            score = folded["label"]
        if score is not None:
            self.of["score"] = (score,)
        if negatives := tuple(column for column in columns if NEGATIVE.fullmatch(column.strip().lower())):
            self.of["negative_text"] = negatives

    def values(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a record has of them. Blank negatives are left out, so that a row may have any number."""
        record: dict[str, Any] = {}
        for key, names in self.of.items():
            held = [row[name] for name in names if name in row]
            if key == "negative_text":
                record[key] = [text for value in held for text in captions(value)]
            elif held:
                record[key] = held[0]
        return record


def first_text(columns: Sequence[str]) -> str | None:
    """The column of the first text of pairs, where there is a second one.

    >>> first_text(["pair_ID", "sentence_A", "sentence_B"]), first_text(["premise"])
    ('sentence_A', None)
    """
    folded = {column.strip().lower(): column for column in reversed(columns)}
    if not any(name in folded for name in SECOND.split()):
        return None
    return next((folded[name] for name in FIRST.split() if name in folded), None)


def is_score(value: Any) -> bool:
    """Whether a cell holds a number with a fraction, or what is written as one ("5.000")."""
    if isinstance(value, float):
        return value == value
    return isinstance(value, str) and re.fullmatch(r"\s*-?\d+\.\d+\s*", value) is not None
