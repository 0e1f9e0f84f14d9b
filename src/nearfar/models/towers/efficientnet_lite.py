"""EfficientNet-Lite's maps: the last one, and beside it those of blocks before it, which know other things.

The last map was made for the thousand classes of ImageNet. What its last blocks pass on is less tied to them, and helps
on pictures that are no photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

LITE = "efficientnet-lite0"
LITE_DEEP = "efficientnet-lite0-deep"
"""With the outputs of the last two blocks (192 and 320 channels) beside the last map (1,280)."""

TAPS = {LITE: [], LITE_DEEP: [14, 15]}
"""The blocks, by number, whose outputs stand beside the last map: all of the last map's size."""


def maps(net: Any, pixels: Tensor, taps: Sequence[int] = ()) -> Tensor:
    """The last map `[B, 1280, H, W]` of pixels `[B, 3, S, S]` float32, with the outputs of the blocks `taps` added as
    channels."""
    if not taps:
        return net.extract_features(pixels)
    beside = []
    x = pixels
    x = net._swish(net._bn0(net._conv_stem(x)))
    rate = (net._global_params.drop_connect_rate or 0.0) / len(net._blocks)
    for number, block in enumerate(net._blocks):
        x = block(x, drop_connect_rate=rate * number)
        if number in taps:
            beside.append(x)
    return torch.cat([net._swish(net._bn1(net._conv_head(x))), *beside], dim=1)


_PAIRS = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))
_PAIRS_OF_BLOCK = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def folded(net: Any) -> Any:
    """A copy for inference, its batch norms folded into the convolutions before them: the same maps in two thirds of
    the time."""
    copy = deepcopy(net).eval()
    for part, pairs in ((copy, _PAIRS), *((block, _PAIRS_OF_BLOCK) for block in copy._blocks)):
        for convolution, norm in pairs:
            if hasattr(part, convolution):
                setattr(part, convolution, fuse_conv_bn_eval(getattr(part, convolution), getattr(part, norm)))
                setattr(part, norm, nn.Identity())
    return copy.requires_grad_(False)
