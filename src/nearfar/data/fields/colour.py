"""Colour changes of whole batches: `[B, 3, H, W]` floats from 0 to 1, with one strength a picture, `[B]`.

What kornia does as fast as anyone is kornia's (blur, equalise, sharpness). Brightness, contrast, saturation and hue are
here because in place, and without the generic layer around them, they take a fraction of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, with a kernel of a tenth of the side (SimCLR's choice) and at least 3 pixels."""
    from kornia.filters import gaussian_blur2d

    width = max(3, images.shape[-1] // 10 | 1)
    return gaussian_blur2d(images, (width, width), sigma[:, None].expand(-1, 2), border_type="reflect")


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel to the full range; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-6), images)


def equalise(images: Tensor) -> Tensor:
    """Equalise the histogram of every channel."""
    from kornia.enhance import equalize

    return equalize(images)


def sharpness(images: Tensor, factor: float) -> Tensor:
    """Away from a smoothed copy (above 1) or towards it (below)."""
    from kornia.enhance import sharpness as sharpen

    return sharpen(images, factor)


def _each(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)
