"""The data of a stage that trains on one task of several (a recipe's `data.task`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nearfar.data.sources.source import Source
from nearfar.errors import UserError


def of_task(settings: Mapping[str, Any], source: Any, *measured: Any) -> tuple[Any, ...]:
    """The training data of a task, and what is validated and measured on (None where there is none), of all classes so
    far.

    Raises:
        UserError: data that cannot be read by number, or have no labels.
    """
    from nearfar.data.rehearsal.task_source import Task, known_so_far, task_source

    task = Task(**settings)
    known = (None if data is None else known_so_far(_countable(data), task) for data in measured)
    return (task_source(_countable(source), task), *known)


def order_of(settings: Mapping[str, Any] | None) -> Any:
    """The order of the task's batches; None where there are no settings of a task."""
    from nearfar.data.rehearsal.rehearsal_order import RehearsalOrder

    return None if settings is None else RehearsalOrder(settings.get("quota", 0))


def _countable(data: Any) -> Source:
    if not isinstance(data, Source):
        raise UserError(f"recipe, data.task: {data.name} is a stream, and tasks are of data that are read by number.")
    return data
