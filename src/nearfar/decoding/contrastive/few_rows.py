"""Products of a few rows with a layer's weights, shared out among threads on the CPU.

The k leaves of a step are a matrix of k rows. For `x W^T` with so few rows MKL keeps to one thread; the same product as
`(W x^T)^T` it splits over the rows of W.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_FEW = 8  # above it the usual order is as fast


def few_rows_linear(layer: nn.Linear, states: Tensor) -> Tensor:
    """`layer(states)` of any leading shape."""
    rows = states.numel() // states.shape[-1]
    if not 1 < rows <= _FEW:
        return nn.functional.linear(states, layer.weight, layer.bias)
    out = torch.mm(layer.weight, states.reshape(rows, -1).t()).t().contiguous().view(*states.shape[:-1], -1)
    return out if layer.bias is None else out + layer.bias


@contextmanager
def few_rows(model: Any) -> Iterator[None]:
    """Use `few_rows_linear` inside the block for the model's linear layers on the CPU, given threads to share it."""
    layers = [] if torch.get_num_threads() == 1 else [layer for layer in model.modules() if _is_plain(layer)]
    for layer in layers:
        layer.forward = partial(few_rows_linear, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_plain(layer: Any) -> bool:
    """A linear layer that nobody has changed, of a type that MKL multiplies."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return layer.weight.device.type == "cpu" and layer.weight.dtype in (torch.float32, torch.float64)
