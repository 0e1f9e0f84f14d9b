"""Contrast of pictures and captions by the mean cosine of their patches and words (CG-VLM, arXiv 2311.17945)."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar import ops
from nearfar.errors import UserError
from nearfar.losses.temperature import Tau, as_scale
from nearfar.models.vlm.mean_cosines import mean_direction, picture_direction


def patch_token_contrastive_loss(
    patches: Tensor,
    tokens: Tensor,
    patch_mask: Tensor | None = None,
    token_mask: Tensor | None = None,
    *,
    pool: int | None = 1,
    normalize: bool = True,
    temperature: Tau = 0.07,
    symmetric: bool = True,
    group: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE over the mean cosines s of `nearfar.models.vlm.mean_cosines.token_patch_similarity`:

        L = 1/2 [ CE_j( s(i, j) / tau ) + CE_i( s(i, j) / tau ) ]        mean over the batch

    Neither the cosines of patches and tokens nor the matrix of pairs is ever held. Of one pair alone it is 0, and so is
    its gradient: batches that are cut into single pairs teach nothing.

    Args:
        patches: `[N, P, D]`, floating point: a picture's tokens, as the language model reads them.
        tokens: `[N, L, D]`, floating point: rows of its table of words, detached.
        patch_mask, token_mask: `[N, P]` and `[N, L]`, bool or integers; 0 leaves a vector out.
        pool, normalize: as for `token_patch_similarity`.
        temperature: tau (CG-VLM does not say; 0.07). The mean cosines of different captions lie close together, the
            closer the larger the mean is that all rows of the table share: tau must be small.
        symmetric: both directions, or from pictures to captions alone.
        group: `[N]` int64; pairs of one group are no negatives of each other: captions that say the same.
        backend: of `nearfar.ops`; "ring" takes the captions and pictures of all processes in turn, with a gradient.

    Returns:
        A scalar, float32 or wider.

    Raises:
        UserError: shapes or options that do not fit together.

    >>> eye = torch.eye(2)[:, None]
    >>> round(patch_token_contrastive_loss(eye, eye, temperature=1.0).item(), 6)
    0.313262
    """
    if len(patches) != len(tokens):
        raise UserError(f"there are {len(patches)} pictures and {len(tokens)} captions: caption i is of picture i")
    picture = picture_direction(patches, patch_mask, pool=pool, normalize=normalize)
    text = mean_direction(tokens, token_mask, normalize=normalize)
    return ops.info_nce(picture, text, as_scale(temperature), symmetric=symmetric, group=group, backend=backend)


def bag_keys(ids: Tensor, mask: Tensor) -> Tensor:
    """A number for each text, `[B]` int64, the same for the same words in any order: the mean over words knows no
    order, so that such texts cannot be told apart, and are no negatives of each other.

    Args:
        ids: tokens, `[B, L]` int64.
        mask: which of them count, `[B, L]` bool.

    >>> ids = torch.tensor([[5, 7, 0], [7, 5, 9], [5, 8, 0]])
    >>> one, other, third = bag_keys(ids, torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0]]).bool()).tolist()
    >>> one == other, one == third
    (True, False)
    """
    mixed = (ids + 1) * 0x1E3779B97F4A7C15  # whole numbers wrap around
    mixed = (mixed ^ (mixed >> 29)) * 0x3F58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 32)).masked_fill(~mask, 0)
    return mixed.sum(1)


def joined_groups(*keys: Tensor) -> Tensor:
    """Groups `[B]` int64 of samples that share one of several keys, or are linked by others that do.

    Args:
        keys: each `[B]` int64.

    >>> joined_groups(torch.tensor([4, 4, 5, 6]), torch.tensor([1, 2, 2, 3]))
    tensor([0, 0, 0, 3])
    """
    places = [torch.unique(key, return_inverse=True)[1] for key in keys]
    group = torch.arange(len(places[0]), device=places[0].device)
    while True:
        before = group
        for place in places:  # each takes the least number of those that it shares a key with
            least = torch.full_like(group, len(group)).scatter_reduce(0, place, group, "amin")
            group = least[place]
        if torch.equal(group, before):
            return group
