"""Classes in tasks: which of them come when (class-incremental learning)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nearfar.errors import UserError


def class_tasks(classes: int, tasks: int | Sequence[int], *, seed: int | None = None) -> list[list[int]]:
    """The classes of each task, every class in one of them.

    Args:
        classes: how many there are, numbered from 0.
        tasks: how many tasks, as even as they can be with the larger first; or how many classes each has.
        seed: of the order of the classes; None takes them by their numbers.

    Raises:
        UserError: fewer classes than tasks, or numbers that do not add up to them.

    >>> class_tasks(7, 3), class_tasks(7, [4, 3])
    ([[0, 1, 2], [3, 4], [5, 6]], [[0, 1, 2, 3], [4, 5, 6]])
    """
    if isinstance(tasks, int):
        if not 1 <= tasks <= classes:
            raise UserError(f"{tasks} tasks of {classes} classes: each task needs a class of its own")
        sizes = [classes // tasks + (task < classes % tasks) for task in range(tasks)]
    else:
        sizes = list(tasks)
        if min(sizes, default=0) < 1 or sum(sizes) != classes:
            raise UserError(f"tasks of {sizes} classes: they must be 1 or more each, and {classes} together")
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    order = list(range(classes)) if generator is None else torch.randperm(classes, generator=generator).tolist()
    return [order[sum(sizes[:task]) : sum(sizes[: task + 1])] for task in range(len(sizes))]
