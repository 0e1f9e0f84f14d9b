"""The feature queue: the last keys of past batches, as further candidates of a contrastive loss (MoCo, arXiv
1911.05722), and that loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import distributed, ops
from nearfar.errors import UserError
from nearfar.methods.parts.gathered_features import gather_unit

EMPTY = -100
"""The group of a place that has never been filled: it equals no sample's."""


class FeatureQueue(nn.Module):
    """The last `size` features, first in, first out. All of it is buffers, so it resumes and moves with the model.

    Args:
        dim: width of the features.
        size: how many are kept (65,536 in MoCo and ALBEF). Any size of batch fits.

    Attributes:
        features: `[size, dim]`, rows of unit length: random directions until filled, as in MoCo and ALBEF.
        group: `[size]` long, the samples' groups; -100 where none is known.
        pointer: the place of the next push.

    >>> queue = FeatureQueue(dim=2, size=4)
    >>> queue.push(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([7, 8]))
    >>> queue.features[:2], queue.group, len(queue)
    (tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]]), tensor([   7,    8, -100, -100]), 2)
    """

    features: Tensor
    group: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        if size < 1:
            raise UserError(f"size={size}: a queue holds at least one feature; leave the queue out instead")
        self.register_buffer("features", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("group", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """How many places hold features that were pushed."""
        return int(self.filled)

    @torch.no_grad()
    def push(self, features: Tensor, group: Tensor | None = None, *, index: Tensor | None = None) -> None:
        """Put features `[B, dim]`, and groups `[B]` if known, in the places of the oldest.

        They are made unit length, and gathered over processes first, so that every process keeps the same queue.
        `index` `[B]` names the samples in an error, by default the groups do.

        Raises:
            UserError: the width is another, or a feature is NaN or infinite. The queue then stays as it was, on every
                process.
        """
        size, dim = self.features.shape
        if features.ndim != 2 or features.shape[1] != dim:
            raise UserError(f"the queue holds features [B, {dim}]; these are {list(features.shape)}")
        known = index if index is not None else group
        features = gather_unit(features.detach().to(self.features.dtype), known, where="queue")[-size:]
        groups = None if group is None else distributed.gather_rows(group.to(self.group))[-size:]
        first, count = int(self.pointer), len(features)
        head = min(count, size - first)
        # Those up to the end; the rest stands at the beginning.
        for start, rows in ((first, slice(0, head)), (0, slice(head, count))):
            if rows.start < rows.stop:
                places = slice(start, start + rows.stop - rows.start)
                self.features[places] = features[rows]
                self.group[places] = EMPTY if groups is None else groups[rows]
        self.pointer.fill_((first + count) % size)
        self.filled.fill_(min(size, len(self) + count))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}ids" in state_dict:  # what earlier versions called it
            state_dict[f"{prefix}group"] = state_dict.pop(f"{prefix}ids")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def queue_info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    temperature: float,
    *,
    group: Tensor | None = None,
    queue_group: Tensor | None = None,
) -> Tensor:
    """MoCo's loss, a scalar: the cross-entropy of each query's own key against the queue. The keys of the batch's other
    samples are no candidates.

    Takes queries `q` `[B, D]`, their keys `k` `[B, D]` and the queue `[K, D]`, unit rows in floating point. With
    `group` `[B]` and `queue_group` `[K]`, int64, a query's candidates are of its own group; one without any adds 0. The
    B x K matrix of all similarities is never held.

    >>> q = torch.eye(2)
    >>> round(queue_info_nce(q, q, torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 1.0).item(), 6)  # log(1 + 2 / e), log(1 + 2)
    0.825029
    """
    if group is None:
        return ops.info_nce(q, queue, 1 / temperature, symmetric=False, positive=k)
    positive = (q * k).sum(1) / temperature
    negatives = ops.log_partition(q, queue, 1 / temperature, q_group=group, k_group=queue_group, admit="same")
    return F.softplus(negatives - positive).mean()
