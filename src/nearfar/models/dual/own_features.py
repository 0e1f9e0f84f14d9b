"""What a model of transformers makes itself of one picture and of two texts: what ours must come out at."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.models.towers import naflex
from nearfar.models.towers.tokens import PROBE, tokenize
from nearfar.models.towers.tower import TextTower

CLOSE = 1e-5
"""Share of the largest number by which features may differ."""


class OwnFeatures(NamedTuple):
    """A probe, and the features of it that the model gives through `get_image_features` and `get_text_features`."""

    pixels: Tensor
    """`[1, 3, S, S]` float32, noise; of a NaFlex model `[1, N, 3 * P * P + 2]`, a picture that is no square."""
    tokens: dict[str, Tensor]
    """`input_ids` and `attention_mask` `[2, L]` of two texts of unequal length."""
    image: Tensor
    """`[1, D]`."""
    text: Tensor
    """`[2, D]`."""

    @classmethod
    def of(cls, model: Any, texts: TextTower, tokenizer: Any, size: int) -> Self:
        """The features of `model`, whose text tower is `texts`, for pictures of `size`."""
        pixels, inputs = _picture(model.vision_model, size)
        tokens = tokenize(tokenizer, PROBE, texts.longest)
        own = dict(tokens)
        if texts.fixed_length:  # as its processor prepares texts
            length = {"padding": "max_length", "max_length": texts.fixed_length}
            own = {"input_ids": tokenizer(list(PROBE), truncation=True, return_tensors="pt", **length)["input_ids"]}
        image = model.get_image_features(**inputs)
        text = model.get_text_features(**own)
        features = cls(pixels, tokens, _vectors(image, "image", model), _vectors(text, "text", model))
        if features.image.shape[-1] != features.text.shape[-1]:
            raise UserError(f"a {type(model).__name__} gives pictures and texts features of different widths")
        return features


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether features `ours` `[N, D]` and `theirs` `[N, D]` are equal but for the order of float32 arithmetic."""
    if ours.shape != theirs.shape:
        return False
    return float((ours - theirs).abs().max()) <= CLOSE * max(1.0, float(theirs.abs().max()))


def _picture(vision: Any, size: int) -> tuple[Tensor, dict[str, Any]]:
    like = next(vision.parameters())
    noise = torch.Generator().manual_seed(0)
    sides = (size, size)
    if naflex.is_naflex(vision):
        patch = int(vision.config.patch_size)
        sides = (size - patch, size)
    pixels = torch.randn(1, 3, *sides, generator=noise).to(like)
    if not naflex.is_naflex(vision):
        return pixels, {"pixel_values": pixels}
    packed = naflex.packed(pixels, patch, (size // patch) ** 2)
    return packed, naflex.inputs(packed, patch)


def _vectors(features: Any, side: str, model: Any) -> Tensor:
    vectors = getattr(features, "pooler_output", features)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2:
        raise UserError(
            f"the {side} features of a {type(model).__name__} are not one vector for each {side}: it is not one that "
            "compares pictures with texts by a single product"
        )
    return vectors
