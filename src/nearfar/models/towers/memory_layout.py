"""How pixels lie in memory for a convolutional backbone on a CPU: channels last where its convolutions prefer it.

A backbone's layers keep the layout of what they get, so the pixels alone decide it. Weights stay as they are, and so do
checkpoints; results differ by rounding. Transformers and depthwise convolutions (ConvNeXt) are left as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def prefers_channels_last(backbone: nn.Module) -> bool:
    """Whether most of a backbone's weights are convolutions over all channels, windows that overlap among them.

    >>> prefers_channels_last(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    True
    >>> prefers_channels_last(nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)))  # patches
    False
    """
    dense = [part for part in backbone.modules() if isinstance(part, nn.Conv2d) and part.groups == 1]
    overlap = any(part.kernel_size[0] > part.stride[0] for part in dense)
    return overlap and 2 * sum(part.weight.numel() for part in dense) > sum(p.numel() for p in backbone.parameters())


def channels_last(pixels: Tensor) -> Tensor:
    """The same pixels `[B, 3, S, S]`, floating point, with the channels of a pixel side by side in memory, on a CPU; on
    other devices as they are."""
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.device.type == "cpu" else pixels
