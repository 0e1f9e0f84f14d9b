"""A model that reads texts and nothing else, as an encoder: a text tower with its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.models import model_folder
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.tokenizer_files import read_tokenizer
from nearfar.models.towers import backbones
from nearfar.models.towers.dense_layers import Layer, dense_layers, described, width_after
from nearfar.models.towers.sentence_folder import SentenceFolder
from nearfar.models.towers.sentence_settings import lower_cased
from nearfar.models.towers.tokens import Tokens, check_tokenizer, fitted, read_at_the_end, tokenize, with_padding
from nearfar.models.towers.tower import TextTower


class TextEncoder(nn.Module):
    """Texts as vectors, `[B, embed_dim]`: the summary of a `TextTower`. `text_encoder` makes one.

    Attributes:
        text: the tower.
        tokenizer, max_length: what `tokenize` makes of texts.
        embed_dim: width of the tower, or of what the last dense layer gives.
        layers: dense layers after the pooling, as a sentence encoder may have them; else empty.
        matryoshka: the widths that its embeddings may be cut to, as training arranged them; else empty.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("text", "max_length")
    """What its saved config must have."""

    def __init__(
        self,
        text: TextTower,
        *,
        tokenizer: Any,
        max_length: int | None = None,
        matryoshka: Sequence[int] = (),
        layers: Sequence[Layer] = (),
    ) -> None:
        super().__init__()
        check_tokenizer(with_padding(tokenizer), text)
        self.text, self.tokenizer = text, tokenizer
        self.max_length = min(max_length or text.longest, text.longest)
        self.matryoshka = tuple(matryoshka)
        self.layers = dense_layers(layers, text.width)

    @property
    def embed_dim(self) -> int:
        return width_after(self.layers, self.text.width)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long, cut at `max_length`, padded to the longest text."""
        return tokenize(self.tokenizer, texts, self.max_length)

    def text_tokens(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Hidden states `[B, L, W]` of tokens `[B, L]` int64, in the weights' dtype and in step with `input_ids`, the
        text's summary in place of the first."""
        return self.text({name: value.to(self.device) for name, value in tokens.items()})

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of a dict of tokens `[B, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`."""
        embedding = self.layers(self.text_tokens(tokens)[:, 0])
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def forward(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The embeddings, unit length."""
        return self.encode_text(tokens, normalize=True)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        made: dict[str, Any] = {
            "text": {"spec": self.text.spec, "pooling": self.text.pooling},
            "max_length": self.max_length,
        }
        if self.matryoshka:
            made["matryoshka"] = list(self.matryoshka)
        return {**made, "layers": described(self.layers)} if len(self.layers) else made

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        fields = dict(config)
        text = fields.pop("text")
        return cls(TextTower(backbones.rebuild(text["spec"]), **text), tokenizer=tokenizer, **fields)

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


@backbones.quiet()
def text_encoder(
    name: backbones.Source = "minilm",
    *,
    tokenizer: Any = None,
    pooling: str | None = None,
    max_length: int | None = None,
    dense: str | None = None,
    pretrained: bool = True,
) -> TextEncoder:
    """An encoder of texts by name.

    Args:
        name: "minilm" (comes in a package), a folder or hub name of a sentence encoder or of a transformers model that
            reads texts, a transformers config (or its dict, with `model_type`), or a module.
        tokenizer: a transformers tokenizer; by default the model's own. A config needs one.
        pooling: "mean", "cls", "eos", "tower", "max", "mean_sqrt_len", "weighted_mean", "first_last" or
            "embedding_last", as in `TextTower`. By default what the folder of a sentence encoder states; else the mean
            of the tokens, or the last token of a model that reads from left to right.
        dense: add a fresh dense layer after the pooling, as wide as what comes to it, with this activation: "Tanh" for
            supervised SimCSE (arXiv 2104.08821), which keeps its head; "Identity" for none.
        max_length: tokens a text may have; by default what the folder states, else what the model can read.
        pretrained: whether a model given by name or folder comes with its weights.

    Raises:
        UserError: no such model, pooling or tokenizer; a sentence encoder of further parts than pooling and dense
            layers.

    >>> model = text_encoder("minilm")
    >>> model.encode_text(model.tokenize(["a red fox", "a ship at sea"])).shape
    torch.Size([2, 384])
    """
    if isinstance(name, Mapping) and tokenizer is not None:
        name = fitted(name, with_padding(tokenizer))
    stated = SentenceFolder.read(backbones.minilm_folder() if name == backbones.MINILM else name)
    tower, _ = backbones.text_tower(stated.weights, pooling=pooling or stated.pooling, pretrained=pretrained)
    if pooling is None and stated.pooling is None and tower.pooling == "cls":
        tower.pooling = "mean"  # a class token that no one has trained as a summary says little
    if tokenizer is None and isinstance(stated.weights, (str, Path)):
        tokenizer = read_tokenizer(stated.weights)
        tokenizer = lower_cased(tokenizer) if stated.lower_case else tokenizer
    if pooling is None and tokenizer is not None:
        check_tokenizer(with_padding(tokenizer), tower)
        read_at_the_end(tower, tokenizer)
    longest = max_length or stated.max_length
    if longest is None and stated.pooling is not None:
        longest = tokenizer.model_max_length  # as sentence-transformers does
    layers = [*stated.layers, *([] if dense is None else [_as_wide(dense, stated.layers, tower.width)])]
    made = TextEncoder(tower, tokenizer=tokenizer, max_length=longest, layers=layers)
    if pretrained:
        stated.load_layers(name, nn.Sequential(*list(made.layers)[: len(stated.layers)]))
    return made.eval() if pretrained and isinstance(name, (str, Path)) else made


def _as_wide(activation: str, before: Sequence[Layer], width: int) -> dict[str, Any]:
    """A dense layer after those `before`, which follow a tower of `width`, that keeps their width."""
    width = next((layer["out_features"] for layer in reversed(before) if layer), width)
    return {"in_features": width, "out_features": width, "bias": True, "activation": activation}
