"""Sounds and texts in one space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.sound.log_mel import LogMel
from nearfar.errors import UserError
from nearfar.models.sound.sound_reading import SoundReading
from nearfar.models.sound.sound_tower import SoundTower, masked_mean
from nearfar.models.towers.tokens import check_tokenizer, with_padding
from nearfar.models.towers.tower import TextTower


class SoundEncoder(SoundReading):
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
        check_tokenizer(with_padding(tokenizer), text)
        longest = min(max_length or text.longest, text.longest)
        super().__init__(log_mel=log_mel, tokenizer=tokenizer, max_length=longest, max_seconds=max_seconds)
        self.sound, self.text = sound, text
        self.sound_projection = nn.Linear(sound.width, embed_dim)
        self.text_projection = nn.Linear(text.width, embed_dim)
        self.embed_dim, self.temperature = embed_dim, temperature

    @property
    def device(self) -> torch.device:
        return self.sound_projection.weight.device

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
