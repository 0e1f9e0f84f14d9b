"""Products of a few rows with a layer's weights on the CPU, at nearly the price of one.

The k leaves of a step are a matrix of k rows. Where numba is installed, its kernels multiply them. Elsewhere they are
shared out among threads: for `x W^T` with so few rows MKL keeps to one, but `(W x^T)^T` it splits over the rows of W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.decoding.contrastive import row_kernels

WORTH_COMPILING = 32 << 20
"""Bytes of weights below which a model is too small for kernels, whose compilation takes a second or two."""
Product = Callable[[Tensor], Tensor]
"""`states @ weight.T` of `[..., D]`, a few rows in all, and of a layer's `[M, D]`: `[..., M]`."""


def reordered(weight: Tensor, states: Tensor) -> Tensor:
    """The product in the order that MKL shares out among threads."""
    out = torch.mm(weight, states.reshape(-1, states.shape[-1]).t()).t()
    return out.contiguous().view(*states.shape[:-1], len(weight))


def few_rows_linear(layer: nn.Linear, product: Product, states: Tensor) -> Tensor:
    """`layer(states)` of any leading shape, by `product` if it is of a few rows."""
    rows = states.numel() // layer.in_features
    if not 1 < rows <= row_kernels.MOST or torch.is_autocast_enabled("cpu"):  # a prompt has more
        return nn.functional.linear(states, layer.weight, layer.bias)
    out = product(states)
    return out if layer.bias is None else out + layer.bias


@contextmanager
def few_rows(model: Any, rows: int) -> Iterator[None]:
    """Inside the block, the model's linear layers on the CPU are set for so many `rows` a step. The head has one row a
    text."""
    layers = [layer for layer in model.modules() if _is_plain(layer)] if 1 < rows <= row_kernels.MOST else []
    exact = [layer for layer in layers if layer.weight.dtype == torch.float32 and layer.weight.is_contiguous()]
    large = sum(layer.weight.nbytes for layer in exact) >= WORTH_COMPILING
    products: dict[Any, Product] = {}
    if torch.get_num_threads() > 1:
        products = {layer: partial(reordered, layer.weight) for layer in layers}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # it starts those that it gets work for
        if large and row_kernels.has_numba():
            products |= {layer: row_kernels.RowProduct(layer.weight, threads) for layer in exact}
        for layer, product in products.items():
            layer.forward = partial(few_rows_linear, layer, product)
        try:
            yield
        finally:
            for layer in products:
                del layer.forward


def _is_plain(layer: Any) -> bool:
    """A linear layer that nobody has changed, of a type that MKL multiplies."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.float64)
