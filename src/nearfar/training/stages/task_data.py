"""The data of a stage that trains on one task of several (a recipe's `data.task`), and what its memory keeps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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


def goes_on_with(settings: dict[str, Any] | None, folder: Path) -> dict[str, Any] | None:
    """The settings of a task with the run folder of the task before, where it goes on with its memory."""
    if settings is None or settings.get("selection") != "herding" or settings.get("kept") is not None:
        return settings
    return {**settings, "kept": str(folder)}


def keep_memory(source: Any, model: Any, folder: Path) -> None:
    """After a task that is not the last, and with herding: what the memory keeps of it, chosen in the space of the
    `model` that it ends with, is written into the run `folder`. Records that cannot be read are not kept."""
    from nearfar.data.rehearsal.memory_file import write_memory
    from nearfar.data.rehearsal.task_source import TaskSource
    from nearfar.embedding import embed
    from nearfar.embedding.embed_source import shared_sides

    if not isinstance(source, TaskSource) or source.task is None or source.memory is None:
        return
    task, memory = source.task, deepcopy(source.memory)
    if task.selection != "herding" or task.number == task.of:
        return
    encoder = SoundStates(model) if hasattr(model, "transcribe") else model
    new = source.new_alone()
    sides = shared_sides(encoder, new)
    side = next((each for each in sides if each != "text"), "text")
    embedded = embed(encoder, new, [side], captions=1)
    own = torch.tensor(source.rows)[embedded.row]
    vectors = embedded.sides[side]
    memory.update(own[vectors.owner], torch.tensor(source.label)[own[vectors.owner]], vectors.vectors)
    write_memory(folder, memory.kept, {"task": task.number} | task.made_by(source.source))


class SoundStates(nn.Module):
    """A model that writes what was said, as an encoder of sounds: the mean of a sound's states, which COCONUT's losses
    and its memory compare, in place of their projection, which only the contrast with texts trains."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.read_audio, self.preprocess_audio = model.read_audio, model.preprocess_audio

    def encode_audio(self, audio: Mapping[str, Tensor]) -> Tensor:
        """`[B, W]`, in the weights' dtype, of a dict of `input_features` `[B, F, mels]` and `attention_mask`
        `[B, F]`."""
        from nearfar.models.sound.sound_tower import masked_mean

        return masked_mean(*self.model.encode(audio))


def _countable(data: Any) -> Source:
    if not isinstance(data, Source):
        raise UserError(f"recipe, data.task: {data.name} is a stream, and tasks are of data that are read by number.")
    return data
