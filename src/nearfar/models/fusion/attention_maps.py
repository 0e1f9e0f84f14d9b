"""Grounding without boxes: which part of the picture does each word of a matching text attend to?

Grad-CAM on cross-attention, as in ALBEF (arXiv 2107.07651): attention that raises the matching score counts, the rest
does not. For word l and patch p, `cam_lp = mean over heads of A_lp max(0, d score / d A_lp)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from nearfar.models.fusion.fusion_model import FusionModel


def ground(model: FusionModel, pixels: Tensor, tokens: Mapping[str, Tensor], *, layer: int | None = None) -> Tensor:
    """Maps `[B, L, H, W]` of B pairs: for each of L tokens its relevance over the H x W patches; 0 for padding.

    Average the maps of a phrase's tokens for the phrase, or of all tokens for the whole text, as ALBEF does. Maps are
    not normalised: within one picture they can be compared, between pictures only after a division.

    Args:
        model: trained for matching; its image tower gives a square grid of patches. Works in evaluation mode, frozen
            or not, and under `torch.no_grad()`; leaves no gradient behind.
        pixels: `[B, 3, H, W]` float32, as `preprocess` makes them.
        tokens: of B texts, `[B, L]` int64, as `tokenize` makes them.
        layer: which fusion layer's attention, from 0; by default the middle one (ALBEF's third of six).

    Raises:
        UserError: no such layer, or patches that are no square grid.
    """
    layers = len(model.text.cross)
    layer = (layers - 1) // 2 if layer is None else layer
    if not 0 <= layer < layers:
        raise UserError(f"layer={layer}: this fusion encoder has layers 0 to {layers - 1}")
    with evaluating(model):
        image, states = model.image_tokens(pixels), model.text_tokens(tokens)
        mask = tokens["attention_mask"].to(states.device)
        patches = image.shape[1] - 1
        side = round(patches**0.5)
        if side * side != patches or not patches:
            raise UserError(f"{patches} patches are no square grid: grounding needs an image tower that keeps patches")
        maps: list[Tensor] = []
        with torch.enable_grad():
            # The picture requires a gradient, so that there is one even where all weights are frozen.
            fused = model.text.fuse(states, mask, image.requires_grad_(), maps=maps)
            score = model.matching(fused)[:, 1].sum()
            (slope,) = torch.autograd.grad(score, maps[layer])
    relevance = (maps[layer].detach() * slope.clamp(min=0)).mean(1)[:, :, 1:]  # (B, L, P): without the summary
    return (relevance * mask[:, :, None]).unflatten(2, (side, side))
