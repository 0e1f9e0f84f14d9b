"""The feature queue: the last keys of past batches, as further candidates of a contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from nearfar.errors import UserError

EMPTY = -100
"""The id of a place that has never been filled: it equals no sample's id."""


class FeatureQueue(nn.Module):
    """The last `size` features, first in, first out. All of it is buffers, so it resumes and moves with the model.

    Args:
        dim: width of the features.
        size: how many are kept; a multiple of the global batch, so that no batch is ever torn (65,536 in ALBEF).

    Attributes:
        features: `[size, dim]`, rows of unit length: random directions until filled, as in MoCo and ALBEF.
        ids: `[size]` long, -100 where no id is known.
        pointer: the place of the next push.

    >>> queue = FeatureQueue(dim=2, size=4)
    >>> queue.push(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([7, 8]))
    >>> queue.features[:2], queue.ids, len(queue)
    (tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]]), tensor([   7,    8, -100, -100]), 2)
    """

    features: Tensor
    ids: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"size={size}: a queue holds at least one batch; leave the queue out instead")
        self.register_buffer("features", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("ids", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """How many places hold features that were pushed."""
        return int(self.filled)

    @torch.no_grad()
    def push(self, features: Tensor, ids: Tensor | None = None) -> None:
        """Put features `[B, dim]`, and ids `[B]` if known, in the places of the oldest.

        They are made unit length, and gathered over processes first, so that every process keeps the same queue.

        Raises:
            UserError: the size is no multiple of the global batch, or the width is another.
        """
        size, dim = self.features.shape
        if features.ndim != 2 or features.shape[1] != dim:
            raise UserError(f"the queue holds features [B, {dim}]; these are {list(features.shape)}")
        if ids is None:
            ids = torch.full((len(features),), EMPTY, device=features.device)
        features = _gather(F.normalize(features.detach().to(self.features.dtype), dim=1))
        ids = _gather(ids.to(self.ids))
        batch = len(features)
        if batch == 0 or size % batch:
            raise UserError(
                f"a queue of {size} cannot take batches of {batch}: choose a queue size that is a multiple of the "
                f"global batch, such as {max(1, round(size / max(batch, 1))) * max(batch, 1)}, and drop the last, "
                "incomplete batch"
            )
        start = int(self.pointer)
        if start % batch:
            raise UserError(f"the queue was filled in batches of another size than {batch}: keep the batch size")
        self.features[start : start + batch] = features
        self.ids[start : start + batch] = ids
        self.pointer.fill_((start + batch) % size)
        self.filled.fill_(min(size, len(self) + batch))


def _gather(local: Tensor) -> Tensor:
    """The rows of all processes, in rank order."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return local
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)
