"""Sounds in a batch: log-mel features, padded to the longest, with a mask that says which frames are sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nearfar.data.batches.batch import BatchKey
from nearfar.data.fields.field import BatchChance, Field, RecordChance
from nearfar.data.sound.log_mel import LogMel
from nearfar.data.sound.resampling import resample
from nearfar.data.sound.sound_files import BadSound, describe_sound, read_sound, sound_seconds
from nearfar.data.sources.source import Record
from nearfar.errors import UserError


class SoundField(Field):
    """`audio`, a dict of `input_features` float32 `[B, frames, mels]` and `attention_mask` int64 `[B, frames]`, which
    is 0 where a shorter sound was padded (its features there are 0, too).

    Args:
        log_mel: how a sound becomes features.
        max_seconds: of a longer sound so much is read.
        random: which part of a longer sound, drawn anew each epoch, as in training; else its beginning.

    Raises:
        UserError: `max_seconds` is not above 0.
    """

    columns = ("audio",)

    def __init__(self, log_mel: LogMel | None = None, *, max_seconds: float = 30.0, random: bool = False) -> None:
        self.log_mel = LogMel() if log_mel is None else log_mel
        self.max_seconds, self.random = check_seconds(max_seconds), random
        self.fixed = not random
        self.keys = {"audio": BatchKey()}

    def prepare(self, record: Record, chance: RecordChance) -> Tensor:
        """The features, float32 `[frames, mels]`.

        Raises:
            BadSound: it cannot be read, or it is silent from end to end.
        """
        start = 0.0
        if self.random and record.get("audio") is not None:
            spare = max(0.0, sound_seconds(record["audio"]) - self.max_seconds)
            start = spare * (chance.number("sound") / 2**63)
        return features_of(record.get("audio"), self.log_mel, max_seconds=self.max_seconds, start=start)

    def collate(self, parts: list[Tensor], chance: BatchChance) -> dict[str, Any]:
        batch = padded(parts)
        if chance.device is not None:
            batch = {name: value.to(chance.device, non_blocking=True) for name, value in batch.items()}
        return {"audio": batch}


def features_of(sound: Any, log_mel: LogMel, *, max_seconds: float = 30.0, start: float = 0.0) -> Tensor:
    """Features of one sound, float32 `[frames, mels]`.

    Args:
        sound: what `nearfar.data.read_sound` takes.
        log_mel: the features.
        max_seconds, start: how much of it is read, and from which second on.

    Raises:
        BadSound: it cannot be read, or it is silent from end to end.
    """
    waveform = read_sound(sound, start=start, seconds=max_seconds)
    if waveform.is_silent:  # at its own rate: another one rings where a constant begins and ends
        raise BadSound(f"{describe_sound(sound)}: it is silent from end to end: record it anew, or leave it out")
    return log_mel(resample(waveform.samples, waveform.rate, log_mel.rate))


def padded(features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Features of several sounds as a batch.

    Args:
        features: of each sound, float `[frames, mels]`.

    Returns:
        `input_features` `[B, frames, mels]` of the same dtype, 0 where padded, and `attention_mask` int64
        `[B, frames]`.

    >>> padded([torch.ones(2, 1), torch.ones(1, 1)])["attention_mask"].tolist()
    [[1, 1], [1, 0]]
    """
    masks = [torch.ones(len(each), dtype=torch.long) for each in features]
    return {
        "input_features": pad_sequence(list(features), batch_first=True),
        "attention_mask": pad_sequence(masks, batch_first=True),
    }


def check_seconds(seconds: float) -> float:
    """Seconds of a sound that are read.

    Raises:
        UserError: not above 0.
    """
    if not seconds > 0:
        raise UserError(f"max_seconds={seconds}: must be above 0")
    return seconds
