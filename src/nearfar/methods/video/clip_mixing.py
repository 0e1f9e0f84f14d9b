"""Mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899) of clips: all frames of a clip are mixed alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SWITCH = 0.5
"""The chance of cutmix where both are on (X-CLIP, arXiv 2208.02816)."""


def smoothed(label: Tensor, classes: int, smoothing: float) -> Tensor:
    """Targets `[B, K]` float32 of labels `[B]` int64: `1 - smoothing + smoothing / K` for the label, `smoothing / K`
    for each other class.

    >>> smoothed(torch.tensor([1]), 4, 0.1)
    tensor([[0.0250, 0.9250, 0.0250, 0.0250]])
    """
    return F.one_hot(label, classes).float() * (1 - smoothing) + smoothing / classes


def mixup(clips: Tensor, targets: Tensor, share: float, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Each clip and its partner's, as a weighted mean; so are their targets.

    Args:
        clips: `[B, T, C, H, W]`, floating point.
        targets: `[B, K]`, floating point.
        share: of the clip itself, from 0 to 1.
        partner: rows of the partners `[B]` int64.

    >>> targets = smoothed(torch.tensor([0, 2]), 4, 0.1)
    >>> mixup(torch.zeros(2, 1, 3, 2, 2), targets, 0.3, torch.tensor([1, 0]))[1][0]
    tensor([0.2950, 0.0250, 0.6550, 0.0250])
    """
    return share * clips + (1 - share) * clips[partner], share * targets + (1 - share) * targets[partner]


def cutmix(clips: Tensor, targets: Tensor, box: tuple[int, int, int, int], partner: Tensor) -> tuple[Tensor, Tensor]:
    """Each clip with a rectangle of its partner's, the same in all frames; targets by the areas.

    Args:
        clips: `[B, T, C, H, W]`, floating point.
        targets: `[B, K]`, floating point.
        box: left, top, right and bottom of the rectangle, in pixels.
        partner: rows of the partners `[B]` int64.

    >>> clips = torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 1, 1, 2, 2)
    >>> cutmix(clips, torch.eye(2), (0, 0, 1, 1), torch.tensor([1, 0]))[1]
    tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]])
    """
    left, top, right, bottom = box
    height, width = clips.shape[-2:]
    mixed = clips.clone()
    mixed[..., top:bottom, left:right] = clips[partner][..., top:bottom, left:right]
    share = 1 - (right - left) * (bottom - top) / (height * width)
    return mixed, share * targets + (1 - share) * targets[partner]


def mix_clips(clips: Tensor, targets: Tensor, *, mixup_alpha: float, cutmix_alpha: float) -> tuple[Tensor, Tensor]:
    """One of the two, drawn for the whole batch with torch's own random numbers, as X-CLIP trains.

    Args:
        clips: `[B, T, C, H, W]`, floating point.
        targets: `[B, K]`, floating point.
        mixup_alpha, cutmix_alpha: both numbers of the Beta distribution that shares are drawn from; 0 is without.

    Returns:
        Mixed clips and targets of the same shapes; the same tensors where both are 0.
    """
    if not (mixup_alpha or cutmix_alpha):
        return clips, targets
    cut = bool(cutmix_alpha) and (not mixup_alpha or torch.rand(()).item() < SWITCH)
    alpha = cutmix_alpha if cut else mixup_alpha
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    partner = torch.randperm(len(clips)).to(clips.device)
    if not cut:
        return mixup(clips, targets, share, partner)
    return cutmix(clips, targets, draw_box(share, *clips.shape[-2:]), partner)


def draw_box(share: float, height: int, width: int) -> tuple[int, int, int, int]:
    """A rectangle of about `1 - share` of the area around a random pixel, cut at the edges: its left, top, right and
    bottom in pixels, drawn with torch's own random numbers."""
    side = math.sqrt(1 - share)
    x, y = int(torch.randint(width, ()).item()), int(torch.randint(height, ()).item())
    half_x, half_y = int(width * side) // 2, int(height * side) // 2
    return max(x - half_x, 0), max(y - half_y, 0), min(x + half_x, width), min(y + half_y, height)
