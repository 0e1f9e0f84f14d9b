"""What models of sounds have in common: how sounds and texts become their batches, and how they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.fields.field import Field
from nearfar.data.sound.log_mel import LogMel
from nearfar.data.sound.sound_field import SoundField, check_seconds, features_of, padded
from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.towers.tokens import Tokens, tokenize


class SoundReading(nn.Module):
    """A model that reads log-mel features of sounds, and tokens of texts.

    Args:
        log_mel: what sounds become before the model reads them.
        tokenizer: of the texts.
        max_length: tokens that a text is cut to.
        max_seconds: of a longer sound so much is read: its beginning, in training a part drawn anew each time.
    """

    push_to_hub = push_to_hub

    def __init__(self, *, log_mel: LogMel, tokenizer: Any, max_length: int, max_seconds: float) -> None:
        super().__init__()
        self.log_mel, self.tokenizer, self.max_length = log_mel, tokenizer, max_length
        self.max_seconds = check_seconds(max_seconds)

    def fields(self, training: bool) -> list[Field]:
        """What batches for it hold beside texts."""
        return [SoundField(self.log_mel, max_seconds=self.max_seconds, random=training and self.cuts)]

    @property
    def cuts(self) -> bool:
        """Whether a part of a longer sound serves as well as the whole."""
        return True

    def read_audio(self, sound: Any) -> Tensor:
        """Features `[frames, mels]` float32 of a sound, as `nearfar.data.read_sound` takes it. What runs an encoder
        calls it in the threads that read.

        Raises:
            nearfar.data.BadSound: the sound cannot be read, or is silent.
        """
        return features_of(sound, self.log_mel, max_seconds=self.max_seconds)

    def preprocess_audio(self, sounds: Sequence[Any]) -> Tokens:
        """`input_features` `[B, frames, mels]` float32 and `attention_mask` `[B, frames]` int64 of sounds, or of what
        `read_audio` made of them."""
        read = [each if isinstance(each, Tensor) else self.read_audio(each) for each in sounds]
        return Tokens(padded(read) if read else padded([torch.zeros(1, self.log_mel.mels)]))

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded to the longest text."""
        return tokenize(self.tokenizer, texts, self.max_length)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())
