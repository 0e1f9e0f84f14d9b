"""A model of nearfar as CLIP_benchmark's metrics take one: `model, transform, tokenizer`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nearfar.modes import device_of


class ClipBenchmarkModel(NamedTuple):
    """What `clip_benchmark.models.load_clip` returns, of an encoder of nearfar: see `clip_benchmark_model`."""

    model: Any
    """Has `encode_image(pixels)` and `encode_text(tokens)`."""
    transform: Any
    """From a PIL picture to pixels `[3, S, S]` float32."""
    tokenizer: Any
    """From texts to one tensor `[2, B, L]` int64: ids and mask."""


def clip_benchmark_model(encoder: Any) -> ClipBenchmarkModel:
    """The three parts that CLIP_benchmark works with.

    Args:
        encoder: an encoder of pictures and texts.

    >>> import nearfar
    >>> model, transform, tokenizer = clip_benchmark_model(nearfar.load("towers"))
    >>> model.encode_text(tokenizer(["a red car", "a dog"])).shape
    torch.Size([2, 256])
    """
    inside = encoder.eval() if isinstance(encoder, nn.Module) else encoder

    def transform(picture: Any) -> Tensor:
        return encoder.preprocess([picture])[0]

    def tokenizer(texts: list[str] | str) -> Tensor:
        tokens = encoder.tokenize([texts] if isinstance(texts, str) else list(texts))
        return torch.stack([tokens["input_ids"], tokens["attention_mask"]])

    return ClipBenchmarkModel(_Encodes(inside), transform, tokenizer)


class _Encodes:
    """The encoder, with tokens in one tensor: CLIP_benchmark moves what a tokenizer gives to a device by itself."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.encoder.encode_image(pixels.to(device_of(self.encoder)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        ids, mask = tokens.to(device_of(self.encoder))
        return self.encoder.encode_text({"input_ids": ids, "attention_mask": mask})
