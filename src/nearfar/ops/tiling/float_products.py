"""Products of tiles in float32, by the faster of the two libraries that torch brings for a CPU.

torch multiplies float32 by MKL, which leaves AVX-512 unused on processors that are not Intel's; oneDNN uses it. Sums
run in another order there, and are as exact. Where MKL has all of the processor, nothing changes.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from nearfar.errors import UserError
from nearfar.machine import once, processor, time_share

VARIABLE = "NEARFAR_PRODUCTS"
"""Environment variable: `torch` or `onednn` instead of what is chosen here, which is `auto`."""
LEAST = 1 << 24
"""Multiplications below which a product is torch's: what a call of oneDNN costs beyond them would show."""
SIDE, REPEATS, CLEARLY = 512, 9, 0.8
"""What is timed: products of this side, so many of each library, on one thread, as tiles are dealt to threads; oneDNN
has to take this share or less, for the choice to be the same in each process of a machine."""


def mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    """`a @ b` of [N, D] and [D, M] in `out` [N, M], never under autocast."""
    if _is_onednn(a, b):
        return out.copy_(onednn_mm(a, b))
    return torch.mm(a, b, out=out)


def add_mm(total: Tensor, a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    """`total` [N, M] plus `alpha * a @ b`, in place."""
    if _is_onednn(a, b):
        return total.add_(onednn_mm(a, b), alpha=alpha)
    return total.addmm_(a, b, alpha=alpha)


@once
def library() -> str:
    """Which library multiplies tiles in float32 on this machine's CPU: "torch" (its own choice) or "onednn".

    Raises:
        UserError: the environment variable `NEARFAR_PRODUCTS` is set to anything else than auto, torch or onednn.

    >>> library() in ("torch", "onednn")
    True
    """
    choice = os.environ.get(VARIABLE, "auto")
    if choice not in ("auto", "torch", "onednn"):
        raise UserError(f"{VARIABLE} is {choice!r} in the environment, but must be auto, torch or onednn")
    if choice == "auto":
        return "onednn" if has_onednn() and _mkl_leaves_half() and _onednn_is_faster() else "torch"
    return choice if has_onednn() else "torch"


def _is_onednn(a: Tensor, b: Tensor) -> bool:
    large = a.shape[0] * a.shape[1] * b.shape[1] >= LEAST
    return large and a.dtype == torch.float32 and a.device.type == "cpu" and library() == "onednn"


def onednn_mm(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b` of float32 [N, D] and [D, M], in memory of its own. The operator is the one that `torch.compile` puts in
    place of linear layers; with gaps between the rows of the second factor it falls back to plain loops."""
    b = b if b.is_contiguous() or b.t().is_contiguous() else b.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _mkl_leaves_half() -> bool:
    """Whether this is a processor with AVX-512 that MKL does not use it on, as it is not Intel's."""
    able = processor()
    return torch.backends.mkl.is_available() and bool(able.get("avx512_f")) and "AMD" in str(able.get("cpu_name"))


def _onednn_is_faster() -> bool:
    a, b, threads = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE), torch.get_num_threads()
    if threads > 1:  # a thread that computes alone leaves the number be: it is the default of later threads, too
        torch.set_num_threads(1)
    try:
        return time_share(lambda: onednn_mm(a, b), lambda: torch.mm(a, b), REPEATS) <= CLEARLY
    finally:
        if threads > 1:
            torch.set_num_threads(threads)
