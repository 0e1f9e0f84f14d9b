"""Sounds and texts in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.fields.field import Field
from nearfar.data.sound.log_mel import LogMel
from nearfar.data.sound.sound_field import SoundField, check_seconds, features_of, padded
from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.sound.sound_tower import SoundTower, masked_mean
from nearfar.models.towers.tokens import Tokens, check_tokenizer, tokenize, with_padding
from nearfar.models.towers.tower import TextTower


class SoundEncoder(nn.Module):
    """A tower of sounds, one of texts, and their projections into one space. `nearfar.models.sound_encoder` makes one.

    Args:
        sound: the tower of sounds.
        text: the tower of texts.
        tokenizer: of the texts.
        log_mel: what sounds become before the tower reads them.
        embed_dim: width of the shared space.
        max_length: tokens that a text is cut to.
        max_seconds: of a longer sound so much is read: its beginning, in training a part drawn anew each time.
        temperature: the divisor of similarities that it was trained with; None where there is none.
    """

    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("sound", "text", "log_mel")
    """What its saved config must have."""

    def __init__(
        self,
        sound: SoundTower,
        text: TextTower,
        *,
        tokenizer: Any,
        log_mel: LogMel,
        embed_dim: int = 128,
        max_length: int | None = None,
        max_seconds: float = 30.0,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        check_tokenizer(with_padding(tokenizer), text)
        self.sound, self.text = sound, text
        self.sound_projection = nn.Linear(sound.width, embed_dim)
        self.text_projection = nn.Linear(text.width, embed_dim)
        self.tokenizer, self.log_mel, self.embed_dim = tokenizer, log_mel, embed_dim
        self.max_length = min(max_length or text.longest, text.longest)
        self.max_seconds = check_seconds(max_seconds)
        self.temperature = temperature

    @property
    def device(self) -> torch.device:
        return self.sound_projection.weight.device

    def fields(self, training: bool) -> list[Field]:
        """What batches for it hold beside texts."""
        return [SoundField(self.log_mel, max_seconds=self.max_seconds, random=training)]

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

    def encode_audio(self, audio: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of `input_features` float `[B, F, mels]` and `attention_mask` `[B, F]`,
        in the weights' dtype: the mean over a sound's own states, projected; of unit length with `normalize=True`."""
        device = self.device
        states, mask = self.sound({name: value.to(device) for name, value in audio.items()})
        embedding = self.sound_projection(masked_mean(states, mask))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`."""
        device = self.device
        states = self.text({name: value.to(device) for name, value in tokens.items()})
        embedding = self.text_projection(states[:, 0])
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def forward(self, audio: Mapping[str, Tensor], tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Both embeddings, `[B, embed_dim]` each, of unit length."""
        return self.encode_audio(audio, normalize=True), self.encode_text(tokens, normalize=True)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {
            "sound": dict(self.sound.made_of),
            "text": {"spec": self.text.spec, "pooling": self.text.pooling},
            "log_mel": self.log_mel.settings(),
            "embed_dim": self.embed_dim,
            "max_length": self.max_length,
            "max_seconds": self.max_seconds,
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        from nearfar.models.towers.backbones import rebuild

        settings = dict(config)
        sound, text, log_mel = (settings.pop(name) for name in ("sound", "text", "log_mel"))
        tower = TextTower(rebuild(text["spec"]), **text)
        return cls(SoundTower(**sound), tower, tokenizer=tokenizer, log_mel=LogMel(**log_mel), **settings)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def sound_encoder(
    *,
    tokenizer: Any = None,
    text: Any = None,
    width: int = 128,
    layers: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    embed_dim: int = 128,
    mels: int = 40,
    rate: int = 16000,
    normalise: str = "loudest",
    max_length: int = 32,
    max_seconds: float = 10.0,
    temperature: float | None = None,
) -> SoundEncoder:
    """A small encoder of sounds and texts, to train from scratch.

    Args:
        tokenizer: of the texts; by default the tower's own. A recipe learns one from the captions.
        text: a tower of texts, as `nearfar.models.create` takes it, such as "minilm"; by default two layers of width
            128, made anew.
        width, layers, heads, dropout: of the transformer over the sound.
        embed_dim: width of the shared space.
        mels, rate, normalise: of the features; see `nearfar.data.LogMel`.
        max_length: tokens that a text may have.
        max_seconds: how much of a sound is read.
        temperature: kept as the model's `temperature`, for losses to start from.

    Raises:
        UserError: a setting out of its range, no such tower, or no tokenizer.

    >>> from nearfar.data import train_tokenizer
    >>> model = sound_encoder(tokenizer=train_tokenizer(["a dog barks"], 300)).eval()
    >>> model.encode_audio(model.preprocess_audio([(torch.randn(8000).numpy(), 16000)])).shape
    torch.Size([1, 128])
    """
    from nearfar.models.presets import PRESETS
    from nearfar.models.towers import backbones
    from nearfar.models.towers.tokens import fitted

    tower = PRESETS["tiny"]["text"] if text is None else text
    if isinstance(tower, Mapping) and tokenizer is not None:
        tower = fitted(tower, with_padding(tokenizer))
    with backbones.quiet():
        made, own = backbones.text_tower(tower, pooling=None, pretrained=True)
    tokenizer = own if tokenizer is None else tokenizer
    if tokenizer is None:
        raise UserError("a tower of texts made anew has no tokenizer: pass tokenizer=train_tokenizer(texts)")
    return SoundEncoder(
        SoundTower(mels, width=width, layers=layers, heads=heads, dropout=dropout),
        made,
        tokenizer=tokenizer,
        log_mel=LogMel(rate=rate, mels=mels, normalise=normalise),  # type: ignore[arg-type]
        embed_dim=embed_dim,
        max_length=max_length,
        max_seconds=max_seconds,
        temperature=temperature,
    )
