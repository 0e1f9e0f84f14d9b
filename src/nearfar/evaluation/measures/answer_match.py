"""When an answer counts as right, and a baseline that answers from the question alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0", **{word: str(i) for i, word in enumerate(_WORDS)}}
_ARTICLES = ("a", "an", "the")


def plain_answer(answer: str) -> str:
    """An answer as it is compared: lower case, numbers up to ten as digits, without articles and punctuation (but for
    points and colons between digits), much as VQA's own evaluation has it.

    >>> plain_answer("The Red-car."), plain_answer("two"), plain_answer("2.5"), plain_answer("don't know")
    ('red car', '2', '2.5', 'dont know')
    """
    text = re.sub(r"(?<!\d)[.:,]|[.:,](?!\d)", " ", answer.lower().replace("'", "").replace("\u2019", ""))
    words = re.sub(r"[^\w\s.:,]|_", " ", text).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def plain_counts(counts: Mapping[str, float]) -> dict[str, float]:
    """Answers and how often each was given, those that are alike put together."""
    merged: dict[str, float] = defaultdict(float)
    for answer, count in counts.items():
        merged[plain_answer(answer)] += count
    return dict(merged)


def exact(answer: str, counts: Mapping[str, float]) -> float:
    """1 for the answer given most often (for any of them, where several were), else 0."""
    return float(answer in counts and counts[answer] == max(counts.values()))


def soft(answer: str, counts: Mapping[str, float]) -> float:
    """VQA's soft accuracy (arXiv 1505.00468): min(count / 3, 1), as right as the share of three annotators who said
    so.

    >>> [round(soft(answer, {"red": 8, "pink": 1, "rose": 1}), 2) for answer in ("red", "pink", "blue")]
    [1.0, 0.33, 0.0]
    """
    return min(counts.get(answer, 0.0) / 3, 1.0)


def leave_one_out(answer: str, counts: Mapping[str, float]) -> float:
    """The mean of `soft` over the sets that leave one annotator out: what VQA v2's server reports, where humans are
    scored against each other.

    >>> [round(leave_one_out("red", {"red": n, "blue": 10 - n}), 2) for n in (1, 2, 3, 4)]
    [0.3, 0.6, 0.9, 1.0]
    """
    count, total = counts.get(answer, 0.0), sum(counts.values())
    if not count:
        return 0.0
    with_it = count / total * min((count - 1) / 3, 1.0)
    return with_it + (1 - count / total) * min(count / 3, 1.0)


class QuestionPrior:
    """Answers questions without the picture: with the commonest answer to the longest beginning of the question that
    occurred in training, the whole question first, no word of it last.

    >>> pairs = [("what colour is it", {"red": 1}), ("is it", {"yes": 2}), ("is it", {"no": 1, "yes": 1})]
    >>> prior = QuestionPrior().fit(pairs)
    >>> prior("is it"), prior("is he"), prior("what colour is the cat")
    ('yes', 'yes', 'red')
    """

    def __init__(self) -> None:
        self._answers_after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)

    def fit(self, pairs: Iterable[tuple[str, Mapping[str, float]]]) -> QuestionPrior:
        """Count the answers of (question, counts of its answers)."""
        for question, counts in pairs:
            words, total = _words(question), sum(counts.values())
            for n in range(len(words) + 1):
                for answer, count in counts.items():
                    self._answers_after[words[:n]][answer] += count / total  # type: ignore[assignment]
        return self

    def __call__(self, question: str) -> str:
        words = _words(question)
        known = next(n for n in range(len(words), -1, -1) if words[:n] in self._answers_after)
        return _commonest(self._answers_after[words[:known]])

    @property
    def commonest(self) -> str:
        """The commonest answer of all."""
        return _commonest(self._answers_after[()])


def _words(question: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", question.lower()))


def _commonest(counts: Counter[str]) -> str:
    """By name where several are."""
    return min(counts, key=lambda answer: (-round(counts[answer], 9), answer))
