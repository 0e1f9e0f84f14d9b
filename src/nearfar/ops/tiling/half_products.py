"""Products of tiles in bfloat16 under `torch.autocast`, where the processor multiplies it several times faster.

Vectors are rounded to bfloat16, sums are float32. `torch.mm` of bfloat16 rounds its result to eight bits, 0.25 at a
logit of 100; so of a logit what is rounded is its distance from where the weight of its row lies, and logits that count
are rounded by little. Gradients add each tile's product, rounded, in float32. The own pairs never pass through here:
they stay in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.machine import has_bfloat16

LEAST = 1 << 20  # pairs below which a loss takes milliseconds in float32 as well


def half_pays(q: Tensor, k: Tensor) -> bool:
    """Whether the tiles of `q` [N, D] and `k` [M, D], float32, are multiplied in bfloat16: under bfloat16 autocast, on
    a processor with instructions for it, where there are enough of them."""
    return (
        len(q) * len(k) >= LEAST
        and q.dtype == torch.float32
        and q.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and has_bfloat16()
    )


def centred_product(a: Tensor, b: Tensor, centres: Tensor, rounded: Tensor, *, out: Tensor) -> Tensor:
    """`a @ b` of bfloat16 [N, D] and [D, M] in `out`, float32 [N, M]; `rounded` is a bfloat16 buffer [N, M].

    What is rounded to eight bits is the distance from `centres` [N], so that a product keeps the more digits, the
    nearer to its row's centre it lies."""
    torch.addmm(centres.neg()[:, None].bfloat16(), a, b, out=rounded)
    return out.copy_(rounded).add_(centres[:, None])


def add_product(total: Tensor, a: Tensor, b: Tensor, rounded: Tensor, widened: Tensor, *, alpha: float) -> Tensor:
    """`total` [N, D] plus `alpha * a @ b` of bfloat16, in place; the product comes rounded. The last two are buffers
    [N, D], bfloat16 and float32: adding tensors of two types would ask for new memory, dearer than the sum."""
    torch.mm(a, b, out=rounded)
    return total.add_(widened.copy_(rounded), alpha=alpha)
