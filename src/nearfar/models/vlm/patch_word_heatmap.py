"""Where in a picture a vision-language model has put words: the cosines of the picture's tokens and the words' rows in
the language model's table (CG-VLM, arXiv 2311.17945)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError, at_least
from nearfar.models.towers.pixels import rgb
from nearfar.models.vlm.mean_cosines import mean_direction
from nearfar.models.vlm.patch_word_space import ignored_tokens, table_mean, word_rows, word_tokens
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from nearfar.models.vlm.vision_language_model import VisionLanguageModel


def patch_word_heatmap(
    model: VisionLanguageModel,
    pixels: Tensor,
    texts: Sequence[str],
    *,
    center: bool = False,
    ignore: Sequence[str] = (),
) -> Tensor:
    """Of each picture how near each place is to the words of its text: `[B, H, W]`, float32 or wider, the mean over the
    words of their cosines with the token of that place, in evaluation mode.

    The mean of a map is the score of picture and text (`nearfar.models.vlm.patch_word_space`) without pooling. A model
    that learnt by captions alone has no reason to put a place near its word; one trained by `cg_vlm` has.

    Args:
        model: a vision-language model that reads the cells of a grid.
        pixels: `[B, 3, S, S]` float32, as `model.preprocess` makes them, or its `picture_tokens` `[B, P, W]`.
        texts: a word, or several, for each picture.
        center: as the model was trained, see `nearfar.methods.CGVLM`.
        ignore: words that do not count, each one token.

    Raises:
        UserError: not one text a picture, a text without a word, or a model that reads no square grid.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import vision_language_model
    >>> model = vision_language_model("tiny-vit", tokenizer=train_tokenizer(["a red fox"] * 9, 300), pool=4)
    >>> patch_word_heatmap(model, torch.rand(1, 3, 64, 64), ["red fox"]).shape
    torch.Size([1, 4, 4])
    """
    if isinstance(texts, str) or len(texts) != len(pixels):
        raise UserError(f"{len(pixels)} pictures, {len(texts)} texts: give lists, with one text a picture")
    side = isqrt(model.picture_length)
    if side**2 != model.picture_length or model.made_of["read"] != "cells":
        raise UserError(
            f"this model reads {model.picture_length} tokens of a picture, which are no square grid: read='cells', "
            "with pool=4 say, makes one"
        )
    spelled = word_tokens(model.tokenizer, texts)
    width = max(map(len, spelled), default=0)
    tokens = {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids in spelled]).reshape(len(texts), width),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in spelled]).reshape(
            len(texts), width
        ),
    }
    with evaluating(model):
        rows, words = word_rows(model, tokens, ignored_tokens(model.tokenizer, ignore))
        if len(texts) and not bool(words.any(1).all()):
            empty = texts[int(words.any(1).int().argmin())]
            raise UserError(f"{empty!r} has no word that counts: name one to look for")
        patches = pixels if pixels.ndim == 3 else model.picture_tokens(pixels)
        if center:
            rows, patches = rows - table_mean(model), patches - table_mean(model)
        direction = mean_direction(rows, words)
        each = F.normalize(patches.to(direction.dtype), dim=-1)
        return (each @ direction[..., None])[..., 0].unflatten(1, (side, side))


def locate(
    model: Any, pictures: Sequence[Any], texts: Sequence[str], *, layer: int | None = None, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Where in N pictures (PIL) their N texts are: maps `[N, H, W]` float32, those of `patch_word_heatmap` above their
    own least value, and windows `[N, 4]` float32, the left, top, right and bottom of what each map covers, in pixels of
    its picture.

    Raises:
        UserError: not one picture a text, a layer, which these maps have none of, or what `patch_word_heatmap` refuses.
    """
    if layer is not None:
        raise UserError(f"layer={layer}: the maps are of tokens before any layer: leave it out")
    if isinstance(texts, str) or not texts or len(pictures) != len(texts):
        raise UserError(f"{len(pictures)} pictures, {len(texts)} texts: give lists, with one picture a text")
    at_least(1, batch_size=batch_size)
    pictures = [rgb(picture) for picture in pictures]  # upright, as windows are given
    maps = []
    for start in range(0, len(texts), batch_size):
        part = slice(start, start + batch_size)
        heat = patch_word_heatmap(model, model.preprocess(pictures[part]), texts[part]).float().cpu()
        maps.append(heat - heat.amin((1, 2), keepdim=True))
    windows = [model.pixels.window(*picture.size) for picture in pictures]
    return torch.cat(maps), torch.tensor(windows)
