"""A tiny encoder of maps, batches of views with their geometry, and what one process of several does with them."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed as processes
from nearfar.methods import PixPro
from nearfar.training.loop.gradients import backward


class Maps(nn.Module):
    """A convolution of stride 2 over pictures of 5 channels."""

    embed_dim = 3

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(5, 3, 2, stride=2)

    def encode_image_map(self, pixels, normalize=False):
        return self.convolution(pixels)


def batch(n=4, *, shape=(8, 8), seed=0):
    """Two views of n pictures, the second shifted and scaled."""
    g = torch.Generator().manual_seed(seed)
    views = torch.randn(2, n, 5, *shape, generator=g)
    geometry = torch.eye(3).repeat(2, n, 1, 1)
    geometry[1, :, :2, 2] = 4 * torch.rand(n, 2, generator=g) - 2
    geometry[1, :, 0, 0] = 1 + torch.rand(n, generator=g)
    return {"views": views, "geometry": geometry}


def trained(world):
    """Gradients and teacher after a step of this process's part of a batch, in float64, without batch norm."""
    torch.manual_seed(0)
    method = PixPro(Maps(), hidden=6, out=4).double()
    method.teacher.slow.module.double()
    for part in (method.projector.mlp.network, method.teacher.module.projector.mlp.network):
        part[1] = nn.Identity()
    data = {key: value.double().chunk(world, 1)[processes.rank()] for key, value in batch(n=4).items()}
    method.before_step()
    loss = backward(method, data)["loss"]
    processes.average_gradients(method.parameters())
    with torch.no_grad():
        gradients = {name: p.grad.numpy().copy() for name, p in method.named_parameters() if p.grad is not None}
        for p in method.parameters():
            p.sub_(0.1 * p.grad) if p.grad is not None else None
    method.after_step(1)
    states = {name: value.numpy().copy() for name, value in method.teacher.state_dict().items()}
    return gradients | states | {"loss": processes.mean({"loss": loss})["loss"].item()}
