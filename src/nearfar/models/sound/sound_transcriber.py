"""Sounds to words and a class: a small encoder and decoder, as models of spoken commands are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.data.sound.log_mel import LogMel
from nearfar.errors import UserError, at_least
from nearfar.models.sound.sound_reading import SoundReading
from nearfar.models.sound.sound_tower import SoundTower, masked_mean, positions
from nearfar.models.towers.tokens import check_words, with_padding
from nearfar.modes import evaluating


class Transcript(NamedTuple):
    """What was heard: the number of its class, and its words."""

    label: int
    text: str


class SoundTranscriber(SoundReading):
    """A tower of sounds and a decoder that writes the class of what was said and then its words, token by token.
    `nearfar.models.sound_transcriber` makes one.

    Its vocabulary holds the tokenizer's tokens, and after them one for each class, so that a class that comes later has
    its token from the start. Sounds and texts have a projection each into one space: of a sound the mean of its states,
    of a text that of its tokens' embeddings.

    Args:
        sound: the tower of sounds.
        tokenizer: of the words; its sequences begin and end with tokens of their own.
        classes: how many classes there are, over all tasks.
        log_mel: what sounds become before the tower reads them.
        layers, heads, dropout: of the decoder, which is as wide as the tower.
        embed_dim: width of the space of sounds and texts.
        max_length: tokens that a text is cut to, and that are written at most.
        max_seconds: how much of a sound is read, from its beginning.
        temperature: of the contrast of sounds and texts; None where there was none.

    Raises:
        UserError: a size below 1, or a tokenizer without tokens of begin and end.
    """

    NEEDED: ClassVar[tuple[str, ...]] = ("sound", "decoder", "classes", "log_mel")
    """What its saved config must have."""

    def __init__(
        self,
        sound: SoundTower,
        *,
        tokenizer: Any,
        classes: int,
        log_mel: LogMel,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        embed_dim: int = 128,
        max_length: int = 32,
        max_seconds: float = 10.0,
        temperature: float | None = None,
    ) -> None:
        at_least(2, classes=classes)
        at_least(1, layers=layers, heads=heads, embed_dim=embed_dim)
        at_least(3, max_length=max_length)
        check_words(with_padding(tokenizer))
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise UserError("the tokenizer has no [CLS] and [SEP]: take nearfar.data.train_tokenizer(texts)")
        super().__init__(log_mel=log_mel, tokenizer=tokenizer, max_length=max_length, max_seconds=max_seconds)
        self.sound, self.classes, self.words = sound, classes, len(tokenizer)
        width = sound.width
        self.token = nn.Embedding(self.words + classes, width)
        nn.init.normal_(self.token.weight, std=width**-0.5)
        layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, F.gelu, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        for own in self.decoder.layers:  # copies of one start would stay alike for long
            for weight in (each for each in own.parameters() if each.ndim > 1):
                nn.init.xavier_uniform_(weight)
        self.output = nn.Linear(width, self.words + classes)
        self.sound_projection, self.text_projection = nn.Linear(width, embed_dim), nn.Linear(width, embed_dim)
        self.embed_dim, self.temperature = embed_dim, temperature
        self.made_of = {"layers": layers, "heads": heads, "dropout": dropout}

    @property
    def device(self) -> torch.device:
        return self.output.weight.device

    @property
    def cuts(self) -> bool:
        """Words are of the whole sound."""
        return False

    def encode(self, audio: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The states `[B, L, W]` of a dict of `input_features` float `[B, F, mels]` and `attention_mask` `[B, F]`, and
        which of them are of the sound, bool `[B, L]`."""
        states, mask = self.sound({name: value.to(self.device) for name, value in audio.items()})
        return states, mask

    def embed(self, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The embeddings `[B, L, W]` of a dict of `input_ids` int64 `[B, L]` and `attention_mask` `[B, L]`, and which
        of them are of words, bool `[B, L]`: all but those that are padded, begin or end."""
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device) > 0
        ends = (ids == self.tokenizer.cls_token_id) | (ids == self.tokenizer.sep_token_id)
        return self.token(ids), mask & ~ends

    def decode(self, states: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        """Logits `[B, K, words + classes]` of what follows each of the tokens `ids` int64 `[B, K]`, in the weights'
        dtype, of states and mask as `encode` gives them. Padding at the end of `ids` changes nothing before it."""
        length = ids.shape[1]
        embedded = self.token(ids) * self.token.embedding_dim**0.5
        embedded = embedded + positions(length, self.token.embedding_dim).to(embedded)
        later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
        return self.output(self.decoder(embedded, states, tgt_mask=later, memory_key_padding_mask=~mask))

    def sequences(self, tokens: Mapping[str, Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder is given and what is to follow, int64 `[B, L]` both, of tokens `[B, L]` and classes `[B]`:
        begin, class, words; class, words, end; -100 where nothing is to be learnt.

        Raises:
            UserError: a class that the model does not have.
        """
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        label = label.to(self.device)
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < self.classes:
            raise UserError(
                f"labels are from {int(label.min())} to {int(label.max())}, and the model has {self.classes} classes, "
                "numbered from 0: give every sound a label, and the model as many classes"
            )
        begin, of_class = ids[:, :1], (self.words + label)[:, None]
        before = torch.cat([begin, of_class, ids[:, 1:-1]], dim=1)
        following = torch.cat([of_class, ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)], dim=1)
        return before, following

    @torch.no_grad()
    def transcribe(self, audio: Mapping[str, Tensor], *, beams: int = 1) -> list[Transcript]:
        """The class and the words of each sound of a batch as `preprocess_audio` makes it, by beam search: so many
        beginnings are kept at each place, and the likeliest whole wins. 1 takes at each place the likeliest (greedy).

        Raises:
            UserError: `beams` below 1.
        """
        at_least(1, beams=beams)
        with evaluating(self):
            states, mask = self.encode(audio)
            ids = self._searched(states, mask, beams)
        texts = self.tokenizer.batch_decode(ids[:, 2:].tolist(), skip_special_tokens=True)
        labels = (ids[:, 1] - self.words).tolist()
        return [Transcript(*pair) for pair in zip(labels, (text.strip() for text in texts), strict=True)]

    def _searched(self, states: Tensor, mask: Tensor, beams: int) -> Tensor:
        """The likeliest begin, class and words, int64 `[B, K]`, of states `[B, L, W]` and mask `[B, L]`. What has ended
        goes on with ends, which cost nothing; a beginning never becomes likelier, so that it is over when the first of
        each sound has ended."""
        count, end = len(states), int(self.tokenizer.sep_token_id)
        ids = torch.full((count, 1, 1), int(self.tokenizer.cls_token_id), device=self.device)
        score = torch.zeros(count, 1, device=self.device)
        ended = torch.zeros(count, 1, dtype=torch.bool, device=self.device)
        for place in range(self.max_length):
            kept, first = ids.shape[1], self.words if place == 0 else 0
            of_each = states.repeat_interleave(kept, 0), mask.repeat_interleave(kept, 0)
            logits = self.decode(*of_each, ids.flatten(0, 1))[:, -1].unflatten(0, (count, kept))
            following = (logits[..., self.words :] if place == 0 else logits[..., : self.words]).float().log_softmax(-1)
            following = following.masked_fill(ended[..., None], -torch.inf)
            if place:
                following[..., end] = following[..., end].masked_fill(ended, 0.0)
            total = (score[..., None] + following).flatten(1)
            score, chosen = total.topk(min(beams, total.shape[1]))
            beam, token = chosen // following.shape[-1], chosen % following.shape[-1] + first
            ids = torch.cat([ids.gather(1, beam[..., None].expand(-1, -1, ids.shape[2])), token[..., None]], dim=2)
            ended = ended.gather(1, beam) | (token == end)
            if ended[:, 0].all():
                break
        return ids[:, 0]

    def encode_audio(self, audio: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of sounds, as `encode` takes them, in the weights' dtype: the mean over a sound's
        own states, projected; of unit length with `normalize=True`."""
        embedding = self.sound_projection(masked_mean(*self.encode(audio)))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64, in the weights' dtype: the mean over the
        words' embeddings, projected; of unit length with `normalize=True`."""
        embedding = self.text_projection(masked_mean(*self.embed(tokens)))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {
            "sound": dict(self.sound.made_of),
            "classes": self.classes,
            "log_mel": self.log_mel.settings(),
            "decoder": dict(self.made_of),
            "embed_dim": self.embed_dim,
            "max_length": self.max_length,
            "max_seconds": self.max_seconds,
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        settings = dict(config)
        sound, decoder, log_mel = (settings.pop(name) for name in ("sound", "decoder", "log_mel"))
        return cls(SoundTower(**sound), tokenizer=tokenizer, log_mel=LogMel(**log_mel), **decoder, **settings)


def sound_transcriber(
    *,
    tokenizer: Any = None,
    classes: int,
    width: int = 128,
    layers: int = 4,
    decoder_layers: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
    embed_dim: int = 128,
    mels: int = 40,
    rate: int = 16000,
    window: int = 400,
    hop: int = 160,
    normalise: str = "loudest",
    max_length: int = 32,
    max_seconds: float = 10.0,
    temperature: float | None = None,
) -> SoundTranscriber:
    """A small model that writes the class and the words of a sound, to train from scratch.

    Args:
        tokenizer: of the words. A recipe learns one from the data's texts.
        classes: how many classes there are, over all tasks. A recipe takes those that the data name.
        width, layers, heads, dropout: of the transformer over the sound; the decoder's, too, but for its layers.
        decoder_layers: of the decoder.
        embed_dim: width of the space of sounds and texts.
        mels, rate, window, hop, normalise: of the features; see `nearfar.data.LogMel`.
        max_length: tokens that a text may have.
        max_seconds: how much of a sound is read.
        temperature: kept as the model's `temperature`, for losses to start from.

    Raises:
        UserError: a setting out of its range, or no tokenizer.

    >>> from nearfar.data import train_tokenizer
    >>> model = sound_transcriber(tokenizer=train_tokenizer(["play some jazz"], 300), classes=3).eval()
    >>> [heard] = model.transcribe(model.preprocess_audio([(torch.randn(8000).numpy(), 16000)]))
    >>> 0 <= heard.label < 3
    True
    """
    if tokenizer is None:
        raise UserError("a sound_transcriber needs a tokenizer: pass tokenizer=train_tokenizer(texts)")
    return SoundTranscriber(
        SoundTower(mels, width=width, layers=layers, heads=heads, dropout=dropout),
        tokenizer=tokenizer,
        classes=classes,
        log_mel=LogMel(rate=rate, mels=mels, window=window, hop=hop, normalise=normalise),  # type: ignore[arg-type]
        layers=decoder_layers,
        heads=heads,
        dropout=dropout,
        embed_dim=embed_dim,
        max_length=max_length,
        max_seconds=max_seconds,
        temperature=temperature,
    )
