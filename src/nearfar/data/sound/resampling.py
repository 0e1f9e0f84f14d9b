"""Another sample rate by a windowed sinc, for any two rates, in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nearfar.errors import at_least

ZEROS = 32
"""Zero crossings of the sinc on each side: how steep the filter is."""

PASSED = 0.92
"""Where the filter lets half through, as a share of the lower rate's Nyquist frequency."""

BETA = 8.6
"""Of the Kaiser window: what is stopped comes through at less than -80 dB."""

BLOCK = 1 << 14
"""Samples made at a time: their taps are held side by side."""


def resample(samples: Tensor, old: int, new: int) -> Tensor:
    """Samples at another rate, by a sinc under a Kaiser window, the ends taken as silence beyond.

    Frequencies up to 0.83 of the lower rate's Nyquist frequency keep their height within 0.1 %; what lies above that
    Nyquist frequency comes through at less than -80 dB.

    Args:
        samples: float `[T]`.
        old, new: the rates, in samples a second.

    Returns:
        float `[ceil(T new / old)]`, of the dtype of `samples`; sample n is at the time n / new.

    >>> resample(torch.ones(441), 44100, 16000).shape
    torch.Size([160])
    """
    at_least(1, old=old, new=new)
    if old == new or not len(samples):
        return samples
    shared = math.gcd(old, new)
    old, new = old // shared, new // shared
    count = -(-len(samples) * new // old)
    stretch = max(1.0, old / new)  # going down, the filter is as wide as the new samples lie apart
    reach = math.ceil(ZEROS * stretch)
    padded = torch.nn.functional.pad(samples, (reach, reach + 1))
    taps = padded.unfold(0, 2 * reach + 1, 1)  # a view: row n is centred on sample n
    weights = _weights(min(new, count), old, new, reach, stretch).to(samples)
    made = []
    for start in range(0, count, BLOCK):
        numbers = torch.arange(start, min(start + BLOCK, count))
        made.append((taps[numbers * old // new] * weights[numbers % new]).sum(1))
    return torch.cat(made)


def _weights(phases: int, old: int, new: int, reach: int, stretch: float) -> Tensor:
    """The filter of each phase `[phases, 2 reach + 1]`, float64: how far the sample that is made lies behind one that
    there is repeats after `new` of them."""
    behind = (torch.arange(phases, dtype=torch.float64) * old % new) / new
    distance = (torch.arange(-reach, reach + 1, dtype=torch.float64) - behind[:, None]) / stretch
    inside = (1 - (distance / ZEROS).square()).clamp_min(0)
    window = torch.special.i0(BETA * inside.sqrt()) / torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    window = torch.where(distance.abs() < ZEROS - 1e-9, window, 0.0)
    return torch.sinc(PASSED * distance) * window * (PASSED / stretch)
