"""Accuracies after tasks, and the word error rate of a set, by numbers worked out."""

import math

import pytest

from nearfar.errors import UserError
from nearfar.evaluation.language.word_errors import word_edits, word_error_rate
from nearfar.evaluation.measures.task_accuracies import average_accuracy, forgetting, last_accuracy


def test_accuracies_after_each_task():
    assert average_accuracy([0.9, 0.6, 0.3]) == pytest.approx(0.6)
    assert last_accuracy([0.9, 0.6, 0.3]) == 0.3
    for measure in (average_accuracy, last_accuracy):
        with pytest.raises(UserError, match="give one after each task"):
            measure([])


def test_what_was_forgotten():
    assert forgetting([[0.9], [0.6, 0.8], [0.5, 0.4, 0.7]]) == pytest.approx((0.4 + 0.4) / 2)
    assert forgetting([[0.5], [0.7, 0.8], [0.6, 0.8, 1.0]]) == pytest.approx(0.05)  # its best came later
    assert forgetting([[0.5], [0.7, 0.8]]) == pytest.approx(-0.2)  # the second task helped
    assert forgetting([[0.5]]) == 0
    for rows in ([], [[0.5, 0.5]], [[0.5], [0.5]]):
        with pytest.raises(UserError, match="rows of 1, 2, 3"):
            forgetting(rows)


@pytest.mark.parametrize(
    ("said", "heard", "rate"),
    [
        (["a b c d", "e"], ["a b c x", "f"], 0.4),  # the mean of the sentences' rates is 0.625
        (["fries"], ["no fry"], 2.0),
        (["", "a b"], ["um", "a b"], 0.5),
        (["", ""], ["", " "], 0.0),
        ([""], ["um"], math.inf),
        (["turn on the light"], ["turn on the light"], 0.0),
        (["turn on the light"], ["on the light please"], 0.5),
        ([], [], 0.0),
    ],
)
def test_word_error_rate_of_a_set(said, heard, rate):
    assert word_error_rate(said, heard) == pytest.approx(rate)


def test_edits_are_a_distance():
    a, b, c = ["a", "b", "c", "d", "e"], ["a", "x", "c", "e"], ["b", "c", "d"]
    assert word_edits(a, b) == word_edits(b, a) == 2
    assert word_edits(a, c) <= word_edits(a, b) + word_edits(b, c)
    assert word_edits([], a) == 5
    with pytest.raises(UserError, match="1 references and 2 outputs"):
        word_error_rate(["a"], ["a", "b"])
