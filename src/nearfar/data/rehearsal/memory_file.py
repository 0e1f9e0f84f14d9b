"""What a memory holds after a task, on the disk: the task after goes on with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError

FILE = "memory.json"
"""Its name in a run folder."""


def write_memory(folder: Path, kept: Mapping[int, list[int]], made_by: Mapping[str, Any]) -> None:
    """Write what is kept, numbers of records by class, and what must agree where it is read."""
    files.write(
        folder / FILE, json.dumps({**made_by, "kept": {str(label): numbers for label, numbers in kept.items()}})
    )


def read_memory(folder: Path, made_by: Mapping[str, Any]) -> dict[int, list[int]]:
    """What was kept, numbers of records by class.

    Raises:
        UserError: no such file, or one that was made by something else.
    """
    path = folder / FILE
    try:
        held: dict[str, Any] = json.loads(path.read_text("utf-8"))
        kept = {int(label): [int(number) for number in numbers] for label, numbers in held["kept"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"data.task: {path} holds no memory: train the task before with selection: herding, and a memory as here"
        ) from error
    for name, value in made_by.items():
        if held.get(name) != value:
            raise UserError(
                f"data.task: {path} is of {name} {held.get(name)!r}, and here it must be {value!r}: train all tasks "
                "with the same settings, on the same data"
            )
    return kept
