"""Figures of answers to yes-no questions: POPE's (arXiv 2305.10355) and MME's (arXiv 2306.13394)."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

from nearfar.errors import UserError


def says_yes(answer: str) -> bool:
    """POPE's reading of an answer: "no" where one of its words is "no" or "not" or ends in "n't", else "yes". It is one
    answer, however many lines it has.

    >>> [says_yes(text) for text in ("Yes, there is.", "There isn't\\none", "I do not know", "nothing", "")]
    [True, False, False, True, True]
    """
    words = re.findall(r"[\w'\u2019]+", answer.lower())
    return not any(word in ("no", "not") or word.endswith(("n't", "n\u2019t")) for word in words)


def pope_scores(said: Sequence[bool], truth: Sequence[bool]) -> dict[str, float]:
    """POPE's figures, where "yes" is what is looked for.

    Args:
        said: whether each answer is "yes".
        truth: whether it should be.

    Returns:
        `accuracy`; `precision`, NaN where no answer is "yes"; `recall`; `f1`, 0 where no "yes" is right; `yes_ratio`,
        the share of answers that are "yes".

    Raises:
        UserError: no answers, or another number of truths.

    >>> pope_scores([True, True, False, False], [True, False, True, False])
    {'accuracy': 0.5, 'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'yes_ratio': 0.5}
    >>> pope_scores([False, False], [True, False])["f1"]
    0.0
    """
    if not len(said) or len(said) != len(truth):
        raise UserError(f"there are {len(said)} answers for {len(truth)} truths: give one for each question")
    both = sum(one and other for one, other in zip(said, truth, strict=True))
    yes, true = sum(map(bool, said)), sum(map(bool, truth))
    right = sum(bool(one) == bool(other) for one, other in zip(said, truth, strict=True))
    return {
        "accuracy": right / len(said),
        "precision": both / yes if yes else math.nan,
        "recall": both / true if true else math.nan,
        "f1": 2 * both / (yes + true) if yes + true else math.nan,
        "yes_ratio": yes / len(said),
    }


def mme_score(right: Sequence[bool], picture: Sequence[Hashable]) -> float:
    """MME's score of one task, 0 to 200: the share of right answers and the share of pictures of which all answers are
    right, in percent, together.

    Args:
        right: whether each answer is right.
        picture: what names each question's picture; MME has two questions of each.

    Raises:
        UserError: no answers, or another number of pictures.

    >>> mme_score([True, True, True, False], ["a", "a", "b", "b"])
    125.0
    """
    if not len(right) or len(right) != len(picture):
        raise UserError(f"there are {len(right)} answers, {len(picture)} pictures: name the picture of each question")
    of_picture: dict[Hashable, bool] = defaultdict(lambda: True)
    for each, own in zip(right, picture, strict=True):
        of_picture[own] &= bool(each)
    return 100 * sum(map(bool, right)) / len(right) + 100 * sum(of_picture.values()) / len(of_picture)
