"""Tiny encoders and batches for the methods on pictures."""

import torch
from torch import nn

from nearfar.models import image_encoder


class Identity(nn.Module):
    """An encoder whose pictures are their own projections."""

    def __init__(self, dim=4):
        super().__init__()
        self.embed_dim = dim

    def encode_image(self, pixels):
        return pixels


class Normed(nn.Module):
    """An encoder that is one batch norm without weights, so that what it normalises by shows."""

    projected_dim = 1

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)

    def project_image(self, pixels):
        return self.norm(pixels)


PAIR = torch.stack([torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [14.0]])])
"""Two views of two samples: by themselves both become [-1, 1], together not."""
APART = [-1, 1, -1, 1]
TOGETHER = [-1.1358, -0.7863, 0.6116, 1.3106]


def encoder(**projector):
    torch.manual_seed(0)
    return image_encoder("micro-resnet", projector={"hidden": 16, "out": 8, **projector})


def batch(n=4, views=2, small=0, seed=0, first=0):
    g = torch.Generator().manual_seed(seed)
    made = {"views": torch.randn(views, n, 3, 32, 32, generator=g), "index": torch.arange(n) + first}
    return made | ({"small_views": torch.randn(small, n, 3, 16, 16, generator=g)} if small else {})


def step(method, *batches, number=1):
    """One step's passes, and what follows it, without an optimiser."""
    method.before_step()
    for each in batches:
        method(each)["loss"].backward()
    method.after_step(number)
