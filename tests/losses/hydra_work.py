"""What one process does in the test of Hydra's loss under two processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from nearfar import distributed
from nearfar.losses.gated_pairs import gated_pair_sums


class Gathered(torch.autograd.Function):
    """The rows of all processes; its gradient is summed over them."""

    @staticmethod
    def forward(ctx, rows):
        return distributed.gather_rows(rows)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        if distributed.world_size() > 1:
            dist.all_reduce(gradient)
        return gradient.chunk(distributed.world_size())[distributed.rank()]


def loss_and_gradient(reduction: str, shared_count: bool) -> tuple[float, Tensor]:
    """The mean over processes of the loss, and the averaged gradient of what makes anchors and keys."""
    g = torch.Generator().manual_seed(0)
    x, y, gate = (torch.rand(8, 4, generator=g, dtype=torch.float64) - 0.3 for _ in range(3))
    label, partner = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), torch.tensor([1, 1, 2, 0, 1, 0, 2, 0])
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    world, rank = distributed.world_size(), distributed.rank()
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    keys = Gathered.apply(y[mine] @ weight)
    total, count = gated_pair_sums(
        x[mine] @ weight, keys, gate[mine].abs(), label[mine], partner[mine], label, reduction=reduction
    )
    if shared_count and world > 1:
        dist.all_reduce(count)
        count = count / world
    loss = total / count
    loss.backward()
    gradient = weight.grad
    if world > 1:
        dist.all_reduce(gradient)
        gradient = gradient / world
    return distributed.mean({"loss": loss})["loss"].item(), gradient
