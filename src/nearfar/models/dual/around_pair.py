"""Models around a dual encoder, which read pictures and texts as that one does."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.towers.pixels import Pixels, PreparesPictures


class AroundPair(PreparesPictures, nn.Module):
    """What such a model has of its `pair`, which it sets itself."""

    pair: DualEncoder

    @property
    def pixels(self) -> Pixels:
        """How pictures, or frames, are prepared."""
        return self.pair.pixels

    @pixels.setter
    def pixels(self, pixels: Pixels) -> None:
        self.pair.pixels = pixels

    @property
    def tokenizer(self) -> Any:
        return self.pair.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to."""
        return self.pair.max_length

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""
        return self.pair.embed_dim

    @property
    def device(self) -> torch.device:
        return self.pair.device


def open_pair(pair: Any, made_of: str, *, tokenizer: Any = None, image_size: int | None = None, **made: Any) -> Any:
    """The dual encoder that a model is made around: a copy of it, or what its name, folder, preset or arguments say.

    Args:
        pair: a dual encoder, a folder or a name that `nearfar.load` opens as one, a preset, or the arguments of
            `nearfar.models.create` by name.
        made_of: what the model is made of, in the words of the error.
        tokenizer: for a pair that is made from scratch.
        image_size: side of the pictures, where the pair's own is not to be taken.
        made: arguments of a pair that is made from scratch, where `pair` does not say otherwise.

    Raises:
        UserError: no such pair, or a model of another kind.
    """
    from nearfar import models

    if isinstance(pair, Mapping) or (isinstance(pair, str) and pair in models.PRESETS):
        arguments = {"preset": pair} if isinstance(pair, str) else dict(pair)
        opened: Any = models.create(**{"tokenizer": tokenizer, "image_size": image_size, **made, **arguments})
        image_size = None
    else:
        opened = deepcopy(pair) if isinstance(pair, nn.Module) else models.load(pair)
    if type(opened) is not DualEncoder:
        raise UserError(f"pair is a {type(opened).__name__}: {made_of}")
    if image_size is not None:
        opened.resize_images(image_size)
    return opened
