"""The answers that a question got: one, or one an annotator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nearfar.data.sources.skipped import BadRecord


def answer_counts(answers: Any) -> dict[str, float]:
    """How often each answer was given, in the order of first mention.

    Args:
        answers: what a record holds: one text, a list with one text an annotator, a list of mappings that have
            `answer` (VQA's files), or a mapping of text to count. Blank ones are left out.

    Raises `BadRecord` where a mapping holds something else than counts.

    >>> answer_counts("yes"), answer_counts(["two", "2", "two", ""]), answer_counts({"cat": 3, "dog": 0})
    ({'yes': 1.0}, {'two': 2.0, '2': 1.0}, {'cat': 3.0})
    >>> answer_counts([{"answer": "red", "answer_id": 1}]), answer_counts(None)
    ({'red': 1.0}, {})
    """
    counts: dict[str, float] = {}
    for text, count in _texts_and_counts(answers):
        if count is not None and not isinstance(count, int | float):
            raise BadRecord(f"answers are texts, or text to count: {text!r} has {type(count).__name__} {count!r}")
        if text is not None and count and (plain := str(text).strip()):
            counts[plain] = counts.get(plain, 0.0) + count
    return counts


def answer_shares(answers: Any) -> dict[str, float]:
    """Each answer's share among those given: its weight in ALBEF's loss (arXiv 2107.07651).

    >>> answer_shares(["two", "2", "two", "two"])
    {'two': 0.75, '2': 0.25}
    """
    counts = answer_counts(answers)
    total = sum(counts.values())
    return {text: count / total for text, count in counts.items()}


def vqa_targets(answers: Any) -> list[str]:
    """The answers that a model is to write, each by itself (CLOSE, arXiv 2211.09778): all that were given as often as
    the one given most often, and all that were given three times or more; in the order of first mention.

    >>> vqa_targets({"cat": 5, "dog": 3, "cow": 2}), vqa_targets({"cat": 2, "dog": 2, "cow": 1}), vqa_targets(None)
    (['cat', 'dog'], ['cat', 'dog'], [])
    """
    counts = answer_counts(answers)
    most = max(counts.values(), default=0.0)
    return [text for text, count in counts.items() if count == most or count >= 3]


def _texts_and_counts(answers: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(answers, Mapping):
        # A table's column of mappings has every key in every row, and no count where there was none.
        return answers.items()
    if isinstance(answers, str) or not isinstance(answers, Iterable):
        return [(answers, 1)]
    return [(each.get("answer") if isinstance(each, Mapping) else each, 1) for each in answers]
