"""The data of a recipe of which one task is trained on (`data.task`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nearfar.data.sources.source import Source
from nearfar.errors import UserError

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_data import OpenedData
    from nearfar.training.recipe.recipe_file import Recipe


def of_task(recipe: Recipe, source: Any, validated_on: Any, opened: OpenedData) -> tuple[Any, Any, OpenedData]:
    """The training data of the task, and what is validated and measured on, of all classes so far; all as they are
    where the recipe names no task.

    Raises:
        UserError: data that cannot be read by number, or have no labels.
    """
    if recipe.data.task is None:
        return source, validated_on, opened
    from nearfar.data.rehearsal.task_source import Task, known_so_far, task_source

    task = Task(**recipe.data.task)

    def known(data: Any) -> Any:
        return None if data is None else known_so_far(_countable(data), task)

    whole, validated_on = task_source(_countable(source), task), known(validated_on)
    return whole, validated_on, replace(opened, validated_on=validated_on, held_out=known(opened.held_out))


def order_of(recipe: Recipe) -> Any:
    """The order of the task's batches; None where the recipe names no task."""
    from nearfar.data.rehearsal.rehearsal_order import RehearsalOrder

    return None if recipe.data.task is None else RehearsalOrder(recipe.data.task.get("quota", 0))


def _countable(data: Any) -> Source:
    if not isinstance(data, Source):
        raise UserError(f"recipe, data.task: {data.name} is a stream, and tasks are of data that are read by number.")
    return data
