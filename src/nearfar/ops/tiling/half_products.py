"""Products of tiles in bfloat16 under `torch.autocast`, where the processor multiplies it several times faster.

Vectors are rounded to bfloat16, sums are float32, and so are the logits: `torch.mm` of bfloat16 rounds its result to
eight bits, 0.25 at a logit of 100, so what it rounded away is computed by a second product and added. Gradients add
each tile's product, rounded, in float32. The own pairs never pass through here: they stay in float32.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from nearfar.ops.tiling.float_products import add_mm

STRIP = 64  # rows of a tile
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


@cache
def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by instructions of its own."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # which older releases of torch lack
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def wide_product(a: Tensor, b: Tensor, rounded: list[Tensor], *, out: Tensor) -> Tensor:
    """`a @ b` of bfloat16 [N, D] and [D, M] in `out`, float32 [N, M]; `rounded` are two bfloat16 buffers [N, M].

    The second product starts from minus the rounded first, so what it rounds is the first one's error."""
    most, rest = rounded
    torch.mm(a, b, out=most)
    torch.addmm(most, a, b, beta=-1, out=rest)
    for rows in range(0, len(out), STRIP):  # what is converted on the way stays in the cache
        strip = slice(rows, rows + STRIP)
        out[strip].copy_(most[strip]).add_(rest[strip])
    return out


def add_product(total: Tensor, a: Tensor, b: Tensor, alpha: float = 1.0) -> Tensor:
    """`total` [N, D] plus `alpha * a @ b`, in place; where `a` and `b` are bfloat16 their product comes rounded."""
    if a.dtype == total.dtype:
        return add_mm(total, a, b, alpha=alpha)
    return total.add_(a @ b, alpha=alpha)
