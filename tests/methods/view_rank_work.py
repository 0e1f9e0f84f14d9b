"""What one process does in the test of the methods on views under two processes."""

from __future__ import annotations

import torch
from torch import nn

from nearfar import distributed as processes
from nearfar.methods import find
from nearfar.training.loop.gradients import backward


def network():
    """Rows stay independent: no batch norm, so that processes may share a batch."""
    torch.manual_seed(0)
    net = nn.Linear(6, 4)
    net.encode_image, net.projected_dim = net.forward, 4
    return net


def gradients(name, settings, views, label):
    """The loss and the averaged gradient of this process's part of a batch, in float64."""
    torch.manual_seed(1)
    method = find(name)(network(), **settings).double()
    if hasattr(method, "predictor"):
        method.predictor = nn.Linear(4, 4, dtype=torch.float64)
        nn.init.constant_(method.predictor.weight, 0.3)
    world, rank = processes.world_size(), processes.rank()
    batch = {"views": views.chunk(world, 1)[rank], "label": label.chunk(world)[rank]}
    loss = backward(method, batch)["loss"]
    processes.average_gradients(method.parameters())
    total = processes.mean({"loss": loss})["loss"]
    return total.item(), [p.grad.numpy() for p in method.model.parameters()]


def all_gradients(settings, views, label):
    return {name: gradients(name, each, views, label) for name, each in settings.items()}
