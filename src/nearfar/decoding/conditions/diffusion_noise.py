"""Pictures drowned in noise, as forward diffusion does it: VCD's distorted picture (arXiv 2311.16922)."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from nearfar.errors import UserError

STEPS = 1000


def diffusion_noise(pixels: Tensor, step: int = 500, *, generator: torch.Generator | None = None) -> Tensor:
    """`signal x + noise eps` with eps from the normal distribution, in the dtype of `pixels`.

    Args:
        pixels: x, `[..., 3, S, S]`, floating point: normalised as the model reads them, and not colours from 0 to 1.
        step: of the 1000 of the diffusion, 0 to 999; 0 is nearly the picture, 999 nearly noise (paper: 500).
        generator: of eps, on the CPU; None: PyTorch's own state.

    Raises:
        UserError: a step out of its range.

    >>> noisy = diffusion_noise(torch.ones(1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    >>> round(noisy.mean().item(), 1), round(noisy.std().item(), 1)
    (0.9, 0.5)
    """
    signal, noise = noise_scales(step)
    epsilon = torch.randn(pixels.shape, generator=generator, dtype=pixels.dtype)
    return signal * pixels + noise * epsilon.to(pixels.device)


def noise_scales(step: int) -> tuple[float, float]:
    """What picture and noise are multiplied by: the roots of abar and 1 - abar, where abar is the product of 1 - beta
    up to this step and beta grows from 0.00001 to 0.005 along a sigmoid.

    >>> [round(scale, 5) for scale in noise_scales(500)]
    [0.86302, 0.50517]
    """
    if not 0 <= step < STEPS:
        raise UserError(f"step={step}: a step of the diffusion, from 0 to {STEPS - 1}")
    kept = _kept()[step]
    return kept**0.5, (1 - kept) ** 0.5


@cache
def _kept() -> list[float]:
    """abar of each step."""
    beta = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    return (1 - beta).cumprod(0).tolist()
