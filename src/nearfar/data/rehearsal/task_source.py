"""One task of several: the records of its classes, and those of earlier classes that are rehearsed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from nearfar.data.fields.number_field import NumberField
from nearfar.data.rehearsal.class_tasks import class_tasks
from nearfar.data.rehearsal.memory_file import read_memory
from nearfar.data.rehearsal.rehearsal_memory import RehearsalMemory, Selection
from nearfar.data.sources.source import Record, Source
from nearfar.errors import UserError, at_least


@dataclass(frozen=True)
class Task:
    """Which task it is, and what is rehearsed in it.

    Args:
        number: from 1 on.
        of: how many tasks there are.
        order: seed of the order of the classes; None takes them by their numbers.
        memory: samples of earlier classes that are kept, in all; 0 for none.
        quota: rehearsed samples of each batch; those of a small memory come again.
        seed: of the choice of what is kept.
        selection: what is kept of a task: samples drawn at "random", the same at every task without anything handed on;
            or by "herding" those nearest to the means of their classes, in the space of the model as it was at the end
            of that task.
        kept: with herding, the run folder of the task before, whose memory this one goes on with; stages of a recipe
            name it by themselves.

    Raises:
        UserError: a number out of its range, or a selection that there is not.
    """

    number: int
    of: int
    order: int | None = None
    memory: int = 0
    quota: int = 0
    seed: int = 0
    selection: Selection = "random"
    kept: str | None = None

    def __post_init__(self) -> None:
        at_least(1, number=self.number, of=self.of)
        at_least(0, memory=self.memory, quota=self.quota)
        if self.number > self.of:
            raise UserError(f"task {self.number} of {self.of}: tasks are numbered from 1 to {self.of}")
        if self.selection not in get_args(Selection):
            raise UserError(f"selection={self.selection!r}: choose one of {', '.join(get_args(Selection))}")
        if bool(self.memory) != bool(self.quota):
            raise UserError(
                f"memory={self.memory} and quota={self.quota}: what is kept is rehearsed by a quota of each batch, so "
                "set both, or neither"
            )

    def classes(self, source: Source) -> list[list[int]]:
        """The classes of each task.

        Raises:
            UserError: the source names no classes, or fewer than there are tasks.
        """
        if not source.classes:
            raise UserError(f"{source.name} names no classes, by which to part it into tasks: it needs labels")
        return class_tasks(len(source.classes), self.of, seed=self.order)

    def made_by(self, source: Source) -> dict[str, Any]:
        """What two tasks of one sequence have in common, so that one may go on with the memory of the other."""
        own = {"of": self.of, "order": self.order, "memory": self.memory}
        return own | {"records": len(source), "data": source.name}

    def remembered(self, source: Source) -> dict[int, list[int]]:
        """Of earlier classes, with herding, the numbers of the records that the memory of the task before holds.

        Raises:
            UserError: no folder is named, it holds no memory, or one of other tasks or data.
        """
        if self.number == 1:
            return {}
        if self.kept is None:
            raise UserError(
                f"task {self.number} goes on with the memory of the task before: name its run folder with "
                "data.task.kept, or make them stages of one recipe"
            )
        return read_memory(Path(self.kept), {"task": self.number - 1} | self.made_by(source))


def task_source(source: Source, task: Task) -> TaskSource:
    """The records of a task's classes, and of those that a memory kept of the tasks before. Records have `is_memory`, 1
    where they are rehearsed, and `task`.

    Raises:
        UserError: no classes, records without a label, a memory of fewer places than classes, or with herding no memory
            of the task before.
    """
    tasks, label = task.classes(source), _labels(source)
    rows = [torch.tensor([i for i, each in enumerate(label) if each in own], dtype=torch.long) for own in tasks]
    memory = None
    if task.memory:
        memory = RehearsalMemory(task.memory, selection=task.selection, seed=task.seed)
        if task.selection == "herding":
            memory.kept = task.remembered(source)
        else:
            for before in range(task.number - 1):
                memory.update(rows[before], torch.tensor(label)[rows[before]])
    new = rows[task.number - 1].tolist()
    if not new:
        raise UserError(f"{source.name} holds no sample of the classes of task {task.number}")
    kept = memory.numbers() if memory else []
    made = TaskSource(source, new, kept, tasks, label, name=f"{source.name}, task {task.number}")
    made.task, made.memory = task, memory
    return made


def known_so_far(source: Source, task: Task) -> TaskSource:
    """The records of all classes up to a task's: what is measured after it. None is rehearsed.

    Raises:
        UserError: no classes, or records without a label.
    """
    tasks, label = task.classes(source), _labels(source)
    known = {each for own in tasks[: task.number] for each in own}
    rows = [i for i, own in enumerate(label) if own in known]
    return TaskSource(source, rows, [], tasks, label, name=f"{source.name}, tasks 1 to {task.number}")


class TaskSource(Source):
    """What `task_source` and `known_so_far` return: first the new records, then those that are rehearsed."""

    task: Task | None = None
    memory: RehearsalMemory | None = None
    """Of a task that rehearses: which it is, and what its memory holds."""

    def __init__(
        self, source: Source, new: list[int], kept: list[int], tasks: list[list[int]], label: list[int], *, name: str
    ) -> None:
        self.source, self.new, self.kept, self.name = source, len(new), len(kept), name
        self.rows, self.tasks, self.label = [*new, *kept], tasks, label
        self.classes, self.domains = source.classes, source.domains
        self.columns = (*source.columns, "is_memory", "task")
        self.task_of = {each: number for number, own in enumerate(tasks, start=1) for each in own}
        self.added = getattr(source, "added", {})
        self.added_fields = [NumberField("is_memory", 0)]

    def __len__(self) -> int:
        return len(self.rows)

    def new_alone(self) -> Source:
        """Its new records, without those that are rehearsed."""
        return TaskSource(self.source, self.rows[: self.new], [], self.tasks, self.label, name=self.name)

    def record(self, index: int) -> Record:
        row = self.rows[index]
        made = {"index": row, **self.source[row]}
        return made | {"is_memory": int(index >= self.new), "task": self.task_of[self.label[row]]}


def _labels(source: Source) -> list[int]:
    labels = source.column("label") if "label" in source.columns else []
    for place, label in enumerate(labels):
        if not isinstance(label, int) or label < 0:
            raise UserError(f"{source.name}, record {place} has no label, by which it belongs to a task")
    return labels
