"""Preferences on pairs of pictures that hardly differ, which S-VCO (arXiv 2502.13928) is compared with: DPO between
texts (arXiv 2305.18290), and between pictures, as mDPO's conditional part (arXiv 2406.11839)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.methods.base import Batch
from nearfar.methods.lvlm.pair_contrast import PairContrast
from nearfar.methods.lvlm.pair_losses import (
    PairLikelihoods,
    check_beta,
    dpo,
    dpo_margins,
    image_dpo,
    image_dpo_margins,
)

Rejected = Literal["pair", "crop"]


class DPO(PairContrast):
    """Direct preference optimization between texts: of each picture of a pair its own text is preferred to the other's,

        L = - log sigmoid(beta D(y|i, y'|i))          D as in `nearfar.methods.SVCO`; the mean over all pictures

    Args:
        model: a `nearfar.models.VisionLanguageModel`; its frozen parts stay as they are.
        beta: the less, the farther the model may go from the reference (paper: 0.1).
        anchor, cache_reference: as for `nearfar.methods.SVCO`.

    The batch has `image` and `image2` `[B, 3, S, S]` float32, `text` and `text2`, tokens `[B, L]` int64, and what else
    `nearfar.methods.SVCO` reads. Logs `prefer_margin`, the mean of D, `prefer_accuracy`, how often it is
    above 0, `own_reward`, `other_reward` and `token_loss`.

    Raises:
        UserError: a model that writes no captions, `beta` not above 0, `anchor` below 0.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "image2": torch.rand(2, 3, 64, 64)}
        >>> batch |= {"text": model.tokenize(["a red car"] * 2), "text2": model.tokenize(["a red cat"] * 2)}
        >>> round(DPO(model.eval())(batch)["loss"].item(), 4)  # ln 2
        0.6931
    """

    def __init__(self, model: Any, *, beta: float = 0.1, anchor: float = 0.0, cache_reference: bool = False) -> None:
        check_beta(beta)
        super().__init__(model, anchor=anchor, cache_reference=cache_reference)
        self.beta = beta

    def loss_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
        return dpo(policy, reference, beta=self.beta)

    def margins_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> dict[str, Tensor]:
        return {"prefer": dpo_margins(policy, reference)}


class ImageDPO(PairContrast):
    """Preference between pictures: each text is preferred with its own picture to the same text with another one,

        L = - log sigmoid(beta D(y|i, y|i'))          D as in `nearfar.methods.SVCO`; the mean over all texts

    Args:
        model: a `nearfar.models.VisionLanguageModel`; its frozen parts stay as they are.
        rejected: i', the "pair"'s other picture, or a "crop" of i of up to a fifth of its area, stretched to its size,
            as mDPO has it: drawn anew at each step.
        beta: the less, the farther the model may go from the reference.
        anchor, cache_reference: as for `nearfar.methods.SVCO`; crops are new at each step, so nothing is kept of them.

    The batch has `image` and `image2` `[B, 3, S, S]` float32, `text` and `text2`, tokens `[B, L]` int64, and what else
    `nearfar.methods.SVCO` reads. Logs `prefer_margin`, the mean of D, `prefer_accuracy`, how often it is
    above 0, `own_reward`, `other_reward` and `token_loss`.

    Raises:
        UserError: a model that writes no captions, no such `rejected`, `beta` not above 0, `anchor` below 0, or
            `cache_reference` with crops.

    Example:
        >>> from nearfar.data import train_tokenizer
        >>> from nearfar.models import vision_language_model
        >>> model = vision_language_model("tiny", tokenizer=train_tokenizer(["a red car", "a red cat"], 300))
        >>> batch = {"image": torch.rand(2, 3, 64, 64), "image2": torch.rand(2, 3, 64, 64)}
        >>> batch |= {"text": model.tokenize(["a red car"] * 2), "text2": model.tokenize(["a red cat"] * 2)}
        >>> round(ImageDPO(model.eval(), rejected="crop")(batch)["loss"].item(), 4)  # ln 2
        0.6931
    """

    def __init__(
        self,
        model: Any,
        *,
        rejected: Rejected = "pair",
        beta: float = 0.1,
        anchor: float = 0.0,
        cache_reference: bool = False,
    ) -> None:
        check_beta(beta)
        if rejected not in ("pair", "crop"):
            raise UserError(f"rejected={rejected!r}: choose 'pair' or 'crop'")
        if rejected == "crop" and cache_reference:
            raise UserError("crops are drawn anew at each step: cache_reference has nothing to keep; leave it out")
        super().__init__(model, anchor=anchor, cache_reference=cache_reference)
        self.rejected, self.beta = rejected, beta

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.rejected == "crop":  # the same ones for the model and the reference
            batch = {**batch, "cropped": cropped(torch.cat([batch["image"], batch["image2"]]))}
        return super().forward(batch)

    def other_pictures(self, model: Any, batch: Batch, own: Tensor) -> Tensor:
        """Tokens `[2 B, P, W]` of the pictures that are rejected, in the dtype of `own` `[2 B, P, W]`."""
        if self.rejected == "crop":
            return model.picture_tokens(batch["cropped"])
        return super().other_pictures(model, batch, own)

    def loss_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> Tensor:
        return image_dpo(policy, reference, beta=self.beta)

    def margins_of(self, policy: PairLikelihoods, reference: PairLikelihoods) -> dict[str, Tensor]:
        return {"prefer": image_dpo_margins(policy, reference)}


def cropped(pixels: Tensor, *, most: float = 0.2, least: float = 0.01) -> Tensor:
    """A square of each picture `[N, 3, H, W]`, floating point, somewhere in it, stretched to the whole size.

    Args:
        pixels: the pictures.
        most, least: bounds of its share of the area.

    >>> cropped(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 3, 8, 8])
    """
    draws = torch.rand(3, len(pixels)).to(pixels)
    side = (least + (most - least) * draws[0]).sqrt()
    across, down = ((2 * draw - 1) * (1 - side) for draw in draws[1:])  # of its middle, from -1 to 1
    zero = torch.zeros_like(side)
    corners = torch.stack([torch.stack([side, zero, across], 1), torch.stack([zero, side, down], 1)], 1)
    grid = F.affine_grid(corners, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
