"""Colour changes of whole batches: `[B, 3, H, W]` floats from 0 to 1, with one strength a picture, `[B]`.

In place where that is possible, and without a generic layer around them, they take a fraction of the time of an
augmentation library's. `equalise` and `sharpness` follow Pillow's ImageOps.equalize and ImageEnhance.Sharpness.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Brightness as the eye sees it, `[B, 1, H, W]`."""
    red, green, blue = LUMA
    return (images[:, 0] * red).add_(images[:, 1], alpha=green).add_(images[:, 2], alpha=blue).unsqueeze(1)


def brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply; 1 changes nothing. In place, like all that end in `_`."""
    return images.mul_(_each(factor)).clamp_(0, 1)


def contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Away from the mean brightness (above 1) or towards it (below)."""
    mean = grey(images).mean((2, 3), keepdim=True)
    return images.sub_(mean).mul_(_each(factor)).add_(mean).clamp_(0, 1)


def saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Away from grey (above 1) or towards it (0 is grey)."""
    plain = grey(images)
    return images.sub_(plain).mul_(_each(factor)).add_(plain).clamp_(0, 1)


def hue_(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colour circle by `turn`, where 1 is all the way round."""
    top = images.amax(1)
    chroma = top - images.amin(1)
    red, green, blue = images.unbind(1)
    below = chroma.clamp_min(1e-12)
    hue = torch.where(
        top == red,
        ((green - blue) / below) % 6,
        torch.where(top == green, (blue - red) / below + 2, (red - green) / below + 4),
    )
    hue += 6 * turn[:, None, None]
    for channel, start in enumerate((5, 3, 1)):  # the hexcone, written without its six cases
        place = (hue + start) % 6
        images[:, channel] = top - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)
    return images


def jitter_(images: Tensor, factors: dict[str, Tensor], order: list[str]) -> Tensor:
    """Brightness, contrast, saturation and hue, one after the other in the given order."""
    change = {"brightness": brightness_, "contrast": contrast_, "saturation": saturation_, "hue": hue_}
    for name in order:
        if name in factors:
            change[name](images, factors[name])
    return images


def solarise(images: Tensor, threshold: float = 0.5) -> Tensor:
    """Negative of all that is brighter than the threshold."""
    return torch.where(images >= threshold, 1 - images, images)


def blur(images: Tensor, sigma: Tensor, *, side: int | None = None) -> Tensor:
    """Gaussian blur; the border is mirrored. `sigma` `[B]`, in pixels; `side` is that of the kernel, odd, by default a
    tenth of the picture (SimCLR's choice) and at least 3 pixels.

    >>> point = torch.zeros(1, 1, 5, 5)
    >>> point[0, 0, 2, 2] = 1
    >>> blur(point, torch.tensor([1.0]))[0, 0, 2]
    tensor([0.0000, 0.1238, 0.2042, 0.1238, 0.0000])
    """
    batch, channels, height, width = images.shape
    side = max(3, width // 10 | 1) if side is None else side
    offsets = torch.arange(side, device=images.device, dtype=images.dtype) - side // 2
    weights = (-0.5 * (offsets / sigma.to(images.dtype)[:, None]) ** 2).softmax(1)  # normalised, and never 0 / 0
    weights = weights.repeat_interleave(channels, 0)
    # Every channel of every picture is a channel of one picture, each with its picture's kernel: rows, then columns.
    flat = images.reshape(1, batch * channels, height, width)
    around = side // 2
    flat = F.conv2d(F.pad(flat, (around, around, 0, 0), "reflect"), weights[:, None, None, :], groups=batch * channels)
    flat = F.conv2d(F.pad(flat, (0, 0, around, around), "reflect"), weights[:, None, :, None], groups=batch * channels)
    return flat.view_as(images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel to the full range; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-6), images)


def equalise(images: Tensor) -> Tensor:
    """Equalise the histogram of every channel, over its 256 levels; a channel with too few pixels to step stays."""
    planes = images.flatten(0, 1).flatten(1) * 255  # (B * C, H * W)
    level = planes.long()
    counts = torch.zeros(len(planes), 256, device=images.device, dtype=torch.long)
    counts.scatter_add_(1, level, torch.ones_like(level))
    last = counts.ne(0).long().mul(torch.arange(256, device=images.device)).amax(1, keepdim=True)
    step = (counts.sum(1, keepdim=True) - counts.gather(1, last)).div(255, rounding_mode="floor")
    table = (counts.cumsum(1) + step // 2).div(step.clamp_min(1), rounding_mode="floor")
    table = F.pad(table[:, :-1], (1, 0)).clamp_(0, 255)  # a level takes what lies below it
    equal = torch.where(step == 0, planes, table.gather(1, level).to(images.dtype))
    return (equal / 255).view_as(images)


def sharpness(images: Tensor, factor: float) -> Tensor:
    """Away from a smoothed copy (above 1) or towards it (below); the outermost pixels have no copy and stay."""
    channels = images.shape[1]
    kernel = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]).div_(13)
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel.expand(channels, 1, 3, 3), groups=channels)
    return smooth.lerp_(images, factor).clamp_(0, 1)


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)
