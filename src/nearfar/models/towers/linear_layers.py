"""Which library multiplies in the linear layers of a model, in float32 on a CPU.

torch multiplies by MKL there, which leaves AVX-512 unused on processors that are not Intel's; oneDNN uses it. Its sums
run in another order and are as exact. On other processors it may take longer than MKL, so it is only used where it is
asked for: `benchmarks/product_libraries.py` times both. Convolutions are oneDNN's already, and so are linear layers
under bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.ops.tiling.float_products import LEAST, has_onednn, onednn_mm

Library = Literal["torch", "onednn"]


@contextmanager
def linear_layers(model: nn.Module, library: Library = "onednn") -> Iterator[None]:
    """Within this context `library` computes the linear layers (`nn.Linear`) of `model` in float32 on a CPU, and their
    gradients. Small products, other types, other devices, autocast and split weights stay torch's; so do layers whose
    `forward` is their own. Second derivatives are right, and torch's.

    Args:
        model: whose layers.
        library: "onednn", or "torch" for its own choice.

    Raises:
        UserError: no such library, or this torch was built without oneDNN.

    >>> layer, x = nn.Linear(512, 512), torch.randn(128, 512)
    >>> with linear_layers(layer, "onednn"):
    ...     y = layer(x)
    >>> torch.allclose(y, layer(x), atol=1e-5)
    True
    """
    lookup.check("library of linear layers", [library], ["torch", "onednn"])
    if library == "onednn" and not has_onednn():
        raise UserError("this torch has no oneDNN to compute linear layers: leave them to 'torch'")
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)] if library == "onednn" else []
    layers = [each for each in layers if type(each).forward is nn.Linear.forward and "forward" not in each.__dict__]
    for layer in layers:
        layer.__dict__["forward"] = partial(_forward, layer)  # which `nn.Module` looks for before that of the class
    try:
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    plain = all(type(each) in (Tensor, nn.Parameter) for each in (x, weight))  # and not split over processes
    single = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"
    if not (plain and single) or x.numel() * len(weight) < LEAST or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    rows: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
    return rows.unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    """`x W^T + b` of `x` [N, D] and `W` [M, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = onednn_mm(x, weight.t())
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,), (x, weight) = gradients, ctx.saved_tensors
        mm = torch.mm if torch.is_grad_enabled() else onednn_mm  # which has no derivative of its own
        want_x, want_weight, want_bias = ctx.needs_input_grad
        return (
            mm(g, weight) if want_x else None,
            mm(g.t(), x) if want_weight else None,
            g.sum(0) if want_bias else None,
        )
