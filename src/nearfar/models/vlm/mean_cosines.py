"""The mean of the cosines of a picture's tokens and a text's words, from one vector of each (CG-VLM, arXiv 2311.17945).

With p_k the K vectors of a picture and e_t the L words of a text,

    s = 1 / (K L) sum_k sum_t cos(p_k, e_t) = < mean_k p_k / |p_k| , mean_t e_t / |e_t| >

so that no table of K x L cosines is made. Neither mean is brought to unit length: that were a cosine of means.
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.errors import UserError, at_least


def token_patch_similarity(
    patches: Tensor,
    tokens: Tensor,
    patch_mask: Tensor | None = None,
    token_mask: Tensor | None = None,
    *,
    pool: int | None = 1,
    normalize: bool = True,
) -> Tensor:
    """Of N pictures and M texts the mean cosine of each picture's patches and each text's tokens, `[N, M]`, float32 or
    wider, within [-1, 1].

    Args:
        patches: `[N, P, D]`, floating point, such as a projector's output.
        tokens: `[M, L, D]`, floating point, such as rows of a language model's table of input embeddings.
        patch_mask: `[N, P]`, bool or integers; 0 leaves a patch out. What it holds then, NaN too, changes nothing.
        token_mask: the same of tokens, `[M, L]`. A text without any has 0 with all pictures.
        pool: the patches are averaged to `pool` by `pool` cells first: 1 is their mean; None takes each by itself.
        normalize: False takes products in place of cosines, which grow with the length of the vectors.

    Raises:
        UserError: shapes that do not fit together, or patches that are no square grid where `pool` is above 1.

    >>> patches = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    >>> tokens = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])
    >>> token_patch_similarity(patches, tokens, token_mask=torch.tensor([[1, 0]]), pool=None)
    tensor([[0.5000]])
    """
    picture = picture_direction(patches, patch_mask, pool=pool, normalize=normalize)
    text = mean_direction(tokens, token_mask, normalize=normalize)
    if picture.shape[1] != text.shape[1]:
        raise UserError(f"patches are {picture.shape[1]} wide and tokens {text.shape[1]}: they must be of one space")
    return picture @ text.to(picture.dtype).mT


def picture_direction(
    patches: Tensor, mask: Tensor | None = None, *, pool: int | None = 1, normalize: bool = True
) -> Tensor:
    """Of each picture the mean of the directions of its pooled patches: `[N, D]`, float32 or wider.

    Args:
        patches: `[N, P, D]`, floating point.
        mask: `[N, P]`, bool or integers; 0 leaves a patch out.
        pool, normalize: as for `token_patch_similarity`.

    Raises:
        UserError: shapes that do not fit together, or patches that are no square grid where `pool` is above 1.
    """
    return mean_direction(*pooled_patches(patches, mask, pool=pool), normalize=normalize)


def mean_direction(vectors: Tensor, mask: Tensor | None = None, *, normalize: bool = True) -> Tensor:
    """The mean over K of the unit vectors of `vectors` `[N, K, D]`, floating point: `[N, D]`, float32 or wider, no
    longer than 1, and as long only where all point one way. A row without any, and a zero vector, counts as 0.

    Args:
        vectors: `[N, K, D]`.
        mask: `[N, K]`, bool or integers; 0 leaves a vector out.
        normalize: False takes the mean of the vectors themselves.

    Raises:
        UserError: shapes that do not fit together.

    >>> mean_direction(torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]))
    tensor([[0.5000, 0.5000]])
    """
    real = _real(vectors, mask)
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32)).masked_fill(~real[..., None], 0)
    each = F.normalize(wide, dim=-1) if normalize else wide
    return each.sum(1) / real.sum(1, keepdim=True).clamp(min=1)


def pooled_patches(patches: Tensor, mask: Tensor | None = None, *, pool: int | None = 1) -> tuple[Tensor, Tensor]:
    """The means `[N, K, D]` of patches `[N, P, D]`, floating point, in `pool` by `pool` cells, row by row, and which of
    them have a patch, `[N, K]` bool.

    Args:
        patches: `[N, P, D]`; above `pool=1` a square grid, row by row.
        mask: `[N, P]`, bool or integers; 0 leaves a patch out of its cell.
        pool: cells a side, those of `nn.AdaptiveAvgPool2d`; None: the patches as they are.

    Raises:
        UserError: shapes that do not fit together, no square grid, or more cells than patches.
    """
    real = _real(patches, mask)
    if pool is None:
        return patches, real
    at_least(1, pool=pool)
    clean = patches.masked_fill(~real[..., None], 0)
    share = real.to(patches.dtype)
    if pool == 1:  # of any number of patches
        total, count = clean.sum(1, keepdim=True), share.sum(1, keepdim=True)
    else:
        side = isqrt(patches.shape[1])
        if side**2 != patches.shape[1] or pool > side:
            raise UserError(
                f"pool={pool}: {patches.shape[1]} patches are no square grid of {pool} cells a side or more: pool=1 "
                "takes their mean, pool=None each by itself"
            )
        total = F.adaptive_avg_pool2d(clean.mT.unflatten(2, (side, side)), pool).flatten(2).mT
        count = F.adaptive_avg_pool2d(share.unflatten(1, (1, side, side)), pool).flatten(1)
    there = count > 0
    return total / count.where(there, 1)[..., None], there


def _real(vectors: Tensor, mask: Tensor | None) -> Tensor:
    """Which vectors count, `[N, K]` bool."""
    if vectors.ndim != 3 or not vectors.is_floating_point():
        raise UserError(f"patches and tokens are floating-point [N, K, D], got {vectors.dtype} {list(vectors.shape)}")
    if mask is None:
        return torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
    if mask.shape != vectors.shape[:2]:
        raise UserError(f"a mask of {list(vectors.shape)} is {list(vectors.shape[:2])}, got {list(mask.shape)}")
    return mask.bool()
