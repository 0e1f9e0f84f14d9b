"""Spoken commands whose intents come in tasks; each arm learns them one task after the other. Tested on a voice that
training never hears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

DATA: dict[str, Any] = {
    "source": "world/commands",
    "each": {"train": 40, "val": 15, "test": 15},
    "voices": {"train": ["rms", "slt"], "val": ["kal16"], "test": ["awb"]},
    "tasks": 3,
}
MODEL: dict[str, Any] = {"width": 64, "layers": 2, "decoder_layers": 2, "heads": 4, "embed_dim": 64}
LOG_MEL: dict[str, Any] = {"mels": 40, "window": 640, "hop": 320, "normalise": "bands"}


@cache
def sounds(split: str) -> tuple[list[Tensor], list[str], Tensor]:
    """Log-mel features `[frames, mels]` of each sound of a split, the words, and the intents `[N]`."""
    from nearfar.data import LogMel, open_source
    from nearfar.data.sound.sound_field import features_of

    source = open_source(DATA["source"], split=split, each=DATA["each"][split])
    log_mel = LogMel(**LOG_MEL)
    features = [features_of(record["audio"], log_mel) for record in source]
    return features, source.column("text"), torch.tensor(source.column("label"))


@cache
def tokenizer() -> Any:
    """Of the words of all tasks, so that those of a later one have their tokens from the start."""
    from nearfar.data import train_tokenizer
    from nearfar.data.sound.command_grammar import sentences

    return train_tokenizer([text for texts in sentences().values() for text in texts])


def new_model(seed: int) -> Any:
    """A model before any task."""
    from nearfar.data.sound.command_grammar import sentences
    from nearfar.models import sound_transcriber

    torch.manual_seed(seed)
    return sound_transcriber(tokenizer=tokenizer(), classes=len(sentences()), **MODEL, **LOG_MEL)


def batch_of(model: Any, split: str, rows: list[int]) -> dict[str, Any]:
    """A batch of these sounds."""
    from nearfar.data.sound.sound_field import padded

    features, texts, label = sounds(split)
    words = model.tokenize([texts[row] for row in rows])
    return {"audio": padded([features[row] for row in rows]), "text": words, "label": label[rows]}


class TaskBatches:
    """Batches of a task's samples with a quota of rehearsed ones, drawn anew each epoch."""

    def __init__(self, model: Any, new: list[int], kept: list[int], *, batch_size: int, quota: int, seed: int) -> None:
        from nearfar.data import RehearsalBatchSampler

        self.model, self.kept = model, set(kept)
        self.numbers = RehearsalBatchSampler(new, kept, batch_size=batch_size, quota=quota, seed=seed)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in self.numbers:
            batch = batch_of(self.model, "train", rows)
            yield batch | {"is_memory": torch.tensor([int(row in self.kept) for row in rows])}


def learned(
    model: Any, method: Callable[[Any], Any], new: list[int], kept: list[int], *, seed: int, quota: int, **training: Any
) -> Any:
    """A copy of a model after one more task."""
    import nearfar

    training = dict(training)
    batches = TaskBatches(
        model := deepcopy(model), new, kept, batch_size=training.pop("batch_size"), quota=quota, seed=seed
    )
    nearfar.train(method(model), batches, seed=seed, progress=False, report=False, **training)
    return model.eval()


@torch.no_grad()
def heard(model: Any, split: str, classes: list[int]) -> tuple[dict[int, float], float, int]:
    """Of the sounds of some intents: the accuracy of each intent, the words that were wrong, and all words."""
    from nearfar.evaluation.language.word_errors import word_edits

    _, texts, label = sounds(split)
    rows = [row for row in range(len(label)) if int(label[row]) in set(classes)]
    output = [each for part in _parts(rows, 64) for each in model.transcribe(batch_of(model, split, part)["audio"])]
    right = {each: [] for each in classes}  # type: dict[int, list[bool]]
    wrong = said = 0
    for row, transcript in zip(rows, output, strict=True):
        right[int(label[row])].append(transcript.label == int(label[row]))
        wrong += word_edits(texts[row].split(), transcript.text.split())
        said += len(texts[row].split())
    return {each: sum(hits) / len(hits) for each, hits in right.items()}, wrong, said


def _parts(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
