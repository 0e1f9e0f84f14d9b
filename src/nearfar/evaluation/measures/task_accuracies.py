"""What is kept of earlier tasks: accuracies after each task, their mean, the last, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from nearfar.errors import UserError


def average_accuracy(after: Sequence[float]) -> float:
    """The mean, over tasks, of the accuracy on all classes so far, taken after each task. The first task counts, too,
    in which methods that differ in rehearsal alone are equal.

    >>> average_accuracy([1.0, 0.5, 0.3])
    0.6
    """
    _check(after)
    return sum(after) / len(after)


def last_accuracy(after: Sequence[float]) -> float:
    """The accuracy on all classes after the last task.

    >>> last_accuracy([1.0, 0.5, 0.3])
    0.3
    """
    _check(after)
    return after[-1]


def forgetting(by_task: Sequence[Sequence[float]]) -> float:
    """The mean, over all tasks but the last, of how far the accuracy on a task's own classes fell from its best before
    the last task to the end (arXiv 1801.10112). Below 0 where later tasks helped; 0 of one task.

    Args:
        by_task: row i are the accuracies, after task i, on the classes of tasks 0 to i.

    Raises:
        UserError: row i does not hold i + 1 accuracies.

    >>> forgetting([[0.9], [0.6, 0.8], [0.5, 0.4, 0.7]])
    0.4
    """
    if any(len(row) != place + 1 for place, row in enumerate(by_task)) or not by_task:
        raise UserError("after task i there are the accuracies on the classes of tasks 0 to i: rows of 1, 2, 3 ...")
    falls = [
        max(by_task[row][task] for row in range(task, len(by_task) - 1)) - by_task[-1][task]
        for task in range(len(by_task) - 1)
    ]
    return round(sum(falls) / len(falls), 12) if falls else 0.0


def _check(after: Sequence[float]) -> None:
    if not len(after):
        raise UserError("there is no accuracy: give one after each task")
