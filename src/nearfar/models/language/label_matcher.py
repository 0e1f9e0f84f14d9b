"""A text encoder that says how well any text fits as a label of another: CLESS's matching classifier (arXiv
2010.01061)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from nearfar.data.texts.label_texts_field import within
from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.language.text_model import TextEncoder, text_encoder
from nearfar.models.mixed_inputs import encode
from nearfar.models.towers.tokens import Tokens
from nearfar.modes import evaluating

ROWS = 2**16
"""Pairs of a text and a label that are scored at a time."""


class LabelMatcher(nn.Module):
    """Texts as vectors, and logits of labels for them, where a label is a text as well. `label_matcher` makes one.

        t = encoder(text)                               l = mean of the label's word embeddings, the encoder's own
        m = W_2 gelu( W_1 [norm(t); norm(l)] )          one logit

    The two are brought to one size by a layer norm each, which the paper's convolutional encoder does not need: the
    word embeddings of a transformer are some fifty times as short as what it gives.

    Args:
        encoder: embeds the texts; it becomes part of this model, and its input embeddings are those of the labels.
        hidden: units between; by default as many as the embeddings are wide.

    Attributes:
        tokenizer, max_length: what `tokenize` makes of texts.
        embed_dim: width of the texts' embeddings.

    It encodes, is evaluated and searched as its encoder is; `encoder` alone is what other libraries can have.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("encoder", "hidden")
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"encoder": TextEncoder}
    """Which of these are models themselves."""

    def __init__(self, encoder: TextEncoder, *, hidden: int | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.text.backbone.get_input_embeddings().embedding_dim
        self.hidden = hidden or encoder.embed_dim
        self.norm_text, self.norm_label = nn.LayerNorm(encoder.embed_dim), nn.LayerNorm(width)
        self.of_text = nn.Linear(encoder.embed_dim, self.hidden)
        self.of_label = nn.Linear(width, self.hidden, bias=False)  # W_1, in two halves
        self.out = nn.Linear(self.hidden, 1)

    @property
    def tokenizer(self) -> Any:
        return self.encoder.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.encoder.max_length

    @property
    def embed_dim(self) -> int:
        """Width of the texts' embeddings."""
        return self.encoder.embed_dim

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded to the longest text."""
        return self.encoder.tokenize(texts)

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`."""
        return self.encoder.encode_text(tokens, normalize)

    def encode_label(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The mean of the word embeddings of each label, `[N, W]` in the weights' dtype, of tokens `[N, L]` int64; 0
        for one without words. Special tokens are no words."""
        ids = tokens["input_ids"].to(self.device)
        special = torch.tensor(self.tokenizer.all_special_ids, device=ids.device)
        words = (tokens["attention_mask"].to(self.device) > 0) & ~torch.isin(ids, special)
        embedded = self.encoder.text.backbone.get_input_embeddings()(ids) * words[..., None]
        return embedded.sum(1) / words.sum(1, keepdim=True).clamp(min=1)

    def match(self, text: Tensor, label: Tensor) -> Tensor:
        """Logits `[...]` of texts `[..., D]` and labels `[..., W]`, floating point, that broadcast: one of each, row by
        row, or every text with every label from `[N, 1, D]` and `[M, W]`."""
        halves = self.of_text(self.norm_text(text)) + self.of_label(self.norm_label(label))
        return self.out(nn.functional.gelu(halves)).squeeze(-1)

    def match_labels(self, texts: Sequence[str], labels: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Logits `[N, C]` float32, on the CPU, of N texts and C labels that are texts; above 0 where the label fits
        rather than not, after training with the binary objective.

        >>> model = label_matcher("minilm")
        >>> model.match_labels(["a red fox", "a ship at sea"], ["animal", "vehicle", "red"]).shape
        torch.Size([2, 3])
        """
        scores = [torch.zeros(0, len(labels))]
        with evaluating(self):
            label = self.encode_label(self.tokenize([within(each) for each in labels]))
            for start in range(0, len(texts), batch_size):
                text = self.encode_text(self.tokenize(list(texts[start : start + batch_size])))
                parts = text.split(max(1, ROWS // len(labels)))
                scores += [self.match(part[:, None], label).float().cpu() for part in parts]
        return torch.cat(scores)

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The texts' embeddings, unit length."""
        return self.encode_text(tokens, normalize=True)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {"encoder": self.encoder.config(), "hidden": self.hidden}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        return cls(TextEncoder.from_config(config["encoder"], tokenizer), hidden=config["hidden"])

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def label_matcher(
    name: Any = "minilm",
    *,
    hidden: int | None = None,
    tokenizer: Any = None,
    pooling: str | None = None,
    max_length: int | None = None,
    dense: str | None = None,
    pretrained: bool = True,
) -> LabelMatcher:
    """A text encoder with a fresh matching head, to be trained by `nearfar.methods.CLESS`.

    Args:
        name: a `TextEncoder`, or what `text_encoder` makes one of: "minilm", a folder or hub name, a transformers
            config.
        hidden: units of the head.
        tokenizer, pooling, max_length, dense, pretrained: as for `text_encoder`, where it makes the encoder.

    Raises:
        UserError: as `text_encoder`.

    >>> label_matcher("minilm").embed_dim
    384
    """
    if isinstance(name, TextEncoder):
        encoder = name
    else:
        encoder = text_encoder(
            name, tokenizer=tokenizer, pooling=pooling, max_length=max_length, dense=dense, pretrained=pretrained
        )
    return LabelMatcher(encoder, hidden=hidden).train(encoder.training)
