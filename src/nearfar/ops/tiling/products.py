"""Matrix products that keep the precision of their arguments wherever they are called."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """`a @ b.mT`, and its derivatives of any order, out of the reach of `torch.autocast`: logits at scale 100 keep one
    digit in half precision. Leading dimensions are a batch, and must be the same."""
    return _Product.apply(a, b)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with _no_autocast(a.device.type):
            return a @ b.mT

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (g,), (a, b) = upstream, ctx.saved_tensors
        want_a, want_b = ctx.needs_input_grad
        return product(g, b.mT) if want_a else None, product(g.mT, a.mT) if want_b else None


def _no_autocast(device_type: str) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
